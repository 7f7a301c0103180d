"""Batch spectral shrinkage (Chen et al., 2019): the weakest directions of features, weaker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.catalogue import register
from tether.method import Method
from tether.methods.features.rows import feature_rows
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context


def batch_spectral_shrinkage(features: Tensor, *, k: int = 1, mask: Tensor | None = None) -> Tensor:
    """Sum of the squares of the k smallest singular values of a batch of features.

    Args:
        features: ``[N, d]``; it has min(N, d) singular values.
        k: how many of the smallest; all where there are fewer.
        mask: bool ``[N]``, False for rows that do not count.

    Example:
        >>> batch_spectral_shrinkage(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))
        tensor(4.)
        >>> batch_spectral_shrinkage(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), k=2)
        tensor(13.)
    """
    rows = feature_rows(features)
    if mask is not None:
        rows = torch.where(mask[:, None], rows, 0.0)
    squares: Tensor = torch.linalg.svdvals(rows).square()  # the largest first
    if mask is None:
        return squares[-k:].sum()
    # rows of zeros add singular values of zero, which come last
    count = mask.sum().clamp(max=rows.shape[1])
    place = torch.arange(len(squares), device=rows.device)
    return torch.where((place >= count - k) & (place < count), squares, 0.0).sum()


@register(
    "bss",
    kind="features",
    paper="NeurIPS 2019",
    needs=("features",),
    cost="light",
    neutral={"weight": 0.0},
    pooling="mean",
    batch_statistics=True,
    search_space={"weight": ("log", 1e-4, 1.0), "k": ("int", 1, 4)},
)
class BatchSpectralShrinkage(Method):
    """Shrinks the smallest singular values of each batch of features, against negative transfer.

    Directions of the features that vary least tend to carry what does not transfer; trained on
    few samples, they grow. Helps with few labelled samples, best together with a method against
    forgetting (:class:`~tether.L2SP`, :class:`~tether.DELTA`). Does next to nothing with plenty
    of data: only the weakest directions are touched. Its scale follows the norm of the features
    and the size of the batch; samples that occur twice in a batch make the smallest value zero.
    A short last batch has larger ones: drop it (``drop_last``) where it is much smaller.

    ``R = sum of the k smallest s_i²`` of the features ``[N, d]`` of a batch, not divided by N;
    gradient ``2 sum s_i u_i v_i^T``.

    Args:
        weight: eta, 0 and more, default 1e-3 as in the paper and its code; schedulable.
        k: how many singular values, 1 and more, default 1 as in the paper.

    Shape:
        Features ``[N, d]``; token features are averaged over valid tokens first.

    State:
        None; ``measure`` gives the smallest and largest singular value of the last batch.

    Cost:
        Singular values of an ``[N, d]`` matrix, O(N² d) for N < d. Each process takes the
        spectrum of its own part of the batch. On a GPU the decomposition waits for the device.

    Raises:
        ValueError: a negative weight, or k below 1.

    References:
        Xinyang Chen, Sinan Wang, Bo Fu, Mingsheng Long, Jianmin Wang. Catastrophic Forgetting
        Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer Learning. NeurIPS 2019.

    Example:
        >>> BatchSpectralShrinkage(weight=0.01, k=2)
        BatchSpectralShrinkage(weight=0.01, k=2)
    """

    def __init__(self, weight: ScheduleLike = 1e-3, k: int = 1) -> None:
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if isinstance(k, bool) or int(k) != k or k < 1:
            raise ValueError(f"k must be a whole number from 1 on, got {k!r}")
        self.weight = weight
        self.k = k

    def setup(self, ctx: Context) -> None:
        """Look whether anything below the head is trained."""
        self._last: Tensor | None = None  # a diagnostic: not saved

    def penalty(self, batch: Batch) -> Tensor:
        """The smallest singular values of the features of the rows that count."""
        features = batch.need_features()

        def note() -> None:
            self._last = features.detach()

        self.ctx.defer(note)
        return batch_spectral_shrinkage(features, k=int(self.k), mask=batch.mask)

    def measure(self) -> dict[str, Any]:
        """Smallest and largest singular value of the last batch's features."""
        if self._last is None:
            return {}
        values = torch.linalg.svdvals(self._last)
        return {"smallest": float(values[-1]), "largest": float(values[0])}
