"""Replace labels that the network confidently contradicts by its own (one part of RegSL)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.method import Method
from tether.methods.targets.rows import average_duplicates, class_indices

if TYPE_CHECKING:
    from tether.engine.context import Context


def correct_labels(labels: Tensor, probs: Tensor, *, threshold: float) -> Tensor:
    """New labels ``[N]``: the likeliest class where its probability exceeds the threshold.

    Labels below 0 (rows that do not count) stay.

    Example:
        >>> probs = torch.tensor([[0.05, 0.95], [0.4, 0.6]])
        >>> correct_labels(torch.tensor([0, 0]), probs, threshold=0.9)
        tensor([1, 0])
    """
    best, likeliest = probs.max(dim=1)
    return torch.where((best > threshold) & (labels >= 0), likeliest, labels)


@register(
    "self_label_correction",
    kind="targets",
    paper="arXiv:2111.04578",
    needs=("class_labels", "index", "epochs"),
    cost="light",
    losses=("cross_entropy",),
    neutral={"start_epoch": math.inf},
    example={"threshold": 0.3, "start_epoch": 2},
    search_space={"threshold": ("uniform", 0.7, 0.99), "start_epoch": ("int", 2, 20)},
)
class SelfLabelCorrection(Method):
    """Replace, for good, labels that the network contradicts with confidence.

    Helps with wrong labels, together with something that keeps the network unsure about them
    (:class:`~tether.ConfidenceReweighting`, a constraint): alone it comes too late, since wrong
    labels are memorised before they are contradicted. Hurts on rare classes (see the counts of
    :meth:`measure`), with samples of unknown classes, on a network that underfits, and beside
    label smoothing or mixup, where no probability passes the threshold.

    From ``start_epoch`` on, in each step, with the probabilities p of this very forward::

        if max_k p_ik > threshold and argmax_k p_ik != y_i:   y_i <- argmax_k p_ik

    The loss of the same step uses the new label; it may be changed again later. Samples that
    occur twice in a batch are judged by their mean prediction.

    Args:
        threshold: confidence that must be exceeded, in [0, 1]; 1 never corrects (default and
            paper 0.9).
        start_epoch: first epoch of corrections, counted from 1; ``math.inf`` never corrects
            (default and paper 10; it must come before memorisation).

    Shape:
        logits ``[N, K]``, class indices ``[N]`` or probabilities ``[N, K]``, rows ``[N]``.

    State:
        ``current_labels`` and ``given_labels``, int64 ``[num_samples]``, -1 for samples not seen
        yet; per sample.

    Cost:
        O(N K) a step; 16 bytes a sample.

    Raises:
        ValueError: ``threshold`` or ``start_epoch`` out of range.

    References:
        Dongyue Li, Hongyang R. Zhang, "Improved Regularization and Robustness for Fine-tuning in
        Neural Networks", NeurIPS 2021, arXiv:2111.04578.

    Example:
        >>> SelfLabelCorrection(threshold=0.95)
        SelfLabelCorrection(threshold=0.95)
    """

    current_labels: Tensor
    given_labels: Tensor

    def __init__(self, threshold: float = 0.9, start_epoch: float = 10) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold!r}")
        if not start_epoch >= 1:
            raise ValueError(f"start_epoch counts from 1, got {start_epoch!r}")
        self.threshold = threshold
        self.start_epoch = start_epoch

    def setup(self, ctx: Context) -> None:
        """Declare the tables of labels."""
        for name in ("current_labels", "given_labels"):
            unseen = torch.full((ctx.num_samples,), -1, dtype=torch.int64, device=ctx.device)
            self.add_state(name, unseen, "per_sample")

    def transform_targets(self, batch: Batch) -> Tensor:
        """The labels as corrected so far, this batch included."""
        index, given = batch.need_index(), class_indices(batch.labels)
        stored = self.current_labels[index]
        labels = torch.where((stored >= 0) & (given >= 0), stored, given)
        if self.ctx.epoch + 1 >= self.start_epoch:
            probs = average_duplicates(index, batch.logits.detach().softmax(dim=1))
            labels = correct_labels(labels, probs, threshold=self.threshold)

        def write() -> None:
            for table, values in ((self.current_labels, labels), (self.given_labels, given)):
                table.index_copy_(0, index, torch.where(given >= 0, values, table[index]))

        self.ctx.defer(write)
        if batch.targets.ndim == 1:
            return labels
        corrected = torch.nn.functional.one_hot(labels.clamp(min=0), batch.targets.shape[1])
        changed = (labels != given)[:, None]
        return torch.where(changed, corrected.to(batch.targets.dtype), batch.targets)

    def labels(self) -> Tensor:
        """Present label of every sample, int64 ``[n]``; -1 where a sample was not seen yet."""
        return self.current_labels.clone()

    def corrections(self) -> dict[str, Tensor]:
        """Samples with a new label: ``index``, the label ``given``, the label ``corrected``."""
        index = torch.nonzero(self.current_labels != self.given_labels).squeeze(1)
        return {
            "index": index,
            "given": self.given_labels[index],
            "corrected": self.current_labels[index],
        }

    def measure(self) -> dict[str, Any]:
        """How many labels were seen and corrected; per class, from which and to which."""
        found, count = self.corrections(), self.ctx.num_classes
        return {
            "seen": int((self.given_labels >= 0).sum()),
            "corrected": len(found["index"]),
            "corrected_from": found["given"].bincount(minlength=count).tolist(),
            "corrected_to": found["corrected"].bincount(minlength=count).tolist(),
        }
