"""Feature proximity: hold each sample's features near those of the pretrained network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tether.catalogue import register
from tether.errors import TetherError
from tether.losses import IGNORE
from tether.method import Method
from tether.methods.features.rows import check_choice
from tether.methods.features.tokens import mean_over_tokens
from tether.methods.matching import COORDINATES, feature_distances
from tether.methods.records import change_record
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context

DISTANCES = ("l2", "cosine")
_CACHE_NEEDS = ("features", "index", "train_data")


def feature_proximity_loss(
    features: Tensor, reference_features: Tensor, *, reduction: str = "mean", distance: str = "l2"
) -> Tensor:
    """Mean over the rows of the distance between features and those they are held to.

    Args:
        features: ``[N, d]``.
        reference_features: of the same shape; no gradient flows there.
        reduction: of the squares of a row, ``"mean"`` or ``"sum"`` (the paper's) over d.
        distance: ``"l2"`` (squared), or ``"cosine"`` (1 - cosine).

    Example:
        >>> h, h0 = torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)
        >>> feature_proximity_loss(h, h0), feature_proximity_loss(h, h0, reduction="sum")
        (tensor(5.), tensor(10.))
    """
    check_choice("distance", distance, DISTANCES)
    return feature_distances(
        features, reference_features, metric=distance, coordinates=reduction
    ).mean()


@register(
    "feature_proximity",
    kind="features",
    paper="arXiv:2210.16658",
    needs=("features", "inputs", "reference"),
    cost="forward",
    neutral={"weight": 0.0},
    pooling="mean",
    search_space={"weight": ("log", 1e-3, 10.0), "distance": ("choice", "l2", "cosine")},
)
class FeatureProximity(Method):
    """Hold the head's inputs near what the pretrained network gave for the same samples.

    Late in training the features of a class shrink to their mean (neural collapse), and what told
    the samples of a class apart is lost. Tying features to given ones bounds how far that goes:
    the larger the weight, the less they collapse and the less they move. Helps where the features
    are used again: few samples, retrieval, further tasks. Hurts where the pretrained features are
    of no use for the task; with everything below the head frozen it does nothing.

    With ``h0_i`` the features of sample i under the pretrained weights, in evaluation mode::

        penalty = mean_i |h_i - h0_i|^2 / d        ("l2"; with reduction "sum" not divided by d)
        penalty = mean_i 1 - cos(h_i, h0_i)        ("cosine")

    Args:
        weight: beta, >= 0, schedulable (default 0.1; the paper's has ``reduction="sum"`` and half
            the square, so that beta there is ``2 d`` times smaller than here).
        distance: ``"l2"`` (default and paper) or ``"cosine"``.
        reduction: over the d coordinates of ``"l2"``: ``"mean"`` (default), which carries over
            between widths, or ``"sum"`` (paper).
        source: where h0 comes from. ``"teacher"`` (default): the pretrained network sees the very
            inputs of the step. ``"cache"``: it sees the training set once, before the first step
            and without random changes; a row of that table is the target however the sample is
            changed later. A ``.npy`` file: such a table ``[samples, d]`` of your own.

    Shape:
        features ``[N, d]``; token features are averaged over valid tokens first.

    State:
        none for ``"teacher"``; the table ``[samples, d]`` float32 otherwise.

    Cost:
        one forward of the pretrained network a step; with a table O(N d), and one evaluation pass
        before training.

    Raises:
        ValueError: an unknown choice.
        TetherError: a file that is not there, or holds another number of rows or coordinates.

    References:
        Tom Tirer, Haoxiang Huang, Jonathan Niles-Weed, "Perturbation Analysis of Neural Collapse",
        ICML 2023, arXiv:2210.16658. What it predicts for given weights:
        ``tether.measure.anchored_ufm_solution``.

    Example:
        >>> FeatureProximity(weight=1.0, source="cache")
        FeatureProximity(weight=1.0, source='cache')
    """

    table: Tensor

    def __init__(
        self,
        weight: ScheduleLike = 0.1,
        distance: str = "l2",
        reduction: str = "mean",
        source: str = "teacher",
    ) -> None:
        check_choice("distance", distance, DISTANCES)
        check_choice("reduction", reduction, COORDINATES)
        if source not in ("teacher", "cache") and not str(source).endswith(".npy"):
            raise ValueError(f"source={source!r} is not 'teacher', 'cache' or a .npy file")
        self.weight, self.distance = weight, distance
        self.reduction, self.source = reduction, source
        if source != "teacher":
            change_record(self, needs=_CACHE_NEEDS if source == "cache" else _CACHE_NEEDS[:2])

    def setup(self, ctx: Context) -> None:
        """Read the table, or ask for the pass that makes it."""
        if self.source == "teacher":
            return
        size = (ctx.num_samples, ctx.num_features)
        if self.source != "cache":
            self.add_state("table", read_table(self.source, size).to(ctx.device))
            return
        self.add_state("table", torch.zeros(size, device=ctx.device))

        def update(batch: Batch) -> None:
            rows, index = batch.need_features(), batch.need_index()
            if batch.mask is not None:
                rows = torch.where(batch.mask.unsqueeze(1), rows, self.table[index])
            self.table[index] = rows.to(self.table.dtype)

        def finish() -> None:
            ctx.all_reduce(self.table)  # each rank has filled rows of its own

        ctx.statistics(update, finish)

    def penalty(self, batch: Batch) -> Tensor:
        """Mean over the samples that count; the engine multiplies by ``weight``."""
        if self.source == "teacher":
            targets = self.ctx.teacher().features
            assert targets is not None
            if targets.ndim == 3:  # one row a token, of a token loss
                targets = mean_over_tokens(targets.float(), batch.labels != IGNORE)
        else:
            targets = self.table[batch.need_index()]
        distances = feature_distances(
            batch.need_features(), targets, metric=self.distance, coordinates=self.reduction
        )
        return batch.masked_mean(distances)


def read_table(path: str, size: tuple[int, int]) -> Tensor:
    """Features of a ``.npy`` file, float32 ``[samples, d]``.

    Raises:
        TetherError: no such file, or another shape.
    """
    import numpy as np

    if not Path(path).expanduser().is_file():
        raise TetherError(f"'feature_proximity': source={path!r} is no file")
    rows = np.load(Path(path).expanduser(), allow_pickle=False)
    if rows.shape != size:
        raise TetherError(
            f"'feature_proximity': {path} has shape {rows.shape}, but the training set has "
            f"{size[0]} samples, and the head's input {size[1]} coordinates"
        )
    return torch.from_numpy(rows.astype(np.float32))
