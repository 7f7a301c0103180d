"""To which classes a sample belongs: indices, probabilities, several labels, binned numbers.

Two forms reach the formulas: class indices ``[N]`` (int64; negative: the row does not count) and
class weights ``[N, K]`` (float; a row of zeros does not count).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tether.errors import TetherError


def quantile_edges(targets: Tensor, num_bins: int) -> Tensor:
    """Inner edges that cut numbers into at most ``num_bins`` bins of about equal size.

    Edges are values of the data, so that no bin is empty; where values repeat, bins merge. The
    bin of y is the number of edges at or below y.

    Example:
        >>> quantile_edges(torch.tensor([3.0, 1.0, 2.0, 4.0]), 2)
        tensor([3.])
        >>> quantile_edges(torch.tensor([1.0, 1.0, 1.0, 4.0]), 3)
        tensor([4.])
    """
    if targets.numel() != targets.shape[0]:
        raise TetherError(
            f"classes of numbers are quantile bins of one target a sample, but the targets have "
            f"the shape {tuple(targets.shape)}: regression with several outputs has no such bins"
        )
    values = targets.flatten().float().sort().values
    places = torch.arange(1, num_bins, device=values.device) * len(values) // num_bins
    edges = values[places].unique()
    return edges[edges > values[0]]


def class_membership(targets: Tensor, loss_kind: str, edges: Tensor | None = None) -> Tensor:
    """Targets of a loss as class indices or class weights.

    Args:
        targets: as the loss takes them, or as the data give them.
        loss_kind: name of the loss; one column of ``"binary_cross_entropy"`` are two classes.
        edges: of the bins of a regression target, from :func:`quantile_edges`.
    """
    if edges is not None:
        return torch.bucketize(targets.reshape(-1).to(edges.dtype), edges, right=True)
    if loss_kind != "binary_cross_entropy":
        return targets if targets.is_floating_point() else targets.long()
    weights = targets.float()
    if weights.numel() == weights.shape[0]:
        positive = weights.reshape(-1, 1)
        return torch.cat([1.0 - positive, positive], dim=1)
    return weights


def leave_out(targets: Tensor, mask: Tensor | None) -> Tensor:
    """The same membership without the rows where ``mask`` is False."""
    if mask is None:
        return targets
    if targets.is_floating_point():
        return targets.masked_fill(~mask[:, None], 0.0)
    return targets.masked_fill(~mask, -1)


def pick_classes(
    targets: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """One class a row, drawn by its weight, and whether the row counts; no wait for the device.

    Weights are shares of their row: the argmax of weight / Exp(1) has just this distribution.
    """
    if not targets.is_floating_point():
        return targets.clamp(min=0), targets >= 0
    race = torch.empty_like(targets).exponential_(generator=generator)
    race.clamp_(min=torch.finfo(race.dtype).tiny)
    return (targets / race).argmax(dim=1), (targets > 0).any(dim=1)


def add_class_sums(sums: Tensor, counts: Tensor, features: Tensor, targets: Tensor) -> None:
    """Add rows ``[N, d]`` to the sums ``[K, d]`` and weights ``[K]`` of their classes, in place."""
    if targets.is_floating_point():
        weights = targets.to(sums.dtype)
        sums.addmm_(weights.T, features.to(sums.dtype))
        counts.add_(weights.sum(0))
        return
    keep = (targets >= 0).to(sums.dtype)
    classes = targets.clamp(min=0)
    sums.index_add_(0, classes, features.to(sums.dtype) * keep[:, None])
    counts.index_add_(0, classes, keep)
