"""tether in a loop around an ``Accelerator``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from torch import nn

from tether.engine.attach import attach
from tether.engine.handle import Handle
from tether.engine.reference import is_sharded
from tether.errors import TetherError
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

    Raises:
        TetherError: FSDP was asked for, and no parameter is sharded.
    """
    # accelerate forgets the plugin where it does not serve the device, but not the variable
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and not any(is_sharded(parameter) for parameter in model.parameters()):
        raise TetherError(
            "FSDP was asked for and no parameter is sharded: it needs an accelerator and FSDP2 "
            "(fsdp_version=2); on the CPU call torch's fully_shard yourself, then tether.attach"
        )
    options.setdefault("scaler", accelerator.scaler)
    handle = attach(model, methods, optimizer, **options)
    accelerator.register_for_checkpointing(handle)
    return handle
