"""Label smoothing: targets that leave every class some probability."""

from __future__ import annotations

import torch
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.losses import IGNORE
from tether.method import Method
from tether.schedule import Schedule, ScheduleLike


def smooth_classes(
    targets: Tensor, smoothing: float, num_classes: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """``(1 - e) t + e / K``, from class indices ``[N]`` or probabilities ``[N, K]``.

    Rows with the index -100 do not count and become zero.

    Example:
        >>> smooth_classes(torch.tensor([1, -100]), 0.2, 2)
        tensor([[0.1000, 0.9000],
                [0.0000, 0.0000]])
    """
    if targets.is_floating_point():
        return (1.0 - smoothing) * targets + smoothing / num_classes
    rest = smoothing / num_classes
    smooth = torch.full((len(targets), num_classes), rest, dtype=dtype, device=targets.device)
    smooth.scatter_(1, targets.clamp(min=0)[:, None], 1.0 - smoothing + rest)
    return smooth * (targets != IGNORE)[:, None]


def smooth_binary(targets: Tensor, smoothing: float) -> Tensor:
    """``(1 - e) t + e / 2``, each entry of a multi-label target being a choice between two."""
    return (1.0 - smoothing) * targets + smoothing / 2.0


@register(
    "label_smoothing",
    kind="targets",
    paper="arXiv:1512.00567",
    needs=("class_labels",),
    cost="light",
    losses=("cross_entropy", "binary_cross_entropy"),
    neutral={"smoothing": 0.0},
    # after all methods that change labels: theirs are the labels to be smoothed
    band="weigh",
    search_space={"smoothing": ("uniform", 0.0, 0.3)},
)
class LabelSmoothing(Method):
    """Mix every target with the uniform distribution, so that no class is told to be certain.

    Helps calibration, and against a few wrong labels; a cheap regulariser of large heads. Hurts
    when the probabilities serve as a teacher's, and the confidence thresholds of
    :class:`~tether.SelfLabelCorrection`: no probability much above ``1 - e`` is learnt.

    With smoothing e and K classes, for class indices (one-hot t) and class probabilities t::

        t <- (1 - e) t + e / K          cross_entropy
        t <- (1 - e) t + e / 2          binary_cross_entropy, each entry

    Class indices give ``F.cross_entropy(..., label_smoothing=e)``. It acts after every method that
    changes labels, wherever it stands in the list: corrected labels are smoothed as well, and what
    is noted of labels (by :class:`~tether.SelfLabelCorrection`, by
    :class:`~tether.EarlyLearningRegularization`) is noted of those that are not smoothed. Methods
    that weigh samples see losses on smoothed targets.

    Args:
        smoothing: e, in [0, 1]; a number or a schedule (default and paper 0.1).

    Shape:
        Class indices ``[N]`` or probabilities ``[N, K]``; 0/1 matrices ``[N, K]``.

    State:
        None.

    Cost:
        O(N K) a step.

    Raises:
        ValueError: ``smoothing`` out of range.

    References:
        Christian Szegedy, Vincent Vanhoucke, Sergey Ioffe, Jonathon Shlens, Zbigniew Wojna,
        "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, arXiv:1512.00567.

    Example:
        >>> LabelSmoothing(smoothing=0.2)
        LabelSmoothing(smoothing=0.2)
    """

    def __init__(self, smoothing: ScheduleLike = 0.1) -> None:
        if isinstance(smoothing, (int, float)) and not 0.0 <= smoothing <= 1.0:
            raise ValueError(f"smoothing must lie in [0, 1], got {smoothing!r}")
        self.smoothing = smoothing

    def schedules(self) -> dict[str, Schedule]:
        """``smoothing`` may follow the progress of training."""
        return {"smoothing": Schedule(self.smoothing)}

    def transform_targets(self, batch: Batch) -> Tensor:
        """Smoothed targets, in the logits' type; at 0 the very targets that were given."""
        smoothing = self.value("smoothing")
        if smoothing == 0.0:
            return batch.targets
        if self.ctx.loss_kind == "binary_cross_entropy":
            return smooth_binary(batch.targets, smoothing)
        logits = batch.logits
        return smooth_classes(batch.targets, smoothing, logits.shape[1], logits.dtype)
