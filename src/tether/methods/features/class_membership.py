"""To which classes a sample belongs: indices, probabilities, several labels, binned numbers.

Two forms reach the formulas: class indices ``[N]`` (int64; negative: the row does not count) and
class weights ``[N, K]`` (float; a row of zeros does not count).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context


def quantile_edges(targets: Tensor, num_bins: int) -> Tensor:
    """Inner edges that cut numbers into at most ``num_bins`` bins of about equal size.

    Edges are values of the data other than the least, so that no bin is empty; equal values share
    a bin. The bin of y is the number of edges at or below y.

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
    size = len(values)
    places = torch.arange(1, num_bins, device=values.device) * size // num_bins
    # a cut inside a run of equal values goes to the nearer end of the run
    first = torch.searchsorted(values, values[places])
    last = torch.searchsorted(values, values[places], right=True)
    keep_first = (first > 0) & ((places - first <= last - places) | (last == size))
    cuts = torch.where(keep_first, first, last)
    edges: Tensor = torch.unique(values[cuts[cuts < size]])
    return edges


class Membership:
    """Reads the classes of a batch, by the kind of its loss.

    Class indices and probabilities are taken as they are; of binary cross-entropy, a 0/1 matrix
    gives several classes a sample, and a single column two classes; numbers fall into bins.

    Args:
        ctx: of the method that asks.
        num_bins: at most so many bins for regression targets.
    """

    def __init__(self, ctx: Context, num_bins: int) -> None:
        self.edges: Tensor | None = None
        self.binary = ctx.loss_kind == "binary_cross_entropy"
        if ctx.loss_kind in ("mse", "l1"):
            self.edges = quantile_edges(ctx.training_targets().to(ctx.device), num_bins)
            self.num_classes = len(self.edges) + 1
        else:
            self.num_classes = ctx.num_classes
            if self.binary and self.num_classes == 1:
                self.num_classes = 2

    def of(self, batch: Batch) -> Tensor:
        """Class indices ``[N]`` or class weights ``[N, K]`` of the rows that count."""
        targets = batch.targets
        if self.edges is not None:
            targets = torch.bucketize(
                targets.reshape(-1).to(self.edges.dtype), self.edges, right=True
            )
        elif self.binary:
            targets = targets.float()
            if targets.numel() == targets.shape[0]:
                targets = targets.reshape(-1, 1)
                targets = torch.cat([1.0 - targets, targets], dim=1)
        elif not targets.is_floating_point():
            targets = targets.long()
        elif targets.ndim == 1:
            raise TetherError(
                "the targets are numbers and the loss does not say what they mean: use "
                "loss='mse' or 'l1', whose classes are quantile bins"
            )
        if batch.mask is None:
            return targets
        if targets.is_floating_point():
            return targets.masked_fill(~batch.mask[:, None], 0.0)
        return targets.masked_fill(~batch.mask, -1)


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
