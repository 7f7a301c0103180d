"""Mixup and CutMix as functions of a batch, and the cross-entropy with what they make."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.losses import IGNORE
from tether.methods.inputs.mixing import cutmix_box, mix_rows, mixing_ratio, partners, paste
from tether.methods.matching import soft_cross_entropy


class MixedTarget(NamedTuple):
    """Targets of mixed rows: ``y_a`` with the share ``lam``, ``y_b`` with the rest."""

    y_a: Tensor
    y_b: Tensor
    lam: Tensor


def mixup(
    inputs: Tensor, targets: Tensor, alpha: float, *, generator: torch.Generator | None = None
) -> tuple[Tensor, MixedTarget]:
    """Blend each row with another, one ratio a batch.

    Args:
        inputs: numbers ``[N, ...]``.
        targets: ``[N, ...]``; see :func:`mixup_cross_entropy`.
        alpha: of the Beta distribution, above 0.
        generator: of random numbers, on the inputs' device.

    Example:
        >>> x, target = mixup(torch.eye(3), torch.arange(3), 0.2)
        >>> x.shape, sorted(target.y_b.tolist())
        (torch.Size([3, 3]), [0, 1, 2])
    """
    lam = mixing_ratio(alpha, generator=generator, device=inputs.device)
    rows = partners(len(inputs), generator=generator, device=inputs.device)
    target = MixedTarget(targets, targets[rows.to(targets.device)], lam.to(targets.device))
    return mix_rows(inputs, rows, lam), target


def cutmix(
    inputs: Tensor, targets: Tensor, alpha: float, *, generator: torch.Generator | None = None
) -> tuple[Tensor, MixedTarget]:
    """Paste a box of another image into each, the same box in the whole batch.

    Args:
        inputs: images ``[N, C, H, W]``.
        targets: ``[N, ...]``.
        alpha: of the Beta distribution that the share outside the box is drawn from.
        generator: of random numbers, on the inputs' device.

    Returns:
        The images, and targets whose ``lam`` is the share of pixels that were kept.
    """
    lam = mixing_ratio(alpha, generator=generator, device=inputs.device)
    rows = partners(len(inputs), generator=generator, device=inputs.device, others=True)
    height, width = inputs.shape[-2:]
    box, kept = cutmix_box(height, width, lam, generator=generator, device=inputs.device)
    target = MixedTarget(targets, targets[rows.to(targets.device)], kept.to(targets.device))
    return paste(inputs, rows, box), target


def mixup_cross_entropy(logits: Tensor, target: MixedTarget) -> Tensor:
    """Mean of ``lam CE(z, y_a) + (1 - lam) CE(z, y_b)``; classes as indices or probabilities.

    Example:
        >>> target = MixedTarget(torch.tensor([0]), torch.tensor([1]), torch.tensor(0.5))
        >>> mixup_cross_entropy(torch.zeros(1, 2), target)
        tensor(0.6931)
    """
    first, second = (
        soft_cross_entropy(logits, y)
        if y.is_floating_point()
        else F.cross_entropy(logits, y, reduction="none", ignore_index=IGNORE)
        for y in (target.y_a, target.y_b)
    )
    return (target.lam * first + (1.0 - target.lam) * second).mean()
