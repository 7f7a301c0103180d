"""tether in a loop around an ``Accelerator``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from tether.engine.attach import attach
from tether.engine.handle import Handle
from tether.method import Method


def attach_prepared(
    accelerator: Any, model: nn.Module, methods: Method | Iterable[Method], optimizer: Any = None,
    **options: Any,
) -> Handle:  # fmt: skip
    """Attach to what ``accelerator.prepare`` gave back.

    :func:`tether.attach` takes prepared models and optimisers as they are. This adds the loss
    scaler of float16, and puts the methods' state into ``accelerator.save_state`` and
    ``load_state``.

    Args:
        accelerator: the ``Accelerator``.
        model: the prepared model.
        methods: one method or several.
        optimizer: the prepared optimiser.
        options: further ones of :func:`tether.attach`.
    """
    options.setdefault("scaler", accelerator.scaler)
    handle = attach(model, methods, optimizer, **options)
    accelerator.register_for_checkpointing(handle)
    return handle
