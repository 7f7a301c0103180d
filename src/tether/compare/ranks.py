"""Average ranks over several data sets, and how far apart they must lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from tether.compare.statistics import Floats
from tether.optional import require

#: Data sets and methods from which the ranks are tested.
FEWEST_CASES = 3
FEWEST_METHODS = 3


@dataclass(frozen=True)
class Ranks:
    """Ranks of the methods over data sets; 1 is best.

    Args:
        average: method to its average rank.
        cases: the data sets that were ranked, those in which every method has a score.
        left_out: the data sets that were not.
        friedman_p: p-value of the Friedman test of "all methods rank alike"; NaN where there
            are fewer than three data sets or methods.
        critical_difference: ranks that lie further apart differ (Nemenyi); NaN as above.
        groups: methods whose ranks are not told apart, as in the diagram; longest runs only.
    """

    average: dict[str, float]
    cases: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    friedman_p: float = math.nan
    critical_difference: float = math.nan
    groups: tuple[tuple[str, ...], ...] = ()


def average_ranks(scores: ArrayLike, *, higher_is_better: bool = True) -> Floats:
    """Mean over the data sets of the rank of every method; ties share their mean rank.

    Args:
        scores: one row per data set, one column per method, all finite.
        higher_is_better: whether rank 1 goes to the largest score.

    Shape:
        `(data sets, methods)` to `(methods,)`.

    Example:
        >>> average_ranks([[0.9, 0.8, 0.7], [0.6, 0.6, 0.5]]).tolist()
        [1.25, 1.75, 3.0]
    """
    stats = require("scipy.stats", "sweep", "the ranks of a comparison")
    table = np.asarray(scores, dtype=np.float64)
    ranks = stats.rankdata(-table if higher_is_better else table, axis=1)
    return np.asarray(ranks.mean(axis=0), dtype=np.float64)


def friedman_p(scores: ArrayLike) -> float:
    """P-value of the Friedman test; NaN below three data sets or methods, 1 where all tie.

    Example:
        >>> round(friedman_p([[3, 2, 1], [3, 2, 1], [3, 2, 1], [3, 2, 1]]), 4)
        0.0183
    """
    stats = require("scipy.stats", "sweep", "the ranks of a comparison")
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < FEWEST_CASES or table.shape[1] < FEWEST_METHODS:
        return math.nan
    if not np.ptp(table, axis=1).any():
        return 1.0
    return float(stats.friedmanchisquare(*table.T).pvalue)


@lru_cache(maxsize=64)
def critical_difference(methods: int, cases: int, *, level: float = 0.05) -> float:
    """Nemenyi's critical difference of average ranks.

    q sqrt(k (k + 1) / (6 N)) with q the quantile of the studentised range over sqrt(2).

    Args:
        methods: number of methods k, at least 2.
        cases: number of data sets N.
        level: significance level for all pairs together.

    References:
        Janez Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 2006.

    Example:
        >>> round(critical_difference(4, 14), 2)
        1.25
    """
    stats = require("scipy.stats", "sweep", "the ranks of a comparison")
    quantile = float(stats.studentized_range.ppf(1 - level, methods, np.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * cases))


def rank_groups(average: Mapping[str, float], difference: float) -> tuple[tuple[str, ...], ...]:
    """The longest runs of methods whose ranks lie within the critical difference.

    Example:
        >>> rank_groups({"a": 1.0, "b": 1.8, "c": 3.5}, 1.0)
        (('a', 'b'),)
    """
    order = sorted(average, key=lambda name: average[name])
    groups: list[tuple[str, ...]] = []
    reached = 0
    for start, first in enumerate(order):
        end = start
        while end < len(order) and average[order[end]] - average[first] <= difference + 1e-9:
            end += 1
        if end > reached and end - start > 1:
            groups.append(tuple(order[start:end]))
            reached = end
    return tuple(groups)


def rank_methods(
    means: Mapping[str, Mapping[str, float]],
    methods: Sequence[str],
    *,
    higher_is_better: bool = True,
    level: float = 0.05,
) -> Ranks | None:
    """Rank the methods over the data sets in which all of them have a score.

    Args:
        means: data set to method to its mean score.
        methods: the methods to rank, at least two.
        higher_is_better: whether rank 1 goes to the largest score.
        level: significance level of the critical difference.

    Returns:
        None with fewer than two methods or complete data sets.

    Example:
        >>> means = {"a": {"x": 0.9, "y": 0.8}, "b": {"x": 0.7, "y": 0.6}}
        >>> rank_methods(means, ["x", "y"]).average
        {'x': 1.0, 'y': 2.0}
    """
    whole = [
        case
        for case, row in means.items()
        if all(math.isfinite(row.get(method, math.nan)) for method in methods)
    ]
    if len(whole) < 2 or len(methods) < 2:
        return None
    # Means of equal scores may differ by a rounding; such a gap is no rank.
    table = np.array([[float(f"{means[case][m]:.10g}") for m in methods] for case in whole])
    average = dict(
        zip(methods, average_ranks(table, higher_is_better=higher_is_better).tolist(), strict=True)
    )
    left_out = tuple(case for case in means if case not in whole)
    p = friedman_p(table)
    if math.isnan(p):
        return Ranks(average, tuple(whole), left_out)
    apart = critical_difference(len(methods), len(whole), level=level)
    return Ranks(average, tuple(whole), left_out, p, apart, rank_groups(average, apart))
