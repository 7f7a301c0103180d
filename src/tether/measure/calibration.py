"""Whether a network's probabilities are what they say: reliability, calibration errors, scores.

NumPy only, in float64. Where probabilities are not numbers (a run that diverged), errors are NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.errors import ConfigError

Floats = NDArray[np.float64]

BINS = 15
SCHEMES = ("width", "mass")


def log_probabilities(logits: ArrayLike) -> Floats:
    """Logarithms of the softmax over the last dimension.

    Args:
        logits: ``[N, K]``.

    Example:
        >>> log_probabilities([[1000.0, 0.0]]).tolist()
        [[0.0, -1000.0]]
    """
    rows = _array(logits)
    with np.errstate(invalid="ignore"):  # infinite logits become NaN
        logs: Floats = rows - rows.max(-1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
    return logs


def negative_log_likelihood(log_probs: ArrayLike, labels: ArrayLike) -> float:
    """Mean of ``-log p`` of the true class, in nats; less is better.

    A proper score: it is least where the probabilities are the true ones.

    Args:
        log_probs: logarithms of probabilities, as :func:`log_probabilities` gives.
        labels: class indices.

    Shape:
        N x K and N.

    Raises:
        ConfigError: shapes that do not fit, or labels out of range.

    Example:
        >>> round(negative_log_likelihood(np.log([[0.5, 0.5]]), [1]), 6)
        0.693147
    """
    logs, y = _rows(log_probs, labels)
    return float(-logs[np.arange(len(y)), y].mean())


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Squared distance of the probabilities from the one-hot truth; between 0 and 2.

    A proper score; less than the likelihood does it mind a single confident mistake.

    ``mean_i sum_k (p_ik - [y_i = k])^2``

    Args:
        probabilities: rows that sum to one.
        labels: class indices.

    Shape:
        N x K and N.

    Raises:
        ConfigError: shapes that do not fit, or labels out of range.

    References:
        Glenn W. Brier, "Verification of Forecasts Expressed in Terms of Probability", 1950.

    Example:
        >>> brier_score([[0.5, 0.5], [1.0, 0.0]], [0, 1])
        1.25
    """
    p, y = _rows(probabilities, labels)
    target = np.zeros_like(p)
    target[np.arange(len(y)), y] = 1.0
    return float(((p - target) ** 2).sum(1).mean())


def reliability_curve(
    confidence: ArrayLike, correct: ArrayLike, bins: int = BINS, *, scheme: str = "width"
) -> dict[str, Floats]:
    """Accuracy against confidence, in bins of confidence; the diagonal is perfect calibration.

    Equally wide bins hold most samples in the last one when the network is sure of itself; bins
    of equal mass look at all samples with the same care.

    Args:
        confidence: probability of the predicted class, in [0, 1].
        correct: whether the prediction was right, 0 or 1.
        bins: how many, from 1.
        scheme: ``"width"``: bin b holds ``b / bins <= confidence < (b + 1) / bins``, and 1 goes
            into the last; ``"mass"``: samples in order of confidence, as equally many in each as
            goes (equal confidences may fall on both sides of an edge).

    Shape:
        N and N.

    Returns:
        ``count``, ``confidence`` (mean), ``accuracy`` (mean; both NaN in an empty bin), each
        ``[bins]``, and ``edges`` ``[bins + 1]``.

    Cost:
        O(N), or O(N log N) for equal mass.

    Raises:
        ConfigError: no samples, lengths that differ, confidences outside [0, 1], ``bins`` below
            1, an unknown scheme.

    References:
        Chuan Guo, Geoff Pleiss, Yu Sun, Kilian Q. Weinberger, "On Calibration of Modern Neural
        Networks", 2017, arXiv:1706.04599.
        Khanh Nguyen, Brendan O'Connor, "Posterior calibration and exploratory analysis for
        natural language processing models", 2015, arXiv:1508.05154 (equal mass).

    Example:
        >>> curve = reliability_curve([0.2, 0.9, 0.9, 0.8], [0, 1, 0, 1], bins=2)
        >>> curve["count"].tolist(), curve["accuracy"].round(3).tolist()
        ([1.0, 3.0], [0.0, 0.667])
    """
    c, right = _pairs(confidence, correct)
    if not ((c >= 0) & (c <= 1 + 1e-6)).all():
        raise ConfigError("confidences must be numbers in [0, 1]: pass probabilities, not logits")
    place = _places(c, bins, scheme)
    count = np.bincount(place, minlength=bins).astype(np.float64)
    held = np.where(count > 0, count, np.nan)
    edges = np.linspace(0.0, 1.0, bins + 1)
    if scheme == "mass":
        ends = np.sort(c)[np.minimum(np.cumsum(count).astype(np.int64), len(c) - 1)]
        edges = np.concatenate([[c.min()], ends[:-1], [c.max()]])
    return {
        "edges": edges,
        "count": count,
        "confidence": np.bincount(place, c, minlength=bins) / held,
        "accuracy": np.bincount(place, right, minlength=bins) / held,
    }


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, bins: int = BINS, *, scheme: str = "width"
) -> float:
    """Mean gap between confidence and accuracy over bins of confidence.

    Biased upwards for few samples (about ``sqrt(bins / N)`` for a calibrated network): compare
    values of equally many samples.

    ``sum_b |sum_{i in b} (correct_i - confidence_i)| / N``

    Args:
        confidence: probability of the predicted class.
        correct: whether the prediction was right.
        bins: number of bins; 15 after Guo et al.
        scheme: as in :func:`reliability_curve`.

    Shape:
        N and N.

    Raises:
        ConfigError: no samples, lengths that differ, ``bins`` below 1, an unknown scheme.

    References:
        Chuan Guo, Geoff Pleiss, Yu Sun, Kilian Q. Weinberger, "On Calibration of Modern Neural
        Networks", 2017, arXiv:1706.04599.

    Example:
        >>> round(expected_calibration_error([0.9, 0.8], [True, False], bins=10), 6)
        0.45
    """
    gaps, _ = _gaps(confidence, correct, bins, scheme)
    return float(np.abs(gaps).sum() / np.size(confidence))


def maximum_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, bins: int = BINS, *, scheme: str = "width"
) -> float:
    """Largest gap between mean confidence and accuracy of any bin that holds samples.

    ``max_b |accuracy_b - confidence_b|``. A bin of few samples easily is the largest: prefer
    equal mass.

    Args:
        confidence: probability of the predicted class.
        correct: whether the prediction was right.
        bins: number of bins.
        scheme: as in :func:`reliability_curve`.

    Shape:
        N and N.

    Raises:
        ConfigError: no samples, lengths that differ, ``bins`` below 1, an unknown scheme.

    References:
        Mahdi Pakdaman Naeini, Gregory F. Cooper, Milos Hauskrecht, "Obtaining Well Calibrated
        Probabilities Using Bayesian Binning", AAAI 2015.

    Example:
        >>> round(maximum_calibration_error([0.9, 0.8], [True, False], bins=10), 6)
        0.8
    """
    gaps, count = _gaps(confidence, correct, bins, scheme)
    held = count > 0
    return float((np.abs(gaps[held]) / count[held]).max())


def classwise_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS, *, scheme: str = "width"
) -> float:
    """Calibration error of the probability of every class, not of the predicted one alone.

    ``mean_k ECE(p_k, [y = k])``. With many classes most probabilities are near 0, and so is the
    error: compare models on one data set.

    Args:
        probabilities: rows that sum to one.
        labels: class indices.
        bins: number of bins.
        scheme: as in :func:`reliability_curve`.

    Shape:
        N x K and N.

    Cost:
        O(N K).

    Raises:
        ConfigError: shapes that do not fit, labels out of range, ``bins`` below 1.

    References:
        Meelis Kull, Miquel Perello-Nieto, Markus Kängsepp, Telmo Silva Filho, Hao Song, Peter
        Flach, "Beyond temperature scaling: Obtaining well-calibrated multi-class probabilities
        with Dirichlet calibration", 2019, arXiv:1910.12656.

    Example:
        >>> round(classwise_calibration_error([[0.8, 0.2], [0.8, 0.2]], [0, 1], bins=5), 6)
        0.3
    """
    p, y = _rows(probabilities, labels)
    errors = [
        expected_calibration_error(p[:, k], y == k, bins, scheme=scheme) for k in range(p.shape[1])
    ]
    return float(np.mean(errors))


def calibration_report(
    logits: ArrayLike, labels: ArrayLike, *, bins: int = BINS
) -> dict[str, float]:
    """All calibration numbers of a classifier at once.

    Args:
        logits: its outputs.
        labels: class indices.
        bins: bins of all errors.

    Shape:
        N x K with K >= 2, and N.

    Returns:
        ``accuracy``, ``confidence`` (their difference is over-confidence), ``nll``, ``brier``,
        ``ece``, ``ece_mass`` (bins of equal mass), ``mce``, ``mce_mass``, ``classwise_ece``.

    Cost:
        O(N K + N log N).

    Raises:
        ConfigError: shapes that do not fit, or labels out of range.

    References:
        Chuan Guo, Geoff Pleiss, Yu Sun, Kilian Q. Weinberger, "On Calibration of Modern Neural
        Networks", 2017, arXiv:1706.04599.

    Example:
        >>> found = calibration_report([[2.0, 0.0], [0.0, 2.0]], [0, 1])
        >>> found["accuracy"], round(found["ece"], 4), round(found["nll"], 4)
        (1.0, 0.1192, 0.1269)
    """
    logs, y = _rows(log_probabilities(logits), labels)
    p = np.exp(logs)
    sure, right = p.max(1), p.argmax(1) == y
    pair: tuple[Any, Any, int] = (sure, right, bins)
    return {
        "accuracy": float(right.mean()),
        "confidence": float(sure.mean()),
        "nll": negative_log_likelihood(logs, y),
        "brier": brier_score(p, y),
        "ece": expected_calibration_error(*pair),
        "ece_mass": expected_calibration_error(*pair, scheme="mass"),
        "mce": maximum_calibration_error(*pair),
        "mce_mass": maximum_calibration_error(*pair, scheme="mass"),
        "classwise_ece": classwise_calibration_error(p, y, bins),
    }


# -- checks and bins -------------------------------------------------------------------------------


def _array(values: Any) -> Floats:
    if hasattr(values, "detach"):  # a tensor: bfloat16 has no NumPy
        values = values.detach().cpu().double().numpy()
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"these cannot be read as numbers: {error}") from None


def _rows(values: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    rows, given = _array(values), _array(labels)
    if rows.ndim != 2 or not rows.size:
        raise ConfigError(f"probabilities must be samples x classes, not of shape {rows.shape}")
    if given.shape != rows.shape[:1]:
        raise ConfigError(f"{len(rows)} samples need as many labels, not shape {given.shape}")
    index = given.astype(np.int64)
    if (index != given).any() or index.min() < 0 or index.max() >= rows.shape[1]:
        raise ConfigError(f"labels must be class indices below {rows.shape[1]}")
    return rows, index


def _pairs(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    c, right = _array(confidence), _array(correct)
    if c.ndim != 1 or not c.size or c.shape != right.shape:
        raise ConfigError(
            "confidence and correct must be as long as each other, one number a sample, not of "
            f"shapes {c.shape} and {right.shape}"
        )
    return c, right


def _places(confidence: Floats, bins: int, scheme: str) -> NDArray[np.int64]:
    """The bin of each sample."""
    if bins < 1 or scheme not in SCHEMES:
        raise ConfigError(
            f"bins must be at least 1 and scheme one of {', '.join(SCHEMES)}, not {bins} and "
            f"{scheme!r}"
        )
    if scheme == "width":
        return np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    ranks = np.empty(len(confidence), dtype=np.int64)
    ranks[np.argsort(confidence, kind="stable")] = np.arange(len(confidence))
    places: NDArray[np.int64] = ranks * bins // len(confidence)
    return places


def _gaps(
    confidence: ArrayLike, correct: ArrayLike, bins: int, scheme: str
) -> tuple[Floats, Floats]:
    """Sum over each bin of what was right less what was claimed, and samples in it."""
    c, right = _pairs(confidence, correct)
    if not np.isfinite(c).all():  # no bin is theirs
        return np.full(bins, np.nan), np.ones(bins)
    place = _places(c, bins, scheme)
    count = np.bincount(place, minlength=bins).astype(np.float64)
    gaps: Floats = np.bincount(place, right - c, minlength=bins).astype(np.float64)
    return gaps, count
