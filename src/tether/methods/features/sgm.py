"""Squared gradient magnitude (Hariharan and Girshick, 2017): the head's gradient, kept small."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tether.catalogue import register
from tether.method import Method
from tether.methods.features.rows import check_choice, feature_rows
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context

REDUCTIONS = ("sample", "batch")


def sgm_penalty(
    features: Tensor, logits: Tensor, targets: Tensor, *, reduction: str = "sample"
) -> Tensor:
    """Squared norm of the cross-entropy gradient of a linear head, a sample or of the batch.

    With ``r_i = onehot(y_i) - softmax(logits_i)``: ``mean_i |r_i|² |f_i|²`` for ``"sample"``,
    ``|mean_i r_i f_iᵀ|²`` for ``"batch"``.

    Args:
        features: ``[N, d]``.
        logits: ``[N, K]``.
        targets: class indices ``[N]`` (negative: left out) or probabilities ``[N, K]``.
        reduction: ``"sample"`` or ``"batch"``.

    Example:
        >>> sgm_penalty(torch.tensor([[2.0]]), torch.zeros(1, 2), torch.tensor([0]))
        tensor(2.)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    rows, residual = feature_rows(features), -torch.softmax(feature_rows(logits), dim=1)
    count: int | Tensor = len(rows)
    if targets.is_floating_point():
        residual = residual + targets
    else:
        keep = (targets >= 0).to(residual.dtype)
        hit = torch.zeros_like(residual).scatter_(1, targets.clamp(min=0)[:, None], 1.0)
        residual = (residual + hit) * keep[:, None]
        count = keep.sum().clamp(min=1.0)
    if reduction == "sample":
        return (residual.square().sum(1) * rows.square().sum(1)).sum() / count
    # |sum r fᵀ|² = sum_ij (r_i . r_j)(f_i . f_j), without a matrix of the head's size
    return ((residual @ residual.T) * (rows @ rows.T)).sum() / count**2


@register(
    "sgm",
    kind="features",
    paper="arXiv:1606.02819",
    needs=("features", "class_labels"),
    cost="light",
    neutral={"weight": 0.0},
    losses=("cross_entropy",),
    search_space={"weight": ("log", 1e-4, 1.0)},
)
class SGMPenalty(Method):
    """Keeps the head's gradient small on every sample, so that features suit a new head.

    Helps when few samples must train the head: a representation on which its gradient is already
    small needs little of them. Hurts with wrong labels, which have the largest gradients and are
    fitted first; like a penalty on the norm it shrinks the features.

    ``R = mean_i |onehot(y_i) - p_i|² |f_i|²``, with gradient through both factors.

    Args:
        weight: 0 and more, default 0.02 (released code: 0.02 for a ResNet-10, 0.005 for a larger
            network, 5 for the batch form); schedulable.
        reduction: ``"sample"`` (default), or ``"batch"`` for the gradient of the whole batch.

    Shape:
        Features ``[N, d]``, logits ``[N, K]``.

    State:
        None.

    Cost:
        O(N (d + K)) a step, O(N² (d + K)) for the batch form.

    References:
        Bharath Hariharan, Ross Girshick. Low-shot Visual Recognition by Shrinking and
        Hallucinating Features. ICCV 2017, arXiv:1606.02819.

    Example:
        >>> SGMPenalty(reduction="batch", weight=5.0)
        SGMPenalty(weight=5.0, reduction='batch')
    """

    def __init__(self, weight: ScheduleLike = 0.02, reduction: str = "sample") -> None:
        check_choice("reduction", reduction, REDUCTIONS)
        self.weight = weight
        self.reduction = reduction

    def setup(self, ctx: Context) -> None:
        """Look whether anything below the head is trained."""

    def penalty(self, batch: Batch) -> Tensor:
        """Squared norm of the head's gradient."""
        features = batch.need_features()
        return sgm_penalty(features, batch.logits, batch.targets, reduction=self.reduction)
