"""The formulas of ConR: a contrastive loss for regression, and weights by label density."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.methods.features.rows import check_choice, feature_rows

PUSHES = ("exp", "linear")
DENSITIES = ("none", "sqrt_inv", "inverse")
LONE = ("skip", "self")
#: Largest logarithm of a pushing weight: far labels must not overflow.
_MOST = 50.0


def label_distances(first: Tensor, second: Tensor) -> Tensor:
    """Mean absolute differences of all pairs of labels, ``[N, M]``; for one number ``|a - b|``.

    Example:
        >>> label_distances(torch.tensor([0.0, 2.0]), torch.tensor([1.0]))
        tensor([[1.],
                [1.]])
    """
    a, b = first.reshape(len(first), -1), second.reshape(len(second), -1)
    return (a[:, None] - b[None]).abs().mean(2)


def conr_loss(
    features: Tensor, targets: Tensor, predictions: Tensor, sample_weights: Tensor | None = None,
    *, window: float, temperature: float = 0.07, push: float = 0.01, push_mode: str = "exp",
    lone: str = "skip", official_denominator: bool = False, reduction: str = "mean",
) -> Tensor:  # fmt: skip
    """Pull samples of like labels together, push those apart that are only predicted alike.

    Args:
        features: ``[N, d]``.
        targets: labels ``[N]`` or ``[N, D]``.
        predictions: of the model, of the same shape; no gradient reaches them.
        sample_weights: weight v of each sample ``[N]``; None: 1.
        window: labels at most so far apart are alike; so are predictions.
        temperature: of the cosines.
        push: e, how the push grows with the distance of the labels.
        push_mode: ``"exp"``: ``v exp(e D)``; ``"linear"``: ``v e D``.
        lone: an anchor without a positive: ``"skip"``, or its own positive (``"self"``).
        official_denominator: add, as the released code does, 1 for each sample that is no
            positive, and the positives' count over the whole batch.
        reduction: ``"mean"`` over all anchors, or ``"none"`` for ``[N]``.

    Example:
        >>> rows, labels = torch.ones(3, 2), torch.tensor([0.0, 0.0, 10.0])
        >>> conr_loss(rows, labels, torch.zeros(3), window=1, push=0, reduction="none")
        tensor([0.6931, 0.6931, 0.0000])
    """
    check_choice("push_mode", push_mode, PUSHES)
    check_choice("lone", lone, LONE)
    check_choice("reduction", reduction, ("mean", "none"))
    rows = F.normalize(feature_rows(features), dim=1)
    similarity = rows @ rows.T / temperature
    targets, predictions = targets.detach(), predictions.detach()
    far = label_distances(targets, targets)
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    positive = (far <= window) & ~itself
    negative = (far > window) & (label_distances(predictions, predictions) <= window)
    if lone == "self":
        positive = positive | (itself & ~positive.any(1, keepdim=True))
    v = rows.new_ones(len(rows)) if sample_weights is None else sample_weights.detach().to(rows)
    strength = push * far if push_mode == "exp" else (push * far).clamp(min=1e-20).log()
    strength = (strength + v.clamp(min=1e-20).log()[:, None]).clamp(max=_MOST)

    counts = positive.sum(1)
    anchors = (counts > 0) & negative.any(1)
    nothing = torch.full_like(similarity, -math.inf)
    terms = torch.where(positive, similarity, torch.where(negative, similarity + strength, nothing))
    if official_denominator:
        others = (len(rows) - counts).to(terms).log()[:, None]
        terms = torch.cat([terms, others], 1)
    # rows without a term would have no gradient that is a number
    terms = torch.where(anchors[:, None], terms, 0.0)
    pulled = torch.where(positive, similarity, 0.0).sum(1) / counts.clamp(min=1)
    losses = v * torch.where(anchors, terms.logsumexp(1) - pulled, 0.0)
    return losses if reduction == "none" else losses.mean()


def smoothed_density(counts: Tensor, sigma: float) -> Tensor:
    """Counts of bins after a Gaussian window of standard deviation ``sigma`` bins; 0: as they are.

    Label-distribution smoothing: neighbouring labels look alike, so that a rare label among
    frequent ones is not as rare as its own count says. Counts are mirrored at both ends.

    Args:
        counts: ``[bins]``.
        sigma: in bins.

    Example:
        >>> smoothed_density(torch.tensor([0.0, 4.0, 0.0]), 0.0)
        tensor([0., 4., 0.])
    """
    if sigma <= 0:
        return counts
    half = min(math.ceil(3 * sigma), len(counts) - 1)
    steps = torch.arange(-half, half + 1, device=counts.device, dtype=counts.dtype)
    kernel = (-0.5 * (steps / sigma).square()).exp()
    padded = F.pad(counts[None, None], (half, half), mode="reflect") if half else counts[None, None]
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[0, 0]


def label_bins(targets: Tensor, low: float | Tensor, high: float | Tensor, bins: int) -> Tensor:
    """The bin of each label among ``bins`` of equal width, int64; labels outside go to the ends.

    Example:
        >>> label_bins(torch.tensor([0.0, 0.49, 1.0, 7.0]), 0.0, 1.0, 2)
        tensor([0, 0, 1, 1])
    """
    width = (high - low) / bins
    return ((targets - low) / width).floor().clamp(0, bins - 1).long()


def label_density_weights(
    targets: Tensor, bins: int = 50, *, mode: str = "sqrt_inv", sigma: float = 0.0
) -> Tensor:
    """Weight of each bin of labels by how rare they are, mean 1 over the samples, ``[bins]``.

    Args:
        targets: labels of the training set ``[n]``.
        bins: of equal width between the least and the largest label.
        mode: ``"inverse"``: one over the count, which is clamped to [5, 1000];
            ``"sqrt_inv"``: one over its root; ``"none"``: 1.
        sigma: label-distribution smoothing, in bins; 0: none.

    Example:
        >>> label_density_weights(torch.tensor([0.0] * 80 + [1.0] * 20), 2)
        tensor([0.8333, 1.6667])
    """
    check_choice("mode", mode, DENSITIES)
    labels = targets.detach().double().flatten()
    place = label_bins(labels, float(labels.min()), float(labels.max()), bins)
    counts = place.bincount(minlength=bins).double()
    density = smoothed_density(counts, sigma)
    if mode == "none":
        return torch.ones(bins)
    if mode == "inverse":
        weights = 1 / density.clamp(5, 1000)
    else:
        weights = density.clamp(min=1e-6).rsqrt()
    weights = torch.where((counts > 0) | (sigma > 0), weights, 0.0)
    weights = weights * (len(labels) / weights[place].sum())
    return torch.where(counts > 0, weights, weights[place].amax()).float()
