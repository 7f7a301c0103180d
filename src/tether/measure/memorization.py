"""Is the network learning, or is it memorising wrong labels?"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from tether.measure.labels import ScoreLike, as_scores, auroc
from tether.noise.base import LabelLike, as_cpu_tensor, as_labels, check_lengths


def memorization_fractions(
    predictions: Tensor | npt.NDArray[Any] | list[int], labels: LabelLike, true: LabelLike
) -> dict[str, float]:
    """Shares of wrongly labelled training samples that are memorised, resisted, or neither.

    Predict the training samples in evaluation mode under a fixed transform, once an epoch. A
    network first resists wrong labels and later memorises them; start correcting before.
    Without true labels, hold out 5 % of the samples, flip their labels on purpose and watch them.

    Among samples with ``given != true``: ``memorised`` predicted as given, ``resisted`` predicted
    as true, ``other``; the three sum to one. Among the others: ``fitted`` predicted as given.

    Args:
        predictions: predicted classes, or scores of the classes (the largest is taken).
        labels: labels given to training.
        true: true labels.

    Shape:
        ``predictions``: n, or n x K; ``labels``, ``true``: n.

    Returns:
        The four shares and ``num_wrong``, ``num_clean``; a share of nothing is NaN.

    Cost:
        O(n), and one pass over the training samples for the predictions.

    Raises:
        ValueError: the lengths differ, or labels are not class indices.

    References:
        Devansh Arpit et al., "A Closer Look at Memorization in Deep Networks", 2017,
        arXiv:1706.05394.

    Example:
        >>> shares = memorization_fractions([0, 1, 1, 2], [0, 1, 0, 0], [0, 0, 1, 1])
        >>> shares["fitted"], round(shares["memorised"], 3), round(shares["resisted"], 3)
        (1.0, 0.333, 0.333)
    """
    predicted = as_cpu_tensor(predictions, "predictions")
    if predicted.ndim == 2:
        predicted = predicted.argmax(1)
    rows = memorization_curve(predicted[None], labels, true)
    return {name: values[0] for name, values in rows.items()}


def memorization_curve(
    predictions: Tensor | npt.NDArray[Any] | list[list[int]], labels: LabelLike, true: LabelLike
) -> dict[str, list[float]]:
    """The shares of :func:`memorization_fractions` for every epoch.

    Args:
        predictions: predicted classes of all training samples, one row an epoch.
        labels: labels given to training.
        true: true labels.

    Shape:
        ``predictions``: E x n; ``labels``, ``true``: n. Each list of the result has E numbers.

    Raises:
        ValueError: the lengths differ, or labels are not class indices.

    Example:
        >>> memorization_curve([[1, 1], [0, 1]], [0, 1], [1, 1])["memorised"]
        [0.0, 1.0]
    """
    p = as_cpu_tensor(predictions, "predictions")
    if p.ndim != 2 or p.is_floating_point():
        raise ValueError(f"predictions must be epochs x samples of classes, not {tuple(p.shape)}")
    s, y = as_labels(labels), as_labels(true, name="true")
    check_lengths(predictions=p.T, labels=s, true=y)
    wrong = s != y
    as_given, as_true = p == s, p == y

    def share(hits: Tensor, among: Tensor) -> list[float]:
        values: list[float] = (hits[:, among].double().sum(1) / among.sum()).tolist()
        return values

    epochs = len(p)
    return {
        "memorised": share(as_given, wrong),
        "resisted": share(as_true, wrong),
        "other": share(~as_given & ~as_true, wrong),
        "fitted": share(as_given, ~wrong),
        "num_wrong": [float(wrong.sum())] * epochs,
        "num_clean": [float((~wrong).sum())] * epochs,
    }


def loss_histograms(
    losses: ScoreLike, labels: LabelLike, true: LabelLike, *, bins: int = 30
) -> dict[str, Any]:
    """Histograms of the loss over clean and over wrongly labelled samples.

    Two separate humps mean that the loss tells wrong labels apart; merged ones that they are
    memorised.

    Args:
        losses: loss of each training sample.
        labels: labels given to training.
        true: true labels.
        bins: number of bins, common to both, from 0 or the least loss to the largest.

    Returns:
        ``edges`` (bins + 1 numbers), ``clean`` and ``wrong`` (bins counts each), ``auroc`` of the
        loss as a detector of wrong labels.

    Raises:
        ValueError: the lengths differ, losses are not finite, ``bins`` below 1.

    Example:
        >>> found = loss_histograms([0.1, 0.2, 3.0, 4.0], [0, 1, 0, 1], [0, 1, 1, 0], bins=2)
        >>> found["clean"], found["wrong"], found["auroc"]
        ([2, 0], [0, 2], 1.0)
    """
    values = as_scores(losses, "losses")
    s, y = as_labels(labels), as_labels(true, name="true")
    check_lengths(losses=values, labels=s, true=y)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    low = min(0.0, float(values.min()))
    high = max(float(values.max()), low + torch.finfo(torch.float32).tiny)
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    place = torch.bucketize(values, edges[1:-1], right=True)
    wrong = s != y
    return {
        "edges": edges.tolist(),
        "clean": torch.bincount(place[~wrong], minlength=bins).tolist(),
        "wrong": torch.bincount(place[wrong], minlength=bins).tolist(),
        "auroc": auroc(values, wrong),
    }
