"""How many seeds a question needs: the power of the paired t test."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from tether.compare.statistics import FEWEST_PAIRS, Floats
from tether.optional import require

#: Beyond so many seeds the answer is "more than this".
MOST_SEEDS = 1000


def paired_power(effect: ArrayLike, pairs: ArrayLike, *, level: float = 0.05) -> Floats:
    """Chance that the two-sided paired t test finds a difference of a given size.

    Args:
        effect: true mean difference in standard deviations of the differences.
        pairs: number of pairs, at least 2; broadcast against `effect`.
        level: significance level of the test.

    Example:
        >>> round(float(paired_power(1.0, 10)), 3)
        0.803
    """
    special = require("scipy.special", "sweep", "the power of a comparison")
    size, n = np.broadcast_arrays(np.abs(np.asarray(effect, np.float64)), np.asarray(pairs))
    bound = special.stdtrit(n - 1, 1 - level / 2)
    shift = size * np.sqrt(n)
    with np.errstate(all="ignore"):
        beyond = 1 - special.nctdtr(n - 1, shift, bound)
        found = beyond + special.nctdtr(n - 1, shift, -bound)
    # Far out the series of the noncentral t may fail; there the normal is as good.
    rough = special.ndtr(shift - bound)
    return np.asarray(np.clip(np.where(np.isfinite(found), found, rough), 0, 1), np.float64)


def seeds_needed(
    mean: float, deviation: float, *, level: float = 0.05, power: float = 0.8
) -> int | None:
    """Smallest number of seeds with which a difference of this size would be found.

    It takes the differences seen so far for the true ones, so it is a guide and no promise.

    Args:
        mean: mean difference, in units of the metric.
        deviation: standard deviation of the differences.
        level: significance level of the test.
        power: chance of finding it, between 0 and 1.

    Returns:
        The number of seeds in all; None where it is beyond `MOST_SEEDS` or the mean is zero.

    Example:
        >>> seeds_needed(0.01, 0.01), seeds_needed(0.01, 0.02), seeds_needed(0.0, 0.01)
        (10, 34, None)
    """
    if not (math.isfinite(mean) and math.isfinite(deviation)) or mean == 0:
        return None
    if deviation <= 0:
        return FEWEST_PAIRS
    effect = abs(mean) / deviation
    normal = NormalDist()
    shift = normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)
    guess = min((shift / effect) ** 2, MOST_SEEDS)  # by the normal, which asks for too few
    for reach in (8, 60, MOST_SEEDS):
        numbers = np.arange(max(FEWEST_PAIRS, int(guess)), min(int(guess) + reach, MOST_SEEDS) + 1)
        enough = numbers[paired_power(effect, numbers, level=level) >= power]
        if enough.size:
            return int(enough[0])
    return None


def detectable_difference(
    deviation: float, pairs: int, *, level: float = 0.05, power: float = 0.8
) -> float:
    """Smallest true difference that so many seeds would find; NaN with fewer than three.

    Args:
        deviation: standard deviation of the differences, in units of the metric.
        pairs: number of pairs.
        level: significance level of the test.
        power: chance of finding it, between 0 and 1.

    Example:
        >>> round(detectable_difference(0.01, 10), 4)
        0.01
    """
    if pairs < FEWEST_PAIRS or not math.isfinite(deviation):
        return math.nan
    return _detectable_effect(pairs, level, power) * deviation


@lru_cache(maxsize=1024)
def _detectable_effect(pairs: int, level: float, power: float) -> float:
    low, high = 0.0, 1.0
    while float(paired_power(high, pairs, level=level)) < power:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        if float(paired_power(middle, pairs, level=level)) >= power:
            high = middle
        else:
            low = middle
    return high
