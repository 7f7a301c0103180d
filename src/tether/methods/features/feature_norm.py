"""Feature norm penalty (Hariharan and Girshick, 2017): shrink the head's input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.catalogue import register
from tether.method import Method
from tether.methods.features.rows import (
    check_choice,
    feature_rows,
    mean_over_rows,
)
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context

REDUCTIONS = ("mean", "official")


def feature_norm_penalty(
    features: Tensor, *, reduction: str = "mean", mask: Tensor | None = None
) -> Tensor:
    """Mean squared feature: ``sum f² / (N d)``, or ``sum f² / (2 N)`` for ``"official"``.

    Args:
        features: ``[N, d]``; further dimensions are flattened.
        reduction: ``"mean"`` or ``"official"``; a weight w of the latter is ``w d / 2`` of the
            former.
        mask: bool ``[N]``, False for rows that do not count.

    Example:
        >>> feature_norm_penalty(torch.tensor([[1.0, 3.0]]))
        tensor(5.)
        >>> feature_norm_penalty(torch.tensor([[1.0, 3.0]]), reduction="official")
        tensor(5.)
    """
    check_choice("reduction", reduction, REDUCTIONS)
    squares = feature_rows(features).square()
    if reduction == "official":
        return 0.5 * mean_over_rows(squares, mask, sum_dim=True)
    return mean_over_rows(squares, mask)


@register(
    "feature_norm",
    kind="features",
    paper="arXiv:1606.02819",
    needs=("features",),
    cost="light",
    neutral={"weight": 0.0},
    pooling="mean",
    conflicts=("adarand", "randreg"),
    search_space={"weight": ("log", 1e-3, 10.0)},
)
class FeatureNormPenalty(Method):
    """Shrinks the features: adds their mean square to the loss.

    Helps with few labelled samples: a small input bounds what the linear head can fit. Hurts
    when it is strong: feature norm and spread collapse together, and with them the gradient that
    the head receives; does nothing where features are normalised to unit length.

    ``R = sum_i |f_i|² / (N d)``, gradient ``2 f / (N d)``; ``"official"``: ``R = sum_i |f_i|² /
    (2 N)``, gradient ``f / N``. A weight w of the official form is ``w d / 2`` of the mean form.

    Args:
        weight: 0 and more, default 1.0 with ``"mean"``; schedulable. The paper's released code
            uses 0.03 with the official form on a small ResNet. The scale of features differs
            between backbones: compare ``weight * R`` with the task loss.
        reduction: ``"mean"`` (default) or ``"official"``.

    Shape:
        Features ``[N, d]``; token features are averaged over valid tokens first.

    State:
        None; ``measure`` gives the mean feature norm of the last batch.

    Cost:
        O(N d) a step.

    References:
        Bharath Hariharan, Ross Girshick. Low-shot Visual Recognition by Shrinking and
        Hallucinating Features. ICCV 2017, arXiv:1606.02819.

    Example:
        >>> FeatureNormPenalty(weight="cosine(1.0, 0.0)")
        FeatureNormPenalty(weight='cosine(1.0, 0.0)')
    """

    def __init__(self, weight: ScheduleLike = 1.0, reduction: str = "mean") -> None:
        check_choice("reduction", reduction, REDUCTIONS)
        self.weight = weight
        self.reduction = reduction

    def setup(self, ctx: Context) -> None:
        """Look whether anything below the head is trained."""
        self.feature_norm = torch.zeros((), device=ctx.device)  # a diagnostic: not saved

    def penalty(self, batch: Batch) -> Tensor:
        """Mean square of the features of the rows that count."""
        features = batch.need_features()

        def write() -> None:
            self.feature_norm = batch.masked_mean(features.detach().norm(dim=1))

        self.ctx.defer(write)
        return feature_norm_penalty(features, reduction=self.reduction, mask=batch.mask)

    def measure(self) -> dict[str, Any]:
        """Mean norm of the features of the last batch."""
        return {"feature_norm": float(self.feature_norm)}
