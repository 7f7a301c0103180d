"""Intervals for the mean of a few paired differences."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.compare.statistics import FEWEST_PAIRS, Floats, finite_values, varies
from tether.optional import require

Interval = tuple[float, float]

#: Pairs from which a bootstrap interval is given: with fewer, even the interval from the
#: smallest to the largest value covers its middle in less than 95 % of all samples.
FEWEST_BOOTSTRAP = 6
RESAMPLES = 4000
_KEPT = 64  # draws for up to so many values are kept


def t_interval(values: ArrayLike, *, level: float = 0.95) -> Interval | None:
    """Interval for the mean by Student's t; None with fewer than three finite values.

    Args:
        values: numbers, for example differences of pairs; NaN is left out.
        level: coverage, between 0 and 1.

    Example:
        >>> [round(end, 3) for end in t_interval([1.0, 2.0, 3.0])]
        [-0.484, 4.484]
        >>> t_interval([1.0, 2.0]) is None
        True
    """
    kept = finite_values(values)
    n = kept.size
    if n < FEWEST_PAIRS:
        return None
    mean = float(kept.mean())
    if not varies(kept):
        return mean, mean
    reach = t_quantile(level, n - 1) * float(kept.std(ddof=1)) / math.sqrt(n)
    return mean - reach, mean + reach


@lru_cache(maxsize=256)
def t_quantile(level: float, freedom: int) -> float:
    """The two-sided quantile of Student's t.

    Args:
        level: coverage, between 0 and 1.
        freedom: degrees of freedom, from 1.

    Example:
        >>> round(t_quantile(0.95, 4), 3)
        2.776
    """
    special = require("scipy.special", "sweep", "the statistics of a comparison")
    return float(special.stdtrit(freedom, (1 + level) / 2))


def bootstrap_interval(
    values: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval | None:
    """Percentile bootstrap interval for the mean; None with fewer than six finite values.

    The percentiles are moved outwards for few values ("expanded percentiles"): the plain ones
    are too narrow by the factor sqrt((n - 1) / n) and by the normal's lighter tails.

    Args:
        values: numbers, for example differences of pairs; NaN is left out.
        level: coverage, between 0 and 1.
        resamples: number of resamples.
        seed: of the resamples; the same values and seed give the same interval.

    References:
        Tim Hesterberg, What Teachers Should Know about the Bootstrap, 2014, arXiv:1411.5279.

    Example:
        >>> low, high = bootstrap_interval([0.1, 0.3, 0.2, 0.4, 0.2, 0.3])
        >>> bool(0.1 < low < 0.25 < high < 0.4)
        True
    """
    kept = finite_values(values)
    n = kept.size
    if n < FEWEST_BOOTSTRAP:
        return None
    if not varies(kept):
        return float(kept[0]), float(kept[0])
    tail = NormalDist().cdf(-math.sqrt(n / (n - 1)) * t_quantile(level, n - 1))
    means = resampled_means(kept, resamples, seed)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def resampled_means(values: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means of resamples of the rows, drawn with replacement.

    Args:
        values: one row per seed.
        resamples: number of resamples.
        seed: of the draws; rows of equal number are drawn alike.

    Shape:
        `(n,)` or `(n, k)` to `(resamples,)` or `(resamples, k)`.

    Example:
        >>> resampled_means(np.array([1.0, 1.0, 1.0]), 2).tolist()
        [1.0, 1.0]
    """
    n = len(values)
    if n <= _KEPT:
        return np.asarray(resample_weights(n, resamples, seed) @ values, np.float64)
    generator = np.random.default_rng([seed, n])
    step = max(1, 1_000_000 // n)  # many rows are drawn in parts, to spare memory
    parts = [
        generator.multinomial(n, np.full(n, 1 / n), size=min(step, resamples - start)) @ values / n
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts)


@lru_cache(maxsize=16)
def resample_weights(n: int, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """How much every value counts in every resample: rows that sum to one.

    Args:
        n: number of values.
        resamples: number of rows.
        seed: of the draws.

    Shape:
        `(resamples, n)`, read-only.

    Example:
        >>> resample_weights(4, 3).sum(axis=1).tolist()
        [1.0, 1.0, 1.0]
    """
    generator = np.random.default_rng([seed, n])
    draws: NDArray[np.int64] = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
    weights = draws / n
    weights.setflags(write=False)
    return weights
