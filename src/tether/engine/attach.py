"""``attach``: bind methods to a model and an optimiser, in anybody's loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tether.engine.handle import Handle
from tether.engine.order import arrange, overrides
from tether.engine.reference import unwrap
from tether.engine.taps import find_head
from tether.errors import TetherError
from tether.losses import LossLike
from tether.method import Method


def prepare(
    model: nn.Module, methods: Method | Iterable[Method], *, head: str | None = None
) -> nn.Module:
    """Let methods change the model: swap layers, add adapters, freeze.

    Once, before the optimiser is made and before DDP, ``fully_shard`` or ``torch.compile``.
    Methods that only train need no preparation. Returns the model.

    Args:
        model: the model.
        methods: those that will be attached.
        head: name of the last linear layer, where it cannot be found; as in :func:`attach`.
    """
    for method in arrange(methods).values():
        if overrides(method, "prepare"):
            method.head_name = _head_name(unwrap(model), head)
            method.prepare(unwrap(model))
            method.__dict__["_prepared"] = True
    return model


def _head_name(model: nn.Module, given: str | None) -> str | None:
    try:
        return find_head(model, given, None)[0]
    except TetherError:
        if given is not None:
            raise
        return None


def attach(
    model: nn.Module,
    methods: Method | Iterable[Method],
    optimizer: Any = None,
    *,
    train_data: Any = None,
    valid_data: Any = None,
    num_classes: int | None = None,
    epochs: float | None = None,
    total_steps: int | None = None,
    loss: LossLike = "cross_entropy",
    head: str | None = None,
    source_head: nn.Module | None = None,
    seed: int = 0,
    scaler: Any = None,
    reference_device: torch.device | str | None = None,
    nan_check: str | None = None,
) -> Handle:
    """Bind methods to a model and an optimiser; returns the handle whose ``loss`` a loop calls.

    Attach after DDP, ``fully_shard`` and the optimiser, and before a checkpoint is loaded into
    the model: what the model holds now is taken for the pretrained weights w0.

    Args:
        model: the model, also wrapped in DDP or ``torch.compile``, also sharded by
            ``fully_shard``. A compiled model must not have been called yet where a method reads
            features.
        methods: one method or several, in any order.
        optimizer: the optimiser; None where it is made later (``handle.bind(optimizer)``).
        train_data: the training set (or a loader over it), best under evaluation transforms:
            for the statistics pass and for methods that keep a table of samples.
        valid_data: validation data, for methods that ask for them.
        num_classes: number of classes; default: outputs of the head.
        epochs: length of training in epochs, for schedules.
        total_steps: length of training in optimiser updates, for schedules.
        loss: ``"cross_entropy"``, ``"binary_cross_entropy"``, ``"mse"``, ``"l1"``,
            ``"token_cross_entropy"``, or a callable from (logits, targets) to ``[N]`` losses.
        head: name of the last linear layer, where it cannot be found.
        source_head: the discarded head of the pretrained model, for methods that ask for it.
        seed: seed of the methods' random numbers.
        scaler: the ``GradScaler``, needed only by methods with modules of their own that get
            gradients of a float16 loss.
        reference_device: where to keep w0; default: where the parameters are.
        nan_check: ``"step"`` looks at every part of the loss in every step, ``"log"`` when
            ``parts`` is read or an epoch ends; default: ``"step"`` on the CPU, else ``"log"``.

    Raises:
        TetherError: something is missing, contradictory, or attached already; nothing is changed.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> from tether import L2SP
        >>> with attach(model, L2SP(weight=0.1), optimizer) as reg:
        ...     loss = reg.loss(model(torch.zeros(2, 4)), torch.tensor([0, 2]))
        ...     loss.backward()
        ...     optimizer.step()
        >>> sorted(reg.parts)
        ['task']
    """
    handle = Handle(
        model, arrange(methods), train_data=train_data, valid_data=valid_data,
        num_classes=num_classes, epochs=epochs, total_steps=total_steps, loss=loss, head=head,
        source_head=source_head, seed=seed, scaler=scaler, reference_device=reference_device,
        nan_check=nan_check,
    )  # fmt: skip
    try:
        handle.set_up()
        if optimizer is not None:
            handle.bind(optimizer)
    except BaseException:
        handle.detach()
        raise
    return handle
