"""Progressive self-distillation: targets blend with what the network said an epoch ago."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.batch import Batch
from tether.catalogue import register
from tether.method import Method
from tether.methods.records import change_record
from tether.methods.targets.rows import average_duplicates

if TYPE_CHECKING:
    from tether.engine.context import Context

SOURCES = ("table", "snapshot")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def blend_targets(one_hot: Tensor, past_probs: Tensor, alpha: float) -> Tensor:
    """``(1 - alpha) y + alpha p'``: given targets and earlier predictions, ``[N, C]``, no graph.

    Example:
        >>> blend_targets(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]), 0.5)
        tensor([[0.7500, 0.2500]])
    """
    return (1.0 - alpha) * one_hot + alpha * past_probs.detach()


def alpha_in_epoch(epoch: int, progress: float, alpha_max: float) -> float:
    """``alpha_max (e + 1) / T``, where T follows from the progress at the start of epoch e.

    Epoch 0 has no predictions to look back on: 0.

    Example:
        >>> [round(alpha_in_epoch(e, e / 4, 0.8), 2) for e in range(4)]
        [0.0, 0.4, 0.6, 0.8]
    """
    return alpha_max * min(1.0, progress * (epoch + 1) / epoch) if epoch else 0.0


@register(
    "ps_kd",
    kind="targets",
    paper="arXiv:2006.12000",
    needs=("class_labels", "index", "epochs", "horizon"),
    cost="light",
    losses=("cross_entropy",),
    neutral={"alpha_max": 0.0},
    search_space={"alpha_max": ("uniform", 0.3, 0.9)},
)
class ProgressiveSelfDistillation(Method):
    """Soften each target, more in every epoch, by the network's own prediction of an epoch ago.

    Helps calibration and the likelihood on clean labels, where label smoothing overshoots:
    targets are soft only as far as the network itself was unsure. Hurts under wrong labels the
    confidence (accuracy gains, predictions become far too unsure); beside label smoothing targets
    are softened twice; heavy augmentation makes the past prediction noisy. Stopped early, it is
    almost plain training, and another number of epochs is another schedule. The training loss
    rises with alpha: do not watch it.

    In epoch e = 0, ..., T - 1, with the prediction p' of the same sample in epoch e - 1::

        alpha = alpha_max (e + 1) / T
        target = (1 - alpha) y + alpha p'          p' = y in epoch 0 and for samples not seen yet
        p' <- softmax(z), without a graph          of this very step, for the next epoch

    Args:
        alpha_max: alpha in the last epoch, in [0, 1] (default and paper 0.8; 0.3 to 0.5 for fewer
            than 10 epochs).
        source: ``"table"`` keeps the predictions of the training steps, as published;
            ``"snapshot"`` keeps the weights of the epoch before and asks them about the present
            view, for very many samples or classes (one further forward a step).
        store_dtype: of the table, ``"float32"``, ``"float16"`` or ``"bfloat16"``.

    Shape:
        logits ``[N, C]``, class indices or probabilities, rows ``[N]``.

    State:
        ``past`` ``[num_samples, C]``, per sample, zero where none was seen; ``alpha``. With
        ``"snapshot"`` a copy of the model in place of the table.

    Cost:
        O(N C) a step; 4 bytes times samples times classes. ``"snapshot"``: one forward a step.

    Raises:
        ValueError: an option out of range.

    References:
        Kyungyul Kim, ByeongMoon Ji, Doyoung Yoon, Sangheum Hwang, "Self-Knowledge Distillation
        with Progressive Refinement of Targets", ICCV 2021, arXiv:2006.12000.

    Example:
        >>> ProgressiveSelfDistillation(alpha_max=0.5)
        ProgressiveSelfDistillation(alpha_max=0.5)
    """

    past: Tensor
    alpha: float

    def __init__(
        self, alpha_max: float = 0.8, source: str = "table", store_dtype: str = "float32"
    ) -> None:
        if not 0.0 <= alpha_max <= 1.0:
            raise ValueError(f"alpha_max must lie in [0, 1], got {alpha_max!r}")
        if source not in SOURCES:
            raise ValueError(f"source must be one of {', '.join(SOURCES)}, got {source!r}")
        if store_dtype not in DTYPES:
            raise ValueError(f"store_dtype must be one of {', '.join(DTYPES)}, got {store_dtype!r}")
        self.alpha_max = alpha_max
        self.source = source
        self.store_dtype = store_dtype
        if source == "snapshot":  # which asks the network itself, in place of a table
            change_record(self, needs=("class_labels", "epochs", "horizon", "inputs"))

    def setup(self, ctx: Context) -> None:
        """Declare the table, or take a copy of the model for the weights of the epoch before."""
        self.add_state("alpha", 0.0)
        self.previous: nn.Module | None = None
        if self.source == "snapshot":
            self.previous = ctx.add_module(
                "previous", copy.deepcopy(ctx.model).requires_grad_(False), None, reduce=False
            )
            return
        table = torch.zeros(ctx.num_samples, ctx.num_classes, dtype=DTYPES[self.store_dtype])
        self.add_state("past", table.to(ctx.device), "per_sample")

    def epoch_start(self, epoch: int) -> None:
        """The epoch's alpha; with snapshots, the weights as the epoch before has left them."""
        self.alpha = alpha_in_epoch(epoch, self.ctx.progress, self.alpha_max)
        if self.previous is not None and self.alpha:
            kept = [*self.previous.parameters(), *self.previous.buffers()]
            now = [*self.ctx.model.parameters(), *self.ctx.model.buffers()]
            for old, new in zip(kept, now, strict=True):
                old.copy_(new)

    def transform_targets(self, batch: Batch) -> Tensor:
        """Targets blended with past predictions; at alpha 0 the very targets that were given."""
        if self.alpha_max == 0.0:
            return batch.targets
        past = self._past(batch)
        if self.alpha == 0.0 or past is None:
            return batch.targets
        given = batch.targets
        if given.ndim == 1:
            given = F.one_hot(given.clamp(min=0), batch.logits.shape[1]).to(batch.logits.dtype)
        seen = past.sum(dim=1, keepdim=True)
        past = torch.where(seen > 0, past / seen.clamp(min=1e-6), given)
        return blend_targets(given, past, self.alpha)

    def _past(self, batch: Batch) -> Tensor | None:
        """Past predictions of the rows, in the logits' type; those of now are noted."""
        if self.previous is not None:
            if self.alpha == 0.0:
                return None
            found = self.ctx.forward(grad=False, mode="eval", weights=self.previous)
            return found.logits.to(batch.logits.dtype).softmax(dim=1)
        index, table = batch.need_index(), self.past
        probs = average_duplicates(index, batch.logits.detach().softmax(dim=1)).to(table.dtype)
        rows = table[index]

        def write() -> None:
            table.index_copy_(0, index, probs)

        self.ctx.defer(write)
        return rows.to(batch.logits.dtype)

    def measure(self) -> dict[str, Any]:
        """The present alpha."""
        return {"alpha": self.alpha}
