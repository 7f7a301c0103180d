"""Co-Tuning (You et al., 2020): the pretrained model's own head is trained on, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.features.class_relationship import RELATIONSHIPS, class_relationship
from tether.methods.features.heads import source_head_of
from tether.methods.features.queue import gathered
from tether.methods.features.rows import check_choice
from tether.methods.matching import soft_cross_entropy
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context


def source_targets(targets: Tensor, table: Tensor) -> Tensor:
    """Old-class probabilities ``[N, K_s]`` of class indices ``[N]`` or probabilities ``[N, K_t]``.

    Example:
        >>> source_targets(torch.tensor([1]), torch.tensor([[1.0, 0.0], [0.25, 0.75]]))
        tensor([[0.2500, 0.7500]])
    """
    if targets.is_floating_point():
        return targets.to(table.dtype) @ table
    return table[targets.clamp(min=0)]


@register(
    "co_tuning",
    kind="features",
    paper="NeurIPS 2020",
    needs=("features", "class_labels", "source_head", "train_data"),
    cost="light",
    losses=("cross_entropy",),
    neutral={"weight": 0.0},
    search_space={"weight": ("log", 0.1, 10.0), "relationship": ("choice", "direct", "reverse")},
)
class CoTuning(Method):
    """Trains the pretrained model's own head beside the new one, on what its classes imply.

    A table says which old classes the samples of a new class look like; its rows are soft targets
    for the old head, so that all of the pretrained model is fine-tuned, not its body alone. Helps
    with few labelled samples of classes that resemble the old ones. Hurts little, but helps
    nothing, where the old head says the same of all new classes; impossible without a supervised
    source (for a model of images and texts, take the logits of its class names as the old head).

    ``R = mean_i - sum_k q(k | y_i) log softmax(h(f_i))_k`` with the old head h, in training, and
    the table q, made once from the old head's answers on the training data.

    Args:
        weight: lambda, 0 and more, default 2.3 as in the paper's code; schedulable.
        relationship: ``"direct"`` (default): mean probabilities a new class; ``"reverse"`` (the
            paper's code): by a logistic regression from old to new classes and Bayes' rule; see
            :func:`tether.functional.class_relationship`.
        calibration: factor on the old head's logits before their softmax, above 0, default 1 (the
            paper's code: 0.884 for its ResNet-50).

    Shape:
        Features ``[N, d]``, targets ``[N]`` or ``[N, K_t]``; the old head gives ``[N, K_s]``.

    State:
        ``table`` ``[K_t, K_s]``; the old head and its optimiser, of the kind and learning rate of
        the main one's defaults (the paper: a tenth of the new head's).

    Cost:
        One pass before training, and a second head. ``"reverse"`` fits 17 small regressions once.

    Raises:
        ValueError: a negative weight, an unknown relationship, a calibration of 0 or less.
        TetherError: no source head, one for features of another width, or a class without samples.

    References:
        Kaichao You, Zhi Kou, Mingsheng Long, Jianmin Wang. Co-Tuning for Transfer Learning.
        NeurIPS 2020.

    Example:
        >>> CoTuning(relationship="reverse")
        CoTuning(relationship='reverse')
    """

    table: Tensor

    def __init__(
        self, weight: ScheduleLike = 2.3, relationship: str = "direct", calibration: float = 1.0
    ) -> None:
        check_choice("relationship", relationship, RELATIONSHIPS)
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if not calibration > 0:
            raise ValueError(f"calibration must be above 0, got {calibration!r}")
        self.weight = weight
        self.relationship = relationship
        self.calibration = calibration

    def setup(self, ctx: Context) -> None:
        """Take the old head, and ask for its answers on the training data."""
        head, classes = source_head_of(ctx)
        self.head = ctx.add_module("source_head", head.requires_grad_())
        self.add_state("table", torch.zeros(ctx.num_classes, classes, device=ctx.device))
        logits: list[Tensor] = []
        targets: list[Tensor] = []

        def update(batch: Batch) -> None:
            if batch.targets.is_floating_point():
                raise TetherError(f"method {ctx.name!r} takes class indices as training labels")
            labels = batch.targets
            if batch.mask is not None:  # padding repeats a row of another rank
                labels = labels.masked_fill(~batch.mask, -1)
            logits.append(self.head(batch.need_features()))
            targets.append(labels)

        def finish() -> None:
            found, labels = gathered(ctx, [torch.cat(logits), torch.cat(targets)])
            table = class_relationship(
                found, labels, relationship=self.relationship, num_classes=ctx.num_classes,
                calibration=self.calibration,
            )  # fmt: skip
            self.table.copy_(ctx.all_reduce(table, "mean"))

        ctx.statistics(update, finish)

    def penalty(self, batch: Batch) -> Tensor:
        """Cross-entropy of the old head with the old classes that the labels imply."""
        probs = source_targets(batch.targets, self.table)
        return batch.masked_mean(soft_cross_entropy(self.head(batch.need_features()), probs))

    def measure(self) -> dict[str, Any]:
        """How sharp the table is: mean of the largest probability of each new class."""
        return {"largest": float(self.table.amax(1).mean())}
