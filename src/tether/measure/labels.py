"""Scores for label correction, for detecting wrong labels, and for sample weights.

Shares of nothing (0 / 0) are NaN, never a flattering 0 or 1.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy.typing as npt
import torch
from torch import Tensor

from tether.noise.base import (
    ArrayLike,
    LabelLike,
    as_cpu_tensor,
    as_labels,
    as_rows,
    check_lengths,
)

ScoreLike = Tensor | npt.NDArray[Any] | list[float]


class CorrectionReport(TypedDict):
    """What :func:`correction_report` returns."""

    precision: float
    recall: float
    damage: float
    wrong_to_wrong: float
    accuracy_before: float
    accuracy_after: float
    changed: int
    per_class: dict[str, list[float]]


def correction_report(
    labels: LabelLike, true: LabelLike, final: LabelLike, *, num_classes: int | None = None
) -> CorrectionReport:
    """Scores corrected labels against the true ones, overall and for each class.

    With given labels s, true labels y, final labels t, and C the samples whose label changed:

    - ``precision = |{C, t = y}| / |C|``
    - ``recall = |{s != y, t = y}| / |{s != y}|``, ``wrong_to_wrong`` the share of the same
      samples that got another wrong label; the rest of them kept theirs
    - ``damage = |{s = y, t != y}| / |{s = y}|``

    They obey ``accuracy_after = accuracy_before + recall (1 - accuracy_before)
    - damage accuracy_before``.

    Args:
        labels: labels given to training.
        true: true labels.
        final: labels after correction.
        num_classes: number of classes K; by default the largest label plus one.

    Shape:
        Three times n class indices. ``per_class`` holds lists of K numbers, grouped by the TRUE
        class, under the same names (and ``changed``).

    Cost:
        O(n + K).

    Raises:
        ValueError: the lengths differ, or labels are not class indices below ``num_classes``.

    Example:
        >>> report = correction_report([0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 1, 0])
        >>> report["precision"], report["recall"], report["damage"]
        (1.0, 0.5, 0.0)
    """
    s = as_labels(labels, num_classes=num_classes)
    y = as_labels(true, name="true", num_classes=num_classes)
    t = as_labels(final, name="final", num_classes=num_classes)
    check_lengths(labels=s, true=y, final=t)
    k = num_classes or int(torch.stack([s, y, t]).max()) + 1
    changed, wrong, right_now = t != s, s != y, t == y

    def by_class(mask: Tensor) -> Tensor:
        counts = torch.bincount(y[mask], minlength=k)
        return torch.cat([counts, counts.sum().view(1)]).double()

    sizes, wrongs, changes = by_class(torch.ones_like(wrong)), by_class(wrong), by_class(changed)
    columns = {
        "precision": by_class(changed & right_now) / changes,
        "recall": by_class(wrong & right_now) / wrongs,
        "damage": by_class(~wrong & ~right_now) / (sizes - wrongs),
        "wrong_to_wrong": by_class(wrong & changed & ~right_now) / wrongs,
        "accuracy_before": (sizes - wrongs) / sizes,
        "accuracy_after": by_class(right_now) / sizes,
        "changed": changes,
    }
    lists = {name: column.tolist() for name, column in columns.items()}
    return CorrectionReport(
        precision=lists["precision"][-1],
        recall=lists["recall"][-1],
        damage=lists["damage"][-1],
        wrong_to_wrong=lists["wrong_to_wrong"][-1],
        accuracy_before=lists["accuracy_before"][-1],
        accuracy_after=lists["accuracy_after"][-1],
        changed=int(lists["changed"][-1]),
        per_class={name: values[:-1] for name, values in lists.items()},
    )


def label_churn(history: ArrayLike) -> dict[str, Any]:
    """Counts how often stored labels change from epoch to epoch.

    Args:
        history: labels of every sample at the start and after each epoch.

    Shape:
        E + 1 rows of n labels.

    Returns:
        ``changes``: E numbers of labels changed per epoch; ``distinct``: samples whose label
        ever changed; ``returned``: those of them that ended where they began.

    Raises:
        ValueError: the history is not a table of whole numbers with at least one row.

    Example:
        >>> label_churn([[0, 1, 2], [0, 2, 1], [0, 1, 1]])
        {'changes': [2, 1], 'distinct': 2, 'returned': 1}
    """
    table = as_cpu_tensor(history, "history")
    if table.ndim != 2 or table.numel() == 0 or table.is_floating_point():
        raise ValueError(f"history must be epochs x samples of labels, not {tuple(table.shape)}")
    moved = table[1:] != table[:-1]
    ever = moved.any(0)
    return {
        "changes": moved.sum(1).tolist(),
        "distinct": int(ever.sum()),
        "returned": int((ever & (table[0] == table[-1])).sum()),
    }


def transition_error(estimate: ArrayLike, transition: ArrayLike) -> float:
    """Distance of an estimated transition matrix from the true one: ``sum |A - T| / K``.

    Args:
        estimate: K x K, rows sum to one; from counts (:func:`tether.noise.transition_matrix`)
            or from a method.
        transition: the matrix to compare with.

    Raises:
        ValueError: matrices of different shapes, or rows that do not sum to one.

    Example:
        >>> round(transition_error([[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.1, 0.9]]), 6)
        0.2
    """
    t = as_cpu_tensor(transition, "transition")
    if t.ndim != 2 or t.shape[0] != t.shape[1]:
        raise ValueError(f"transition must be a square matrix, not shape {tuple(t.shape)}")
    shape = (int(t.shape[0]), int(t.shape[1]))
    a = as_rows(estimate, name="estimate", shape=shape)
    return float((a - as_rows(t, name="transition", shape=shape)).abs().sum() / shape[0])


def as_scores(scores: ScoreLike, name: str = "scores") -> Tensor:
    """One finite float64 number a sample, on the CPU."""
    values = as_cpu_tensor(scores, name).double()
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"{name} must hold one number a sample, not shape {tuple(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"{name} hold values that are not finite")
    return values


def _ranked(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Cumulative true and false positives after each distinct score, highest score first."""
    order = torch.argsort(scores, descending=True, stable=True)
    s, p = scores[order], positive[order].double()
    last_of_tie = torch.ones(len(s), dtype=torch.bool)
    last_of_tie[:-1] = s[1:] != s[:-1]
    return p.cumsum(0)[last_of_tie], (1 - p).cumsum(0)[last_of_tie]


def auroc(scores: ScoreLike, positive: LabelLike) -> float:
    """Probability that a positive scores above a negative, ties counting half.

    Args:
        scores: higher means more likely positive.
        positive: boolean (or 0/1) for each sample.

    Returns:
        A number in [0, 1], 0.5 for scores that say nothing; NaN without positives or negatives.

    Raises:
        ValueError: the lengths differ, or scores are not finite.

    Example:
        >>> auroc([0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0])
        0.875
    """
    values, flags = as_scores(scores), as_labels(positive, name="positive", num_classes=2)
    check_lengths(scores=values, positive=flags)
    hits, alarms = _ranked(values, flags)
    before = torch.cat([hits.new_zeros(1), hits[:-1]])
    width = torch.cat([alarms[:1], alarms.diff()])
    return float((width * (before + hits) / 2).sum() / (hits[-1] * alarms[-1]))


def average_precision(scores: ScoreLike, positive: LabelLike) -> float:
    """Precision averaged over the positives, in the order of the scores.

    ``sum_i (R_i - R_{i-1}) P_i`` over distinct scores, without interpolation.

    Args:
        scores: higher means more likely positive.
        positive: boolean (or 0/1) for each sample.

    Returns:
        A number in (0, 1]; the share of positives for scores that say nothing; NaN without any.

    Raises:
        ValueError: the lengths differ, or scores are not finite.

    Example:
        >>> average_precision([0.9, 0.5, 0.1], [1, 0, 1]) == (1 + 2 / 3) / 2
        True
    """
    values, flags = as_scores(scores), as_labels(positive, name="positive", num_classes=2)
    check_lengths(scores=values, positive=flags)
    hits, alarms = _ranked(values, flags)
    gained = torch.cat([hits[:1], hits.diff()])
    return float((gained * hits / (hits + alarms)).sum() / hits[-1])


def detection_report(
    scores: ScoreLike, labels: LabelLike, true: LabelLike, *, threshold: float | None = None
) -> dict[str, float]:
    """Scores a detector of wrong labels: does it rank them first?

    Args:
        scores: suspicion of each sample, higher is worse (its loss, for instance).
        labels: given labels.
        true: true labels.
        threshold: samples above it count as reported; None leaves those numbers out.

    Shape:
        n numbers, n and n class indices.

    Returns:
        ``auroc``, ``average_precision``, ``precision_at_k`` with k = ``num_wrong`` (equal scores
        at the border count by their expected share), ``num_wrong``; with a threshold also
        ``precision``, ``recall``, ``f1`` and ``num_reported``.

    Cost:
        O(n log n).

    Raises:
        ValueError: the lengths differ, labels are not class indices, scores are not finite.

    Example:
        >>> report = detection_report([3.0, 0.2, 2.0, 0.1], [1, 1, 0, 0], [0, 1, 1, 0])
        >>> report["auroc"], report["precision_at_k"]
        (1.0, 1.0)
    """
    values = as_scores(scores)
    s, y = as_labels(labels), as_labels(true, name="true")
    check_lengths(scores=values, labels=s, true=y)
    wrong = s != y
    num_wrong = int(wrong.sum())
    report = {
        "auroc": auroc(values, wrong),
        "average_precision": average_precision(values, wrong),
        "precision_at_k": _precision_at(values, wrong, num_wrong),
        "num_wrong": float(num_wrong),
    }
    if threshold is not None:
        reported = values > threshold
        hits, count = int((reported & wrong).sum()), int(reported.sum())
        report["precision"] = hits / count if count else float("nan")
        report["recall"] = hits / num_wrong if num_wrong else float("nan")
        report["f1"] = 2 * hits / (count + num_wrong) if count + num_wrong else float("nan")
        report["num_reported"] = float(count)
    return report


def _precision_at(scores: Tensor, positive: Tensor, k: int) -> float:
    """Share of positives among the k highest scores, averaged over the order of equal ones."""
    if k == 0:
        return float("nan")
    border = scores.topk(k).values[-1]
    above, tied = scores > border, scores == border
    places = k - int(above.sum())
    hits = float(positive[above].sum()) + places * float(positive[tied].double().mean())
    return hits / k


def weight_report(weights: ScoreLike, labels: LabelLike, true: LabelLike) -> dict[str, float]:
    """Compares the weights a method gives to clean and to wrongly labelled samples.

    Args:
        weights: weight of each sample, not negative.
        labels: given labels.
        true: true labels.

    Returns:
        ``mean_clean``, ``mean_wrong``, ``auroc`` (of low weight as a sign of a wrong label), and
        ``effective_size = (sum w)^2 / sum w^2``, between 1 and n.

    Raises:
        ValueError: the lengths differ, labels are not class indices, weights are negative or not
            finite.

    Example:
        >>> weight_report([1.0, 1.0, 0.0, 0.0], [0, 1, 0, 1], [0, 1, 1, 0])["effective_size"]
        2.0
    """
    w = as_scores(weights, "weights")
    if bool((w < 0).any()):
        raise ValueError("weights must not be negative")
    s, y = as_labels(labels), as_labels(true, name="true")
    check_lengths(weights=w, labels=s, true=y)
    wrong = s != y
    return {
        "mean_clean": float(w[~wrong].mean()),
        "mean_wrong": float(w[wrong].mean()),
        "auroc": auroc(-w, wrong),
        "effective_size": float(w.sum().square() / w.square().sum()),
    }
