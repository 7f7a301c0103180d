"""Two methods set against each other, in one case and over several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tether.compare.intervals import Interval, bootstrap_interval, t_interval
from tether.compare.statistics import (
    FEWEST_PAIRS,
    effect_size,
    paired_test,
    sign_flip_p,
    wilcoxon_p,
    win_tie_loss,
)
from tether.compare.summary_scores import Score

NO_DIFFERENCE = "no significant difference"
TOO_FEW = "too few seeds to tell"
TOO_FEW_CASES = "too few data sets to tell"
#: Cases from which the Wilcoxon test can reach 5 % at all (2/2^6 = 3.1 %).
FEWEST_CASES = 6


@dataclass(frozen=True)
class Comparison:
    """Two methods in one case, paired over the seeds.

    Args:
        case: name of the case.
        method: label of the method.
        against: label of the one it is compared with.
        differences: seed to score of `method` minus score of `against`.
        unpaired: seeds that only one of the two has.
        mean: mean difference, in units of the metric; NaN without a pair.
        deviation: standard deviation of the differences; NaN with fewer than two pairs.
        interval: t interval of the mean; None with fewer than three pairs.
        bootstrap: bootstrap interval of the mean; None with fewer than six pairs.
        test: name of the test, see `paired_test`.
        p: its two-sided p-value; NaN where there is no test.
        p_sign_flip: that of the exact sign-flip test, as a second opinion.
        p_holm: `p` corrected for all tests of the study.
        wins: pairs in which `method` is better.
        ties: pairs that are equal.
        losses: pairs in which it is worse.
        effect: effect size in standard deviations of the differences, bias-corrected.
        verdict: `"better"`, `"worse"`, `"no significant difference"` or
            `"too few seeds to tell"`.
        more_seeds: further seeds with which a difference of the size seen would be found with a
            chance of 80 %; None where it is settled, too far away or not to be told.
        detectable: smallest true difference that the present seeds find with a chance of 80 %.
    """

    case: str
    method: str
    against: str
    differences: dict[int, float]
    unpaired: int
    mean: float
    deviation: float
    interval: Interval | None
    bootstrap: Interval | None
    test: str
    p: float
    p_sign_flip: float
    wins: int
    ties: int
    losses: int
    effect: float
    p_holm: float = math.nan
    verdict: str = TOO_FEW
    more_seeds: int | None = None
    detectable: float = math.nan

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return len(self.differences)

    @property
    def significant(self) -> bool:
        """Whether a difference is claimed."""
        return self.verdict in ("better", "worse")


@dataclass(frozen=True)
class AcrossCases:
    """Two methods over several cases: one difference of means per case.

    Args:
        method: label of the method.
        against: label of the one it is compared with.
        cases: number of cases in which both have a score on the same seed.
        mean: mean over the cases of the mean difference.
        wins: cases in which `method` has the better mean.
        ties: cases in which the means are equal.
        losses: cases in which it has the worse mean.
        p: p-value of the Wilcoxon signed-rank test over the cases; NaN with fewer than six.
        p_holm: `p` corrected for all tests of the study.
        verdict: `"better"`, `"worse"`, `"no significant difference"` or
            `"too few data sets to tell"`.
    """

    method: str
    against: str
    cases: int
    mean: float
    wins: int
    ties: int
    losses: int
    p: float
    p_holm: float = math.nan
    verdict: str = TOO_FEW_CASES

    @property
    def significant(self) -> bool:
        """Whether a difference is claimed."""
        return self.verdict in ("better", "worse")


def compare_pair(
    mine: Score, other: Score, *, higher_is_better: bool = True, level: float = 0.95
) -> Comparison:
    """Compare two methods in one case on the seeds that both have.

    Args:
        mine: the scores of the method.
        other: the scores of the one it is compared with.
        higher_is_better: whether larger scores are better.
        level: coverage of the intervals.

    Example:
        >>> a = Score("data", "elr", {0: 0.8, 1: 0.9, 2: 0.85})
        >>> b = Score("data", "plain", {0: 0.7, 1: 0.8, 2: 0.70})
        >>> found = compare_pair(a, b)
        >>> round(found.mean, 3), found.pairs, found.wins
        (0.117, 3, 3)
    """
    shared = [seed for seed in mine.values if seed in other.values]
    differences = {seed: mine.values[seed] - other.values[seed] for seed in shared}
    numbers = np.array(list(differences.values()))
    test = paired_test(numbers)
    wins, ties, losses = win_tie_loss(numbers, higher_is_better=higher_is_better)
    return Comparison(
        case=mine.case,
        method=mine.method,
        against=other.method,
        differences=differences,
        unpaired=len(mine.values) + len(other.values) - 2 * len(shared),
        mean=float(numbers.mean()) if numbers.size else math.nan,
        deviation=float(numbers.std(ddof=1)) if numbers.size > 1 else math.nan,
        interval=t_interval(numbers, level=level),
        bootstrap=bootstrap_interval(numbers, level=level),
        test=test.name,
        p=test.p,
        p_sign_flip=sign_flip_p(numbers) if numbers.size >= FEWEST_PAIRS else math.nan,
        wins=wins,
        ties=ties,
        losses=losses,
        effect=effect_size(numbers),
    )


def compare_across(
    comparisons: Sequence[Comparison], *, higher_is_better: bool = True
) -> AcrossCases | None:
    """Compare two methods over their cases; None with fewer than two.

    A case counts once, with its mean over the seeds: more seeds make that mean more exact, but
    they are no further data sets.

    Args:
        comparisons: the comparisons of the same two methods, one per case.
        higher_is_better: whether larger scores are better.
    """
    known = [each for each in comparisons if each.pairs]
    if len(known) < 2:
        return None
    means = np.array([each.mean for each in known])
    wins, ties, losses = win_tie_loss(means, higher_is_better=higher_is_better)
    return AcrossCases(
        method=known[0].method,
        against=known[0].against,
        cases=len(known),
        mean=float(means.mean()),
        wins=wins,
        ties=ties,
        losses=losses,
        p=wilcoxon_p(means) if len(known) >= FEWEST_CASES else math.nan,
    )


def common_means(scores: Mapping[str, Score], methods: Sequence[str]) -> dict[str, float]:
    """Mean score of every method over the seeds that all of them have; empty without one.

    Example:
        >>> x, y = Score("c", "x", {0: 1.0, 1: 3.0}), Score("c", "y", {1: 2.0, 2: 9.0})
        >>> common_means({"x": x, "y": y}, ["x", "y"])
        {'x': 3.0, 'y': 2.0}
    """
    if any(method not in scores for method in methods):
        return {}
    seeds = set.intersection(*(set(scores[method].values) for method in methods))
    if not seeds:
        return {}
    ordered = sorted(seeds)
    return {
        method: float(np.mean([scores[method].values[seed] for seed in ordered]))
        for method in methods
    }
