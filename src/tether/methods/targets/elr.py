"""Early-Learning Regularization: hold predictions to what the network said early on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.method import Method
from tether.methods.inputs.mixing import mix_rows
from tether.methods.targets.rows import average_duplicates, class_indices
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context


def clamped_probabilities(logits: Tensor, eps: float = 1e-4) -> Tensor:
    """Softmax in float32 or wider, clamped to ``[eps, 1 - eps]``; the clamp is in the graph."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.softmax(dim=-1).clamp(eps, 1.0 - eps)


def elr_penalty(
    logits: Tensor, running_targets: Tensor, *, eps: float = 1e-4, reduction: str = "mean"
) -> Tensor:
    """Mean of ``log(1 - <t, p>)``: never positive, lower the closer p comes to its target t.

    Args:
        logits: ``[N, C]``.
        running_targets: targets t of the rows ``[N, C]``, without a graph.
        eps: the probabilities p are clamped to ``[eps, 1 - eps]``.
        reduction: ``"mean"``, or ``"none"`` for ``[N]``.

    Example:
        >>> elr_penalty(torch.zeros(2, 4), torch.zeros(2, 4)).item()
        0.0
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f'reduction must be "mean" or "none", got {reduction!r}')
    probs = clamped_probabilities(logits, eps)
    losses = torch.log1p(-(running_targets.detach() * probs).sum(dim=-1))
    return losses.mean() if reduction == "mean" else losses


def moved_targets(table: Tensor, index: Tensor, probs: Tensor, *, beta: float) -> Tensor:
    """The rows of :func:`update_running_targets_` without writing them: ``[N, C]``."""
    fresh = average_duplicates(
        index, probs.detach().to(torch.promote_types(table.dtype, probs.dtype))
    )
    return beta * table[index] + (1.0 - beta) * fresh


@torch.no_grad()
def update_running_targets_(table: Tensor, index: Tensor, probs: Tensor, *, beta: float) -> Tensor:
    """Move rows of the table towards predictions: ``t <- beta t + (1 - beta) q``, in place.

    A sample that occurs twice in the batch moves once, towards the mean of its predictions.

    Args:
        table: running targets ``[num_samples, C]``, zero at first.
        index: rows of the table, int64 ``[N]``.
        probs: predictions q ``[N, C]``.
        beta: share of the old row, in [0, 1).

    Returns:
        The new rows ``[N, C]``.

    Example:
        >>> table = torch.zeros(3, 2)
        >>> probs = torch.tensor([[0.8, 0.2]])
        >>> update_running_targets_(table, torch.tensor([1]), probs, beta=0.5)
        tensor([[0.4000, 0.1000]])
    """
    rows = moved_targets(table, index, probs, beta=beta)
    table.index_copy_(0, index, rows.to(table.dtype))
    return rows


@register(
    "elr",
    kind="targets",
    paper="arXiv:2007.00151",
    needs=("class_labels", "index"),
    cost="light",
    losses=("cross_entropy",),
    neutral={"weight": 0.0},
    takes_mixed=True,
    search_space={"weight": ("log", 0.3, 10.0), "beta": ("uniform", 0.5, 0.99)},
)
class EarlyLearningRegularization(Method):
    """Hold each prediction to a running average of the network's own, against wrong labels.

    Networks fit the clean majority first and memorise wrong labels later; the running average
    keeps what was learnt early, and its term cancels the gradient of wrongly labelled samples.
    Helps with an unknown share of wrong labels and several epochs. Hurts with one or two epochs
    (a row moves once an epoch), on rare classes (they may be taken for noise), and with too large
    a weight on clean data (over-confidence). The total loss becomes negative: that is right, and
    it cannot be used to stop early. Multi-label targets are refused.

    With ``p = softmax(z)`` clamped to ``[eps, 1 - eps]`` and ``q = p / sum p`` without a graph::

        t_i <- beta t_i + (1 - beta) q_i            first, for the samples of the batch
        penalty = mean_i log(1 - <t_i, p_i>)        then, with the new rows

    Beside mixup or CutMix q comes from the unmixed inputs (one forward more), and each prediction
    is held to its rows mixed as the inputs were. Unlabelled samples (label -100) take part. The
    two-network variant is :class:`~tether.ELRPlus`. ``target_probs`` given to the loss,
    predictions ``[N, C]`` by another network, feed the table in a loop of one's own, and
    ``mix=(permutation, lam)`` mixes its rows.

    Args:
        weight: lambda, >= 0, schedulable (default 3; paper: 3 on CIFAR-10, 7 on CIFAR-100, 1 for
            asymmetric noise).
        beta: share of the old row, in [0, 1) (default 0.7; paper: 0.7 and 0.9). Prefer 0.5 to 0.7
            for 3 to 10 epochs.
        eps: clamp of the probabilities, in (0, 0.5) (default and paper 1e-4).

    Shape:
        logits ``[N, C]``, class indices or probabilities, rows ``[N]``.

    State:
        ``running_targets`` ``[num_samples, C]`` float32, zero at first; per sample.

    Cost:
        O(N C) a step, no further forward; 4 bytes times samples times classes.

    Raises:
        ValueError: ``beta`` or ``eps`` out of range, a negative weight.

    References:
        Sheng Liu, Jonathan Niles-Weed, Narges Razavian, Carlos Fernandez-Granda, "Early-Learning
        Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020, arXiv:2007.00151.

    Example:
        >>> EarlyLearningRegularization(weight=7, beta=0.9)
        EarlyLearningRegularization(weight=7, beta=0.9)
    """

    running_targets: Tensor

    def __init__(self, weight: ScheduleLike = 3.0, beta: float = 0.7, eps: float = 1e-4) -> None:
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if not 0.0 <= beta < 1.0:
            raise ValueError(f"beta must lie in [0, 1), got {beta!r}")
        if not 0.0 < eps < 0.5:
            raise ValueError(f"eps must lie in (0, 0.5), got {eps!r}")
        self.weight = weight
        self.beta = beta
        self.eps = eps

    def setup(self, ctx: Context) -> None:
        """Declare the table, zero at first: the term warms up by itself."""
        size = (ctx.num_samples, ctx.num_classes)
        self.add_state("running_targets", torch.zeros(size, device=ctx.device), "per_sample")

    def penalty(self, batch: Batch) -> Tensor:
        """Move the rows of the batch, then hold the predictions to them."""
        index = batch.need_index()
        probs = batch.extras.get("target_probs")
        if probs is None:
            logits = (self.ctx.unmixed(batch) or batch).logits
            probs = clamped_probabilities(logits.detach(), self.eps)
            probs = probs / probs.sum(dim=-1, keepdim=True)
        with torch.no_grad():
            moved = moved_targets(self.running_targets, index, probs, beta=self.beta)
            rows = moved.to(self.running_targets.dtype)

        def write(rows: Tensor = rows) -> None:
            self.running_targets.index_copy_(0, index, rows)

        self.ctx.defer(write)
        if "mix" in batch.extras:
            rows = mix_rows(rows, *batch.extras["mix"])
        return elr_penalty(batch.logits, rows, eps=self.eps)

    def labels(self) -> Tensor:
        """Class of the largest running target of every sample, int64 ``[n]``; -1 if never seen."""
        seen = self.running_targets.sum(1) > 0
        return torch.where(seen, self.running_targets.argmax(1), -1)

    def noisy_label_mask(self) -> Tensor:
        """Samples whose running target names another class than their label, bool ``[n]``.

        Samples that were never seen are not suspected.
        """
        given = class_indices(self.ctx.training_targets()).to(self.running_targets.device)
        believed = self.labels()
        return (believed >= 0) & (given >= 0) & (believed != given)

    def measure(self) -> dict[str, Any]:
        """How many samples were seen, and how sure their running targets are on average."""
        mass, best = self.running_targets.sum(1), self.running_targets.amax(1)
        seen = mass > 0
        share = (best / mass)[seen]
        return {"seen": int(seen.sum()), "confidence": float(share.mean()) if len(share) else 0.0}
