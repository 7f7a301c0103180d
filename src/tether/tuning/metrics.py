"""Scores of predictions: classes, several labels a sample, and numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: task -> the metrics it has, the default that chooses the best epoch first.
METRICS: dict[str, tuple[str, ...]] = {
    "single_label": ("accuracy", "macro_f1", "balanced_accuracy", "nll", "ece", "loss"),
    "multi_label": ("map", "auroc", "micro_f1", "macro_f1", "loss"),
    "regression": ("mae", "mse", "r2", "spearman", "loss"),
}
#: Metrics of which less is better.
LESS = ("nll", "ece", "mae", "mse", "loss")


def score(task: str, logits: NDArray[np.floating], labels: NDArray[np.generic]) -> dict[str, float]:
    """All metrics of a task.

    Args:
        task: a key of ``METRICS``.
        logits: ``[N, K]``, or ``[N]`` for one number a sample.
        labels: class indices ``[N]``, multi-hot ``[N, K]``, or numbers of the logits' shape.
    """
    rows: Floats = np.asarray(logits, dtype=np.float64)
    if task == "single_label":
        return _classes(rows, np.asarray(labels).astype(np.int64))
    if task == "multi_label":
        return _several(rows, np.asarray(labels) > 0.5)
    return _numbers(rows, np.asarray(labels, dtype=np.float64).reshape(rows.shape))


def _classes(logits: Floats, labels: NDArray[np.int64]) -> dict[str, float]:
    # here, because the names above are read where torch is not to be imported
    from tether.measure import calibration

    logs = calibration.log_probabilities(logits)
    predicted = logits.argmax(1)
    k = logits.shape[1]
    right = np.bincount(labels[predicted == labels], minlength=k).astype(np.float64)
    given = np.bincount(labels, minlength=k)
    said = np.bincount(predicted, minlength=k)
    present, seen = given > 0, (given + said) > 0
    return {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float((2 * right[seen] / (given + said)[seen]).mean()),
        "balanced_accuracy": float((right[present] / given[present]).mean()),
        "nll": calibration.negative_log_likelihood(logs, labels),
        "ece": calibration.expected_calibration_error(np.exp(logs).max(1), predicted == labels),
    }


def _several(logits: Floats, labels: NDArray[np.bool_]) -> dict[str, float]:
    said = logits > 0
    hits, total = (said & labels).sum(0), said.sum(0) + labels.sum(0)
    seen = total > 0
    mixed = [k for k in range(labels.shape[1]) if 0 < labels[:, k].sum() < len(labels)]
    precision = [_average_precision(logits[:, k], labels[:, k]) for k in mixed]
    areas = [_area(logits[:, k], labels[:, k]) for k in mixed]
    return {
        "map": float(np.mean(precision)) if mixed else float("nan"),
        "auroc": float(np.mean(areas)) if mixed else float("nan"),
        "micro_f1": float(2 * hits.sum() / max(int(total.sum()), 1)),
        "macro_f1": float((2 * hits[seen] / total[seen]).mean()) if seen.any() else float("nan"),
    }


def _average_precision(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """Sum over thresholds of the recall gained there times the precision; ties share one."""
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    hits = np.cumsum(truth[order])[ends]
    gained = np.diff(hits, prepend=0)
    return float((gained * hits / (ends + 1)).sum() / truth.sum())


def _area(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """Chance that a positive sample stands above a negative one; ties count half."""
    ranks, n = _ranks(scores), int(truth.sum())
    return float((ranks[truth].sum() - n * (n + 1) / 2) / (n * (len(truth) - n)))


def _ranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[inverse]
    return ranks


def _numbers(values: Floats, truth: Floats) -> dict[str, float]:
    error = values - truth
    spread = ((truth - truth.mean(0)) ** 2).sum()
    a, b = _ranks(values.ravel()), _ranks(truth.ravel())
    flat = a.std() * b.std()
    return {
        "mae": float(np.abs(error).mean()),
        "mse": float((error**2).mean()),
        "r2": float(1 - (error**2).sum() / spread) if spread > 0 else float("nan"),
        "spearman": float(((a - a.mean()) * (b - b.mean())).mean() / flat)
        if flat
        else float("nan"),
    }
