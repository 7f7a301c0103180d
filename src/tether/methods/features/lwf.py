"""Learning without forgetting (Li and Hoiem, 2016): the old head keeps its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.catalogue import register
from tether.method import Method
from tether.methods.features.heads import source_head_of
from tether.methods.features.rows import check_choice
from tether.methods.matching import distillation_divergence
from tether.methods.records import change_record
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context

SOURCES = ("teacher", "recorded")


@register(
    "lwf",
    kind="features",
    paper="arXiv:1606.09282",
    needs=("features", "inputs", "reference", "source_head"),
    cost="forward",
    neutral={"weight": 0.0},
    search_space={"weight": ("log", 0.1, 10.0), "temperature": ("uniform", 1.0, 5.0)},
)
class LearningWithoutForgetting(Method):
    """Keeps what the pretrained model's own head says about the new samples.

    Helps with few labelled samples, and where the old task still counts. Hurts when the new task
    is far from the old one: the old answers then say little, and hold the features back. Needs
    a supervised source: a head that was trained together with the body.

    ``R = mean_i KL(softmax(u_i / T) || softmax(h(f_i) / T))`` with the old head h, which stays as
    it is, features f of the network in training, and u the old head's logits under the pretrained
    weights. There is no factor of T²: a weight of 4 at T = 3 is 0.44 with it.

    Args:
        weight: 0 and more, default 4.0 as in the common benchmark code; schedulable.
        temperature: T, above 0, default 3.0 (the paper: 2).
        source: ``"teacher"`` (default): u anew in each step, of the very view that the network
            sees, by one more forward (shared with all methods that compare with the pretrained
            model); ``"recorded"``: u once, on the evaluation view of each training sample, which
            costs no forward and a number a sample and old class.

    Shape:
        Features ``[N, d]``; the old head gives ``[N, K_s]``.

    State:
        The old head; ``recorded`` ``[num_samples, K_s]`` of the form of that name.

    Cost:
        A forward of the pretrained weights in each step, or a pass before training.

    Raises:
        ValueError: a negative weight, a temperature of 0 or less, an unknown source.
        TetherError: no source head, or one for features of another width; for ``"recorded"``, no
            training data, or rows that are unknown.

    References:
        Zhizhong Li, Derek Hoiem. Learning without Forgetting. ECCV 2016, arXiv:1606.09282.

    Example:
        >>> LearningWithoutForgetting(temperature=2.0, source="recorded")
        LearningWithoutForgetting(temperature=2.0, source='recorded')
    """

    recorded: Tensor

    def __init__(
        self, weight: ScheduleLike = 4.0, temperature: float = 3.0, source: str = "teacher"
    ) -> None:
        check_choice("source", source, SOURCES)
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature!r}")
        self.weight = weight
        self.temperature = temperature
        self.source = source
        if source == "recorded":  # this form has needs of its own
            change_record(self, needs=("features", "source_head", "index", "train_data"))

    def setup(self, ctx: Context) -> None:
        """Take the old head, and ask for its answers where they are recorded."""
        head, classes = source_head_of(ctx)
        head.requires_grad_(False)
        self.head = ctx.add_module("source_head", head, None)
        self.divergence = torch.zeros((), device=ctx.device)  # a diagnostic: not saved
        if self.source == "teacher":
            return
        size = (ctx.num_samples, classes)
        self.add_state("recorded", torch.zeros(size, device=ctx.device))

        def update(batch: Batch) -> None:
            logits = self.head(batch.need_features())
            if batch.mask is not None:  # padding repeats a row of another rank
                logits = torch.where(batch.mask[:, None], logits, 0.0)
            self.recorded.index_add_(0, batch.need_index(), logits.to(self.recorded.dtype))

        def finish() -> None:
            ctx.all_reduce(self.recorded)

        ctx.statistics(update, finish)

    def penalty(self, batch: Batch) -> Tensor:
        """Divergence of the old head's answers from those under the pretrained weights."""
        logits = self.head(batch.need_features())
        if self.source == "recorded":
            before = self.recorded[batch.need_index()]
        else:
            features = self.ctx.teacher().features
            assert features is not None
            with torch.no_grad():
                before = self.head(features)
        losses = distillation_divergence(logits, before, temperature=self.temperature)
        mean = batch.masked_mean(losses)

        def note() -> None:
            self.divergence = mean.detach()

        self.ctx.defer(note)
        return mean

    def measure(self) -> dict[str, Any]:
        """Mean divergence of the last batch."""
        return {"divergence": float(self.divergence)}
