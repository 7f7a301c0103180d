"""Which models are attached, and the ranges that a profiler sees."""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.autograd import _profiler_enabled  # type: ignore[attr-defined]
from torch.profiler import record_function

if TYPE_CHECKING:
    from tether.engine.handle import Handle

#: The handle of each model, at most one. Both sides are weak: neither keeps the other alive.
_ATTACHED: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Handle]] = weakref.WeakKeyDictionary()


def remember(handle: Handle) -> None:
    _ATTACHED[handle.inner] = weakref.ref(handle)


def forget(handle: Handle) -> None:
    _ATTACHED.pop(handle.inner, None)


def span(name: str) -> AbstractContextManager[Any]:
    """A range of this name where a profiler looks on; otherwise nothing (a range costs 50 us)."""
    return record_function(name) if _profiler_enabled() else nullcontext()


def attached_to(model: nn.Module) -> Handle | None:
    """The live handle of an inner model."""
    found = _ATTACHED.get(model)
    return None if found is None else found()
