"""Means and deviations of features by class, gathered in one pass and merged across ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Numbers of one chunk of (sample, class) pairs; bounds the memory of dense class weights.
_CHUNK = 1 << 22
MIN_STD = 1e-6


class ClassMoments:
    """Weighted mean and variance of feature rows for every class, kept in float64.

    Batches are merged by the pairwise update of Chan, Golub and LeVeque, which does not lose
    digits where the mean is far from zero. Work and memory of an update follow the classes that
    are present; nothing loops over classes.

    Args:
        num_classes: K.
        num_features: d.
        device: where the sums are kept.
        extremes: keep class minima and maxima, too.

    State: ``weight`` and ``square_weight`` ``[K]`` (sums of the weights and of their squares),
    ``mean`` and ``scatter`` ``[K, d]`` (sums of squared deviations), ``low`` and ``high``.
    """

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        device: torch.device | str = "cpu",
        *,
        extremes: bool = False,
    ) -> None:
        wide = torch.float32 if torch.device(device).type == "mps" else torch.float64
        shape = (num_classes, num_features)
        self.weight = torch.zeros(num_classes, dtype=wide, device=device)
        self.square_weight = torch.zeros_like(self.weight)
        self.mean = torch.zeros(shape, dtype=wide, device=device)
        self.scatter = torch.zeros_like(self.mean)
        self.low = self.high = None
        if extremes:
            self.low = torch.full_like(self.mean, torch.inf)
            self.high = torch.full_like(self.mean, -torch.inf)

    @torch.no_grad()
    def update(self, features: Tensor, targets: Tensor) -> None:
        """Take in rows ``[N, d]`` of class indices ``[N]`` or class weights ``[N, K]``.

        Negative indices and zero weights leave a row out.
        """
        if targets.is_floating_point():
            rows, classes = targets.nonzero(as_tuple=True)
            weights = targets[rows, classes]
        else:
            rows = (targets >= 0).nonzero().squeeze(1)
            classes = targets[rows]
            weights = torch.ones_like(classes)
        step = max(1, _CHUNK // max(1, features.shape[1]))
        for at in range(0, len(rows), step):
            part = slice(at, at + step)
            self._take(features[rows[part]], classes[part], weights[part])

    def _take(self, features: Tensor, classes: Tensor, weights: Tensor) -> None:
        values, share = features.to(self.mean.dtype), weights.to(self.mean.dtype)
        present, place = torch.unique(classes, return_inverse=True)
        weight = share.new_zeros(len(present)).index_add_(0, place, share)
        square = share.new_zeros(len(present)).index_add_(0, place, share.square())
        empty = values.new_zeros(len(present), values.shape[1])
        mean = empty.index_add(0, place, values * share[:, None]) / weight[:, None]
        apart = (values - mean[place]).square_().mul_(share[:, None])
        scatter = empty.index_add(0, place, apart)

        before = self.weight[present]
        part = (weight / (before + weight))[:, None]
        moved = mean - self.mean[present]
        self.mean[present] += moved * part
        self.scatter[present] += scatter + moved.square() * part * before[:, None]
        self.weight[present] += weight
        self.square_weight[present] += square
        if self.low is not None and self.high is not None:
            where = classes[:, None].expand_as(values)
            self.low.scatter_reduce_(0, where, values, "amin")
            self.high.scatter_reduce_(0, where, values, "amax")

    def merged(self, all_reduce: Callable[..., Tensor]) -> ClassMoments:
        """Merge the parts of all ranks, in place; every rank gets the same numbers.

        Args:
            all_reduce: ``all_reduce(tensor, op)`` reduces in place over the ranks and returns the
                tensor; ``op`` is ``"sum"``, ``"min"`` or ``"max"``.
        """
        own = self.weight.clone()
        all_reduce(self.weight, "sum")
        all_reduce(self.square_weight, "sum")
        total = self.weight.clamp(min=torch.finfo(own.dtype).tiny)[:, None]
        mean = all_reduce(self.mean * own[:, None], "sum") / total
        self.scatter += (self.mean - mean).square() * own[:, None]
        self.mean = mean
        all_reduce(self.scatter, "sum")
        if self.low is not None and self.high is not None:
            all_reduce(self.low, "min")
            all_reduce(self.high, "max")
        return self

    def std(self, floor: float = MIN_STD) -> Tensor:
        """Unbiased deviations ``[K, d]``, at least ``floor``.

        With weights w the variance is ``scatter / (W - sum w² / W)``: n - 1 for whole samples. A
        class of a single sample has none and gets the root of the other classes' mean variance.
        """
        tiny = torch.finfo(self.weight.dtype).tiny
        freedom = self.weight - self.square_weight / self.weight.clamp(min=tiny)
        known = (freedom > 1e-9)[:, None]
        variance = torch.where(known, self.scatter / freedom.clamp(min=1e-9)[:, None], 0.0)
        pooled = variance.sum(0) / known.sum().clamp(min=1)
        return torch.where(known, variance, pooled).sqrt().clamp(min=floor)


def class_feature_statistics(
    features: Tensor, targets: Tensor, num_classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Means, unbiased standard deviations and sample counts of features by class.

    Args:
        features: ``[N, d]``.
        targets: class indices ``[N]`` (negative: left out) or class weights ``[N, K]``
            (probabilities, or a 0/1 matrix for several classes a sample).
        num_classes: K.

    Returns:
        ``means`` and ``stds`` ``[K, d]``, ``counts`` ``[K]`` (sums of weights). A class of one
        sample gets the pooled within-class deviation; deviations are at least 1e-6; a class
        without samples gets NaN.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [5.0]])
        >>> means, stds, counts = class_feature_statistics(x, torch.tensor([0, 0, 1]), 2)
        >>> means.flatten(), stds.flatten(), counts
        (tensor([1., 5.]), tensor([1.4142, 1.4142]), tensor([2., 1.]))
    """
    moments = ClassMoments(num_classes, features.shape[1], features.device)
    moments.update(features, targets)
    wide = torch.float64 if features.dtype == torch.float64 else torch.float32
    empty = (moments.weight == 0)[:, None]
    means = moments.mean.masked_fill(empty, torch.nan)
    stds = moments.std().masked_fill(empty, torch.nan)
    return means.to(wide), stds.to(wide), moments.weight.to(wide)
