"""Task losses: per sample and as a mean, for classes, multi-label, regression and tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

import torch.nn.functional as F
from torch import Tensor

from tether.errors import TetherError

IGNORE = -100
KINDS = ("cross_entropy", "binary_cross_entropy", "mse", "l1", "token_cross_entropy")
_ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
}
LossLike = Union[str, Callable[[Tensor, Tensor], Tensor]]


@dataclass(frozen=True)
class TaskLoss:
    """A loss that knows its unit (sample or token) and its mask (-100).

    Args:
        spec: ``"cross_entropy"`` (targets: class indices ``[N]`` or probabilities ``[N, K]``),
            ``"binary_cross_entropy"`` (0/1 or probabilities ``[N, K]``), ``"mse"``, ``"l1"``
            (``[N]`` or ``[N, D]``), ``"token_cross_entropy"`` (indices ``[N, T]``, -100 for
            positions that do not count), or a callable from (logits, targets) to ``[N]`` losses.
    """

    spec: LossLike

    def __post_init__(self) -> None:
        if not callable(self.spec) and self.spec not in KINDS:
            raise TetherError(f"loss {self.spec!r}: give a callable or one of {', '.join(KINDS)}")

    @property
    def kind(self) -> str:
        """Name of the loss, ``"custom"`` for a callable."""
        return self.spec if isinstance(self.spec, str) else "custom"

    # -- checks ----------------------------------------------------------------------------------

    def check(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Targets in the shape the loss needs; one clear error where they cannot be."""
        if not isinstance(targets, Tensor):
            raise TetherError(f"targets must be a tensor, not {type(targets).__name__}")
        if self.kind == "cross_entropy":
            return self._check_classes(logits, targets)
        if self.kind == "token_cross_entropy":
            if logits.ndim != 3 or targets.shape != logits.shape[:2]:
                raise TetherError(
                    f"token_cross_entropy takes logits [N, T, K] and targets [N, T], not "
                    f"{tuple(logits.shape)} and {tuple(targets.shape)}"
                )
            return _check_range(targets, logits.shape[-1])
        if self.kind in ("mse", "l1", "binary_cross_entropy"):
            if targets.shape != logits.shape:
                if targets.numel() != logits.numel() or targets.shape[0] != logits.shape[0]:
                    raise TetherError(
                        f"{self.kind} takes targets of the logits' shape {tuple(logits.shape)}, "
                        f"not {tuple(targets.shape)}"
                    )
                targets = targets.reshape(logits.shape)
            return targets.to(logits.dtype)
        return targets

    def _check_classes(self, logits: Tensor, targets: Tensor) -> Tensor:
        if logits.ndim != 2:
            raise TetherError(f"cross_entropy takes logits [N, K], not {tuple(logits.shape)}")
        if targets.is_floating_point():
            if targets.shape != logits.shape:
                raise TetherError(
                    f"cross_entropy got float targets of shape {tuple(targets.shape)}: give class "
                    f"indices (int64, shape [{logits.shape[0]}]) or probabilities of shape "
                    f"{tuple(logits.shape)}; for numbers use loss='mse'"
                )
            return targets.to(logits.dtype)
        if targets.shape != logits.shape[:1]:
            raise TetherError(
                f"cross_entropy takes one label a row: {logits.shape[0]} rows of logits, labels of "
                f"shape {tuple(targets.shape)}"
            )
        return _check_range(targets, logits.shape[1])

    # -- values ----------------------------------------------------------------------------------

    def per_sample(self, logits: Tensor, targets: Tensor) -> Tensor:
        """One loss a sample, ``[N]``; 0 for rows that do not count; tokens are averaged."""
        if not isinstance(self.spec, str):
            losses: Tensor = self.spec(logits, targets)
            if losses.shape != logits.shape[:1]:
                raise TetherError(f"the loss callable must give [N] losses, not {losses.shape}")
            return losses
        if self.kind == "cross_entropy":
            return F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORE)
        if self.kind == "token_cross_entropy":
            tokens = F.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORE
            ).view(targets.shape)
            return tokens.sum(1) / (targets != IGNORE).sum(1).clamp(min=1)
        losses = _ELEMENTWISE[self.kind](logits, targets, reduction="none")
        return losses.reshape(losses.shape[0], -1).mean(1)

    def mean(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean over the items that count, by the same kernel as a plain loop would use."""
        if self.kind == "cross_entropy":
            return F.cross_entropy(logits, targets, ignore_index=IGNORE)
        if self.kind == "token_cross_entropy":
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        if self.kind in _ELEMENTWISE:
            return _ELEMENTWISE[self.kind](logits, targets)
        return self.per_sample(logits, targets).mean()

    def valid_tokens(self, targets: Tensor) -> Tensor | None:
        """Positions that count ``[N, T]`` of a token loss; None for losses on samples."""
        return targets != IGNORE if self.kind == "token_cross_entropy" else None

    def row_items(self, targets: Tensor) -> Tensor | None:
        """Items of each row ``[N]``: tokens that count, or 1 and 0; None when each row is one."""
        if self.kind == "token_cross_entropy":
            return (targets != IGNORE).sum(1).float()
        mask = self.row_mask(targets)
        return None if mask is None else mask.float()

    def row_mask(self, targets: Tensor) -> Tensor | None:
        """Rows that count ``[N]``; None when all do (known on the CPU without waiting)."""
        if targets.is_floating_point() or self.kind not in ("cross_entropy", "token_cross_entropy"):
            return None
        keep = targets != IGNORE
        mask = keep if keep.ndim == 1 else keep.any(dim=1)
        return None if mask.device.type == "cpu" and mask.numpy().all() else mask

    def items(self, targets: Tensor) -> Tensor | int:
        """How many items (samples, or tokens) the mean is over."""
        if (
            self.kind in ("cross_entropy", "token_cross_entropy")
            and not targets.is_floating_point()
        ):
            if targets.device.type == "cpu":
                return int((targets.numpy() != IGNORE).sum())
            return (targets != IGNORE).sum()
        return targets.shape[0]


def _check_range(targets: Tensor, num_classes: int) -> Tensor:
    if targets.is_floating_point() or targets.is_complex():
        raise TetherError(f"labels are class indices of an integer type, not {targets.dtype}")
    if targets.device.type == "cpu" and targets.numel():  # a device is not waited for
        values = targets.detach().numpy()
        bad = (values != IGNORE) & ((values < 0) | (values >= num_classes))
        if bad.any():
            raise TetherError(
                f"label {values[bad][0]} is out of range: the model has {num_classes} outputs "
                f"(labels 0 to {num_classes - 1}, {IGNORE} for rows that do not count)"
            )
    return targets.long()
