"""Feature distillation: what the head reads stays what the network before gave it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.matching import feature_distances
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context


@register(
    "feature_distillation",
    kind="features",
    paper="arXiv:2203.17269",
    needs=("features", "inputs", "reference"),
    cost="forward",
    neutral={"weight": 0.0},
    search_space={"weight": ("log", 1e-3, 1.0)},
)
class FeatureDistillation(Method):
    """Keep the features of each training sample where the starting weights had them.

    Helps few-shot fine-tuning, where features are worth keeping as they are. Hurts plasticity:
    over a sequence of tasks the paper finds no gain from it, alone or beside
    :class:`~tether.PredictionDistillation`. It says nothing about the head.

    With the features ``h`` of a layer and those of the starting weights ``h0``::

        penalty = mean_i |h(x_i) - h0(x_i)|^2

    Args:
        weight: strength, at least 0; a number or a schedule. Default 0.1 (paper: swept); the
            squared length grows with the width of the layer.
        layer: name of the layer whose output is kept; None: the head's input.

    Shape:
        Features ``[N, d]``; a layer's output of any shape, its first dimension the samples.

    State:
        None of its own; the teacher's weights are the engine's.

    Cost:
        One forward without a graph, shared by all methods with a teacher, and a copy of w0.

    Raises:
        ValueError: a negative weight.
        TetherError: no such layer, with the nearest names.

    References:
        James Seale Smith, Junjiao Tian, Shaunak Halbe, Yen-Chang Hsu, Zsolt Kira, "A Closer Look
        at Rehearsal-Free Continual Learning", CVPR Workshops 2023, arXiv:2203.17269.

    Example:
        >>> FeatureDistillation(weight="cosine(0.1, 0)", layer="layer2")
        FeatureDistillation(weight='cosine(0.1, 0)', layer='layer2')
    """

    #: In a sequence of tasks: left out of the first one, which has nothing to keep.
    from_second_task: ClassVar[bool] = True

    def __init__(self, weight: ScheduleLike = 0.1, layer: str | None = None) -> None:
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        self.weight = weight
        self.layer = layer

    def setup(self, ctx: Context) -> None:
        """Ask for the layer's output, where one is named."""
        if self.layer is not None:
            ctx.tap(self.layer)

    def penalty(self, batch: Batch) -> Tensor:
        """Mean squared distance from the teacher's features over the rows that count."""
        teacher = self.ctx.teacher()
        if self.layer is None:
            assert teacher.features is not None
            features = batch.need_features()
            kept = teacher.features.reshape(features.shape)  # convolutional heads read [N, d, 1, 1]
        else:
            features = self._output(batch.taps)
            kept = self._output(teacher.taps)
        # squares of half floats overflow above 256
        wide = batch.logits.dtype
        distances = feature_distances(features.to(wide), kept.to(wide), coordinates="sum")
        return batch.masked_mean(distances)

    def _output(self, taps: dict[str, Any]) -> Tensor:
        found = taps[str(self.layer)]
        if isinstance(found, (tuple, list)):
            found = found[0]
        if not isinstance(found, Tensor):
            raise TetherError(
                f"method {self.ctx.name!r}: the layer {self.layer!r} gives a "
                f"{type(found).__name__}, not a tensor: name another one"
            )
        return found
