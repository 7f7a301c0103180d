"""What the integrations share: one binding, one horizon, and the loss that a model makes itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from tether.engine.handle import Handle
from tether.engine.hooks import unwrap_optimizer
from tether.engine.order import arrange, overrides
from tether.engine.taps import as_logits, width
from tether.errors import TetherError
from tether.method import Method


def as_list(methods: Method | Iterable[Method]) -> list[Method]:
    """One method or several, as a list."""
    return [methods] if isinstance(methods, Method) else list(methods)


def bind_once(handle: Handle, optimizer: Any, scaler: Any = None) -> None:
    """Bind an optimiser, in place of another one of an earlier run where there is one."""
    if handle.seam.optimizer is unwrap_optimizer(optimizer):
        return
    handle.auxiliaries.unbind(handle.seam.optimizer)
    handle.seam.remove()
    handle.bind(optimizer, scaler)


def set_horizon(handle: Handle, total_steps: float) -> None:
    """Let schedules run over the framework's number of updates, where that is known."""
    if 0 < total_steps < float("inf"):
        handle.total_steps = int(total_steps)


def begin_anew(handle: Handle) -> None:
    """Count from zero where a trained handle meets a run that is not resumed."""
    if handle.step > 0:
        warnings.warn("training begins again: the methods keep their state and w0", stacklevel=3)
        handle.step = handle.stream.epoch = 0
        handle.stream.open = False


def refuse(arranged: Mapping[str, Method], moments: Iterable[str], remedy: str) -> None:
    """Raise where a method acts at a moment that this seam does not reach.

    Raises:
        TetherError: names the method and the remedy.
    """
    for name, method in arranged.items():
        for moment in moments:
            if overrides(method, moment):
                raise TetherError(f"method {name!r} acts in {moment}: {remedy}")


def _head_width(handle: Handle) -> int:
    try:
        return width(handle.need_head("loss")[1], "out") or 1
    except TetherError:
        return 1


class ModelLoss:
    """Stands for the task loss where the model makes its own; methods then act on the rest.

    Methods that relabel or weigh samples, replace the loss, or read targets have nothing to act
    on, and are refused.

    Raises:
        TetherError: names the method that needs what the model's own loss does not show.
    """

    def __init__(self, methods: Method | Iterable[Method]) -> None:
        self.value: Tensor | None = None
        remedy = (
            "the model's own loss shows no losses or targets of samples; give "
            'loss="cross_entropy" or another loss of tether in place of loss="model"'
        )
        moments = ("transform_batch", "transform_targets", "sample_loss", "weight_samples")
        arranged = arrange(methods)
        refuse(arranged, moments, remedy)
        for name, method in arranged.items():
            if "class_labels" in method.info.needs or method.info.losses:
                raise TetherError(f"method {name!r} reads the targets: {remedy}")

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The model's loss once a row, so that its mean is that loss."""
        assert self.value is not None
        return self.value.expand(logits.shape[0])

    def with_penalties(self, handle: Handle, loss: Tensor, outputs: Any, **known: Any) -> Tensor:
        """The model's loss and the penalties of the methods.

        Args:
            handle: attached with this object as its loss.
            loss: the scalar that the model made.
            outputs: the model's output.
            known: ``index``, and whatever else ``Handle.loss`` takes.
        """
        try:
            rows = as_logits(outputs)
        except TetherError:  # several outputs, none called logits: a row that only has a width
            rows = loss
        if rows.ndim == 0:
            rows = loss.expand(1, _head_width(handle))
        self.value = loss
        try:
            return handle.loss(rows, rows.detach(), **known)
        finally:
            self.value = None
