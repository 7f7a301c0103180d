"""Tests and effect sizes for paired results: one difference per seed.

Pure functions of numbers. Every function takes the differences of the pairs (method minus the
one it is compared with, same data, same seed) and knows nothing of studies or pages.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.optional import require

Floats = NDArray[np.float64]

#: Pairs from which a mean difference gets an interval and a p-value.
FEWEST_PAIRS = 3
#: Pairs up to which every assignment of signs is counted.
MOST_EXACT = 14


@dataclass(frozen=True)
class PairedTest:
    """A test of "the mean difference is zero".

    Args:
        name: `"paired t"`, `"sign flip"` (every pair has the same difference), `"identical"`
            (every difference is zero) or `"none"` (too few pairs).
        p: two-sided p-value; NaN where there is no test.
        pairs: number of pairs with both values.
    """

    name: str
    p: float
    pairs: int


def finite_values(values: ArrayLike) -> Floats:
    """The finite numbers among them, flat.

    Example:
        >>> finite_values([1.0, float("nan"), 2.0]).tolist()
        [1.0, 2.0]
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    return flat[np.isfinite(flat)]


def paired_test(differences: ArrayLike) -> PairedTest:
    """Test whether the mean of paired differences is zero.

    The paired t test, which stays near its level with three to five seeds, where an exact
    permutation test cannot reach 5 % at all (five pairs: at best 2/2^5 = 6.2 %). Where all pairs
    have the same difference there is no spread to divide by; the sign-flip test then counts.

    Args:
        differences: one number per pair; missing pairs are NaN and left out.

    Example:
        >>> test = paired_test([0.02, 0.03, 0.01, 0.02, 0.02])
        >>> test.name, round(test.p, 4)
        ('paired t', 0.0032)
        >>> paired_test([0.01, 0.01, 0.01, 0.01])
        PairedTest(name='sign flip', p=0.125, pairs=4)
    """
    kept = finite_values(differences)
    n = kept.size
    if n < FEWEST_PAIRS:
        return PairedTest("none", math.nan, n)
    if not varies(kept):
        if is_zero(float(kept[0]), kept):
            return PairedTest("identical", 1.0, n)
        return PairedTest("sign flip", 2.0 ** (1 - n), n)
    special = require("scipy.special", "sweep", "the statistics of a comparison")
    t = float(kept.mean() / (kept.std(ddof=1) / math.sqrt(n)))
    return PairedTest("paired t", float(2 * special.stdtr(n - 1, -abs(t))), n)


def varies(differences: Floats) -> bool:
    """Whether the differences vary by more than the rounding of floating-point numbers."""
    reach = float(np.abs(differences).max(initial=0.0))
    return bool(np.ptp(differences) > 1e-9 * reach) if reach > 1e-12 else False


def is_zero(difference: float, among: Floats) -> bool:
    """Whether a difference is a tie: zero up to rounding, next to the largest among them."""
    return abs(difference) <= max(1e-12, 1e-9 * float(np.abs(among).max(initial=0.0)))


def sign_flip_p(differences: ArrayLike) -> float:
    """Exact two-sided p-value of the sign-flip (permutation) test of the mean.

    Under the null hypothesis that two methods are exchangeable, every difference could as well
    have had the other sign; p is the share of the 2^n assignments with a mean at least as far
    from zero. NaN with no pair or more than `MOST_EXACT`.

    Example:
        >>> sign_flip_p([0.1, 0.2, 0.3, 0.4])
        0.125
    """
    kept = finite_values(differences)
    if not 0 < kept.size <= MOST_EXACT:
        return math.nan
    sums = np.abs(_signs(kept.size) @ kept)
    return float((sums >= abs(kept.sum()) - 1e-12 * np.abs(kept).sum()).mean())


@lru_cache(maxsize=16)
def _signs(n: int) -> Floats:
    """All assignments of signs with the first one positive; the others mirror them."""
    rest = np.array(list(itertools.product((1.0, -1.0), repeat=n - 1))).reshape(2 ** (n - 1), n - 1)
    return np.hstack([np.ones((len(rest), 1)), rest])


def holm(p_values: ArrayLike) -> Floats:
    """P-values corrected for their number by Holm's step-down method.

    The chance of one or more false findings in the family stays below the level, whatever the
    dependence between the tests. NaN (no test) stays NaN and does not count.

    References:
        Sture Holm, A simple sequentially rejective multiple test procedure, 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64).ravel()
    corrected = np.full(p.shape, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    scaled = p[order] * np.arange(order.size, 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return corrected


def effect_size(differences: ArrayLike) -> float:
    """Mean difference in standard deviations of the differences, corrected for few pairs.

    Cohen's d_z times Hedges' factor 1 - 3 / (4 (n - 1) - 1). Zero where all differences are
    zero; NaN where there is no spread or are fewer than three pairs.

    Example:
        >>> round(effect_size([0.0, 1.0, 2.0, 3.0]), 3)
        0.845
    """
    kept = finite_values(differences)
    if kept.size < FEWEST_PAIRS:
        return math.nan
    if not varies(kept):
        return 0.0 if is_zero(float(kept[0]), kept) else math.nan
    factor = 1 - 3 / (4 * (kept.size - 1) - 1)
    return float(factor * kept.mean() / kept.std(ddof=1))


def win_tie_loss(differences: ArrayLike, *, higher_is_better: bool = True) -> tuple[int, int, int]:
    """Pairs that the method wins, ties and loses; equal up to rounding is a tie.

    Example:
        >>> win_tie_loss([0.1, 0.0, -0.2, 0.3])
        (2, 1, 1)
        >>> win_tie_loss([0.1, 0.0, -0.2, 0.3], higher_is_better=False)
        (1, 1, 2)
    """
    kept = finite_values(differences)
    tied = [is_zero(value, kept) for value in kept.tolist()]
    ties = sum(tied)
    up = sum(value > 0 and not tie for value, tie in zip(kept.tolist(), tied, strict=True))
    down = len(tied) - ties - up
    return (up, ties, down) if higher_is_better else (down, ties, up)


def wilcoxon_p(differences: ArrayLike) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test over data sets.

    One difference per data set. Zeros are split between the signs (Pratt's ranks), so that ties
    speak against a difference. One where all are zero; NaN without a value.

    Example:
        >>> wilcoxon_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        0.03125
    """
    kept = finite_values(differences)
    if not kept.size:
        return math.nan
    kept = np.array([0.0 if is_zero(value, kept) else value for value in kept.tolist()])
    if not kept.any():
        return 1.0
    stats = require("scipy.stats", "sweep", "the statistics of a comparison")
    tied = np.unique(np.abs(kept)).size < kept.size or not kept.all()
    method = "exact" if not tied and kept.size <= 50 else "approx"
    if tied and kept.size <= MOST_EXACT:  # the table of the exact test knows no ties: count
        return _signed_rank_p(kept, stats.rankdata(np.abs(kept)))
    return float(stats.wilcoxon(kept, zero_method="pratt", method=method).pvalue)


def _signed_rank_p(differences: Floats, ranks: Floats) -> float:
    moved = differences != 0
    sums = np.abs(_signs(int(moved.sum())) @ ranks[moved])
    seen = abs(float((np.sign(differences) * ranks)[moved].sum()))
    return float((sums >= seen - 1e-9).mean())
