"""Class weights: each sample counts by its class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method

if TYPE_CHECKING:
    from tether.engine.context import Context


def class_counts(targets: Tensor, num_classes: int) -> Tensor:
    """Samples of each class, float64 ``[K]``; -100 is left out, probabilities count as parts.

    Example:
        >>> class_counts(torch.tensor([0, 2, 2, -100]), 3)
        tensor([1., 0., 2.], dtype=torch.float64)
    """
    if targets.is_floating_point():
        return targets.double().sum(0)
    return targets[targets >= 0].bincount(minlength=num_classes).double()


def balanced_weights(counts: Tensor) -> Tensor:
    """``n / (K n_k)`` over the K classes that occur; 1 for those that do not.

    Example:
        >>> balanced_weights(torch.tensor([1.0, 0.0, 3.0]))
        tensor([2.0000, 1.0000, 0.6667])
    """
    present = counts > 0
    return torch.where(present, counts.sum() / (present.sum() * counts), 1.0)


def sample_weights(weights: Tensor, targets: Tensor) -> Tensor:
    """Weight of each row ``[N]``: of its class, or expected under its probabilities."""
    if targets.is_floating_point():
        return targets @ weights.to(targets.dtype)
    return weights[targets.clamp(min=0)]


@register(
    "class_weights",
    kind="targets",
    paper="doi:10.1093/oxfordjournals.pan.a004868",
    needs=("class_labels", "train_data"),
    cost="light",
    losses=("cross_entropy",),
    neutral={"weights": None},
    example={"weights": "balanced"},
)
class ClassWeights(Method):
    """Weigh each sample by its class, so that rare classes are not drowned by frequent ones.

    Helps where classes are unbalanced and each matters alike (balanced accuracy, macro F1). Hurts
    plain accuracy, calibration (the probabilities are those of balanced classes), and with wrong
    labels, which weigh most in a rare class.

    Over the N samples of a batch that count, with the weight w of each class::

        loss = sum_i w[y_i] loss_i / N

    Divided by N and not, as ``F.cross_entropy(weight=w)`` does, by the weights of the batch: a
    batch with many rare samples moves the model more, and accumulation is exact. "balanced" is
    ``w_k = n / (K n_k)``; a class without training samples weighs 1. ``normalize`` divides by the
    mean weight of the training set, so that the learning rate keeps its meaning.

    Class probabilities have their expected weight ``sum_k t_k w_k``; corrected, mixed and smoothed
    targets count as such. Rows with label -100 have none. Multi-label targets are refused: a
    sample then has no one class.

    Args:
        weights: "balanced", one number of 0 or more a class, or None: all alike (default).
        normalize: make the mean weight over the training set 1 (default).

    Shape:
        Class indices ``[N]`` or probabilities ``[N, K]``.

    State:
        ``class_weights``, float32 ``[K]``; replicated.

    Cost:
        O(N) a step. The labels of the training set are read once; data sets with an attribute
        ``targets`` or ``labels`` give them without their inputs.

    Raises:
        ValueError: a weight below 0 or not finite, or another word than "balanced".
        TetherError: not one weight a class, or weights 0 for all that occur.

    References:
        Gary King, Langche Zeng, "Logistic Regression in Rare Events Data", Political Analysis
        9(2), 2001.

    Example:
        >>> ClassWeights("balanced")
        ClassWeights(weights='balanced')
    """

    class_weights: Tensor

    def __init__(
        self, weights: str | Sequence[float] | None = None, normalize: bool = True
    ) -> None:
        if isinstance(weights, str):
            if weights != "balanced":
                raise ValueError(f"weights are 'balanced' or a number a class, got {weights!r}")
        elif weights is not None:
            bad = [w for w in weights if not (math.isfinite(w) and w >= 0)]
            if bad:
                raise ValueError(f"class weights are finite and 0 or more, got {bad[0]!r}")
        self.weights = weights
        self.normalize = normalize

    def setup(self, ctx: Context) -> None:
        """Count the classes of the training set, and declare the weights."""
        if self.weights is None:
            return
        classes = ctx.num_classes
        counts = class_counts(ctx.training_targets(), classes)
        weights = balanced_weights(counts)
        if not isinstance(self.weights, str):
            weights = torch.as_tensor(self.weights, dtype=torch.float64)
        if not len(counts) == len(weights) == classes:
            raise TetherError(
                f"method {ctx.name!r}: {len(weights)} weights, labels up to {len(counts) - 1}, and "
                f"{classes} classes"
            )
        if self.normalize:
            mean = (counts * weights).sum() / counts.sum()
            if not mean > 0:
                raise TetherError(f"method {ctx.name!r}: all classes of the data weigh 0")
            weights = weights / mean
        self.add_state("class_weights", weights.float().to(ctx.device))

    def weight_samples(self, batch: Batch) -> Tensor | None:
        """Weight of every row; None where all classes weigh alike."""
        return None if self.weights is None else sample_weights(self.class_weights, batch.targets)

    def measure(self) -> dict[str, Any]:
        """The weights in use, by class."""
        return {} if self.weights is None else {"class_weights": self.class_weights.tolist()}
