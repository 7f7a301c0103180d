"""Prediction distillation: on new data, old outputs stay those of the network before."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.method import Method
from tether.methods.matching import distillation_divergence
from tether.methods.targets.columns import Classes, check_classes, columns
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context

MODES = ("sigmoid", "softmax")


def prediction_distillation_losses(
    logits: Tensor, teacher_logits: Tensor, *, mode: str = "sigmoid", temperature: float = 1.0
) -> Tensor:
    """Divergence of a row's predictions from the teacher's, ``[N, C] -> [N]``; 0 where equal.

    ``sigmoid``: ``sum_c KL(Bernoulli(q_c) || Bernoulli(p_c))`` with ``p = sigmoid(z / T)``, q the
    teacher's; ``softmax``: ``KL(q || p)`` with softmaxes over the columns given. Cross-entropies
    have the same gradient and lie the teacher's entropy higher.

    Example:
        >>> import torch
        >>> z, old = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 2.0]])
        >>> prediction_distillation_losses(z, old)
        tensor([0.])
    """
    teacher = teacher_logits.detach()
    if mode == "softmax":
        return distillation_divergence(logits, teacher, temperature=temperature)
    probs = (teacher / temperature).sigmoid()

    def binary(values: Tensor) -> Tensor:
        rows = values / temperature
        return F.binary_cross_entropy_with_logits(rows, probs, reduction="none").sum(1)

    return binary(logits) - binary(teacher)


@register(
    "prediction_distillation",
    kind="targets",
    paper="arXiv:2203.17269",
    needs=("inputs", "reference"),
    cost="forward",
    losses=("cross_entropy", "binary_cross_entropy"),
    neutral={"weight": 0.0},
    search_space={"weight": ("log", 0.1, 10.0), "mode": ("choice", "sigmoid", "softmax")},
)
class PredictionDistillation(Method):
    """Keep the outputs for old classes where the network before had them, on the new data.

    Helps where tasks come one after another and earlier data are gone: it is the one of the
    classical penalties that keeps the head usable. Hurts when new images look like nothing that
    the old classes were: all it can keep are their low scores. Goes with
    :class:`~tether.IncrementalBCE`, whose labels leave the old outputs alone.

    With old classes O and the logits ``z0`` of the weights that training began with::

        sigmoid:  mean_i sum_{c in O} BCE(sigmoid(z_c / T), sigmoid(z0_c / T)) - (its least value)
        softmax:  mean_i KL(softmax(z0_O / T) || softmax(z_O / T))

    Args:
        weight: strength, at least 0; a number or a schedule. Default 1; the paper sweeps it.
        mode: ``"sigmoid"`` (default, as in the paper's experiments) or ``"softmax"``.
        temperature: T, above 0 (default 1). Gradients are not multiplied by T squared.
        old_classes: outputs that are kept: indices, or the number of the first ones. None: in a
            sequence of tasks the classes of the tasks before; elsewhere all, which makes sense
            where the model begins with a head that has learnt these very classes.

    Shape:
        Logits ``[N, K]``.

    State:
        None of its own; the teacher's weights are the engine's.

    Cost:
        One forward without a graph, shared by all methods with a teacher, and a copy of w0.

    Raises:
        ValueError: a negative weight, an unknown mode, a temperature that is not above 0.
        TetherError: the head has no such output.

    References:
        James Seale Smith, Junjiao Tian, Shaunak Halbe, Yen-Chang Hsu, Zsolt Kira, "A Closer Look
        at Rehearsal-Free Continual Learning", CVPR Workshops 2023, arXiv:2203.17269; after Zhizhong
        Li, Derek Hoiem, "Learning without Forgetting", ECCV 2016, arXiv:1606.09282.

    Example:
        >>> PredictionDistillation(weight=2.0, old_classes=[0, 1])
        PredictionDistillation(weight=2.0, old_classes=[0, 1])
    """

    #: In a sequence of tasks: left out of the first one, which has nothing to keep.
    from_second_task: ClassVar[bool] = True

    def __init__(
        self,
        weight: ScheduleLike = 1.0,
        mode: str = "sigmoid",
        temperature: float = 1.0,
        old_classes: Classes = None,
    ) -> None:
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is not one of {', '.join(MODES)}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature!r}")
        check_classes("old_classes", old_classes)
        self.weight = weight
        self.mode = mode
        self.temperature = temperature
        self.old_classes = old_classes

    def setup(self, ctx: Context) -> None:
        """Which columns are kept."""
        self._old = columns(ctx, "old_classes", self.old_classes)

    def penalty(self, batch: Batch) -> Tensor:
        """Mean divergence from the teacher over the rows that count."""
        logits = batch.logits
        if self._old is not None and not len(self._old):  # the first task: nothing to keep
            return logits.sum() * 0.0
        teacher = self.ctx.teacher().logits.to(logits.dtype)
        if self._old is not None:
            logits, teacher = logits[:, self._old], teacher[:, self._old]
        losses = prediction_distillation_losses(
            logits, teacher, mode=self.mode, temperature=self.temperature
        )
        return batch.masked_mean(losses)
