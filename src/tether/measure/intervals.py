"""How sure the mean of a few draws is."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tether.errors import ConfigError

Floats = NDArray[np.float64]


class Means(NamedTuple):
    """Means over the last dimension, with their standard errors and intervals.

    Attributes:
        mean: the means.
        standard_error: ``std / sqrt(n)``; NaN for a single draw.
        low: lower ends of the intervals.
        high: upper ends.
    """

    mean: Floats
    standard_error: Floats
    low: Floats
    high: Floats


def means(draws: NDArray[Any], level: float) -> Means:
    """Mean, standard error and Student's t interval over the last dimension.

    Args:
        draws: ``[..., n]``.
        level: coverage, between 0 and 1.

    Example:
        >>> found = means(np.array([1.0, 2.0, 3.0]), 0.95)
        >>> float(found.mean), round(float(found.low), 3), round(float(found.high), 3)
        (2.0, -0.484, 4.484)
    """
    values = np.asarray(draws, dtype=np.float64)
    n = values.shape[-1]
    mean = np.asarray(values.mean(-1))
    if n < 2:
        unknown = np.full_like(mean, math.nan)
        return Means(mean, unknown, unknown, unknown)
    with np.errstate(invalid="ignore"):  # infinite draws have no spread
        error = np.asarray(values.std(-1, ddof=1)) / math.sqrt(n)
        reach = t_quantile(check_level(level), n - 1) * error
        return Means(mean, error, mean - reach, mean + reach)


def check_level(level: float) -> float:
    """The coverage of an interval, or ConfigError.

    Args:
        level: to be checked.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level must lie between 0 and 1, got {level}")
    return float(level)


def t_probability(t: float, freedom: int) -> float:
    """Probability that Student's t with so many degrees of freedom lies within -t and t.

    By the finite series for whole degrees of freedom, exact to rounding.

    Args:
        t: at least 0.
        freedom: degrees of freedom, from 1.

    References:
        Milton Abramowitz, Irene A. Stegun, "Handbook of Mathematical Functions", 26.7.3-4, 1964.

    Example:
        >>> round(t_probability(1.0, 1), 6), round(t_probability(2.776445, 4), 6)
        (0.5, 0.95)
    """
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term, total = 1.0, 0.0 if freedom == 1 else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
    return math.sin(angle) * total


@lru_cache(maxsize=256)
def t_quantile(level: float, freedom: int) -> float:
    """The two-sided quantile of Student's t: within -t and t lies a share ``level``.

    Args:
        level: between 0 and 1.
        freedom: degrees of freedom, from 1.

    Example:
        >>> round(t_quantile(0.95, 4), 3)
        2.776
    """
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < level and high < 1e12:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_probability(middle, freedom) < level else (low, middle)
    return high
