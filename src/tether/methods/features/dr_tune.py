"""DR-Tune (Zhou et al., 2023): the head must fit pretrained features of recent samples, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tether.catalogue import register
from tether.method import Method
from tether.methods.features.calibration import procrustes_rotation, semantic_calibration
from tether.methods.features.heads import head_rows
from tether.methods.features.queue import enqueue_, filled, gathered
from tether.methods.features.rows import check_choice
from tether.methods.targets.rows import class_indices
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context

REDUCTIONS = ("sum_of_means", "official")


@register(
    "dr_tune",
    kind="features",
    paper="arXiv:2308.12058",
    needs=("features", "class_labels", "inputs", "reference", "train_data"),
    cost="forward",
    losses=("cross_entropy",),
    neutral={"weight": 0.0},
    conflicts=("adamixup", "cutmix", "decoupled_mixup", "elr_plus", "mixup"),  # hard labels
    batch_statistics=True,  # a batch meets the queue that batches before it left
    search_space={"weight": ("log", 0.1, 10.0), "queue_size": ("int", 64, 2048)},
)
class DRTune(Method):
    """Makes the head classify the pretrained features of recent samples as well.

    The body is free; the head is held, so that what it asks of the features stays near what
    pretraining gave. Pretrained features drift away from those in training: before the head sees
    them they are rotated and shifted class by class to where the present ones lie. Helps with few
    labelled samples. Hurts where pretrained features say nothing of the classes: lower the
    weight. Labels of the queue are hard: it does not go with mixed rows. With strongly unequal
    classes the queue is as unequal.

    With a queue of the last Q samples' features now and under the pretrained weights, and P the
    calibrated latter (:func:`tether.functional.semantic_calibration`)::

        R = mean over the queue of CE(head(P_i), y_i)

    It has a gradient to the head alone.

    Args:
        weight: w, 0 and more, default 1.0; schedulable.
        queue_size: Q, 1 and more, default 2048 as in the paper's code; at most the number of
            training samples is used; take 8 a class or more.
        rotate_every: updates between new rotations, 1 and more, default 10 as in the code.
            Between them the last one is used (the code uses none there); 0: never rotate.
        reduction: ``"sum_of_means"`` (default), ``L_task + w R``; ``"official"``: one mean over
            batch and queue, ``L_task + w Q / (N + Q) (R - L_task)``, which at w = 1 leaves the
            task's loss a share of ``N / (N + Q)``: raise the body's learning rate as much.

    Shape:
        Features ``[N, d]``, targets ``[N]`` or ``[N, K]`` (the largest counts).

    State:
        ``now`` and ``before`` ``[Q, d]``, ``labels`` ``[Q]``, ``seen``, ``rotation`` ``[d, d]``;
        the queue is filled by a pass over evenly chosen training samples.

    Cost:
        A forward of the pretrained weights, shared by all methods that compare with them; the
        head on Q rows; a singular value decomposition ``[d, d]`` every ``rotate_every`` updates.
        In several processes features are gathered: batches are of one size on all ranks.

    Raises:
        ValueError: an option out of its range.
        TetherError: no training data, or a head without a weight.

    References:
        Nan Zhou, Jiaxin Chen, Di Huang. DR-Tune: Improving Fine-tuning of Pretrained Visual Models
        by Distribution Regularization with Semantic Calibration. ICCV 2023, arXiv:2308.12058.

    Example:
        >>> DRTune(queue_size=512)
        DRTune(queue_size=512)
    """

    now: Tensor
    before: Tensor
    labels: Tensor
    seen: Tensor
    rotation: Tensor

    def __init__(
        self,
        weight: ScheduleLike = 1.0,
        queue_size: int = 2048,
        rotate_every: int = 10,
        reduction: str = "sum_of_means",
    ) -> None:
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if queue_size < 1:
            raise ValueError(f"queue_size must be 1 or more, got {queue_size!r}")
        if rotate_every < 0:
            raise ValueError(f"rotate_every must be 0 or more, got {rotate_every!r}")
        check_choice("reduction", reduction, REDUCTIONS)
        self.weight, self.queue_size = weight, queue_size
        self.rotate_every, self.reduction = rotate_every, reduction

    def setup(self, ctx: Context) -> None:
        """Make the queue, and ask for the features that fill it."""
        head_rows(ctx)  # refuses a head without a weight
        total, width = ctx.num_samples, ctx.num_features
        size = min(self.queue_size, total)
        for name in ("now", "before"):
            self.add_state(name, torch.zeros(size, width, device=ctx.device))
        self.add_state("labels", torch.zeros(size, dtype=torch.int64, device=ctx.device))
        self.add_state("seen", torch.zeros((), dtype=torch.int64, device=ctx.device))
        self.add_state("rotation", torch.eye(width, device=ctx.device))

        def update(batch: Batch) -> None:
            features, index = batch.need_features(), batch.need_index()
            # evenly over the data, which may be sorted by class
            chosen = (index + 1) * size // total > index * size // total
            self._enqueue(features, features, batch, chosen)

        ctx.statistics(update, lambda: None)

    def _enqueue(
        self, now: Tensor, before: Tensor, batch: Batch, chosen: Tensor | None = None
    ) -> None:
        classes = class_indices(batch.targets)
        keep = classes >= 0
        for mask in (batch.mask, chosen):
            keep = keep if mask is None else keep & mask
        rows = gathered(self.ctx, [now.detach(), before, classes.clamp(min=0), keep])
        buffers = [self.now, self.before, self.labels]
        enqueue_(buffers, self.seen, rows[:3], keep=rows[3])

    def penalty(self, batch: Batch) -> Tensor:
        """Cross-entropy of the head on the queue's calibrated pretrained features."""
        ctx, features = self.ctx, batch.need_features()
        before = ctx.teacher().features
        assert before is not None
        with torch.no_grad():
            there = filled(self.seen, len(self.labels))
            rotation = self._rotation(there)
            length = batch.masked_mean(features.norm(dim=1))
            rows = semantic_calibration(
                self.before, self.now, self.labels, head_rows(ctx)[:, :-1], scale=length,
                rotate=rotation is not None, rotation=rotation, keep=there,
            )  # fmt: skip
            labels = torch.where(there, self.labels, -100)

        def write() -> None:
            if rotation is not None:
                self.rotation.copy_(rotation)
            self._enqueue(features, before, batch)

        ctx.defer(write)
        losses = cross_entropy(ctx.head(rows), labels, reduction="sum", ignore_index=-100)
        count = there.sum().clamp(min=1)
        own = losses / count
        if self.reduction == "sum_of_means":
            return own
        size = len(features) if batch.mask is None else batch.mask.sum()
        return (own - ctx.task_loss(batch.logits, batch.targets)) * count / (count + size)

    def _rotation(self, there: Tensor) -> Tensor | None:
        """The last one, or in its turn that of the present queue."""
        if self.rotate_every == 0:
            return None
        if self.ctx.step % self.rotate_every:
            return self.rotation.clone()
        before, now = normalize(self.before, dim=1), normalize(self.now, dim=1)
        return procrustes_rotation(before, now, keep=there)

    def measure(self) -> dict[str, Any]:
        """Mean cosine of the queue's features now with the pretrained ones, as they are."""
        there = filled(self.seen, len(self.labels))
        cosine = torch.cosine_similarity(self.now, self.before, dim=1)
        return {"cosine": float((cosine * there).sum() / there.sum().clamp(min=1))}
