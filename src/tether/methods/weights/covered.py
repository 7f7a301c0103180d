"""Which parameters a method on weights covers, and pieces of them that stay in the cache."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from tether.errors import TetherError
from tether.words import nearest

if TYPE_CHECKING:
    from tether.engine.context import Context
    from tether.engine.layers import WeightRef

#: Elements of a piece on the CPU: several element-by-element passes over it cost one of memory.
_PIECE = 1 << 16
Include = Sequence[str] | str | None


def covered(ctx: Context, include: Include = None, *, head: bool = False) -> list[WeightRef]:
    """Parameters that ``include`` names; by default all kernels, those of the head left out.

    Args:
        ctx: the engine's view.
        include: wildcards of parameter names, one or several; None: the kernels.
        head: whether None takes the head's kernels, too.

    Raises:
        TetherError: a wildcard that fits no parameter, or nothing is left.
    """
    refs = list(ctx.weights())
    if include is None:
        found = [ref for ref in refs if ref.role == "weight" and (head or not ref.is_head)]
    else:
        patterns = [include] if isinstance(include, str) else list(include)
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(ref.name, pattern) for ref in refs):
                names = [ref.name for ref in refs]
                raise TetherError(
                    f"{ctx.name}: include names {pattern!r}, but no parameter is called so"
                    f"{nearest(pattern, names, most=3)}"
                )
        found = [r for r in refs if any(fnmatch.fnmatchcase(r.name, p) for p in patterns)]
    if not found:
        raise TetherError(
            f"{ctx.name}: no weights to act on below the head; name parameters with include=[...]"
        )
    return found


def pieces(*tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """The same pieces of several tensors of one shape, which share their memory; None stays."""
    known = [tensor for tensor in tensors if tensor is not None]
    first = known[0]
    flat = all(tensor.is_contiguous() for tensor in known)
    if first.device.type != "cpu" or first.numel() <= _PIECE or not flat:
        yield tensors
        return
    rows = [None if t is None else t.view(-1) for t in tensors]
    for at in range(0, first.numel(), _PIECE):
        yield tuple(None if row is None else row[at : at + _PIECE] for row in rows)
