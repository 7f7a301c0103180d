"""Do the curves of two methods over the size of the data or the model cross?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tether.compare.intervals import Interval, resampled_means
from tether.compare.power_law import PowerLaw, fit_power_law
from tether.compare.statistics import FEWEST_PAIRS, Floats

RESAMPLES = 1000
#: Power laws are fitted to so many of them.
FITTED = 250
#: An extrapolation further than this from the largest size measured is refused.
FURTHEST = 10.0


@dataclass(frozen=True)
class Crossing:
    """Where two curves of losses cross within the range measured.

    Args:
        sizes: the sizes measured, rising.
        ratio: at every size, log of the mean loss of the method over that of the other (or the
            difference of the means where a loss is not positive): below zero, the method leads.
        at: size at which the mean curves cross first; None where they do not.
        crossings: how often the mean curves cross.
        interval: interval for `at` over the resamples of the seeds; None where the curves do
            not cross in half of the resamples or there are too few seeds.
        share: share of the resamples with another leader at the largest size than at the
            smallest; NaN with too few seeds.
        target: the size that was extrapolated to; NaN where the fits are not good for it.
        lead_at_target: share of the resamples in which the method leads there.
        fits: power laws of the method and of the other; None where the means do not fall.
    """

    sizes: tuple[float, ...]
    ratio: tuple[float, ...]
    at: float | None
    crossings: int
    interval: Interval | None
    share: float
    target: float = math.nan
    lead_at_target: float = math.nan
    fits: tuple[PowerLaw, PowerLaw] | None = None


def find_crossing(
    sizes: ArrayLike,
    losses: Sequence[ArrayLike],
    others: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    target: float | None = None,
    resamples: int = RESAMPLES,
) -> Crossing:
    """Compare the losses of two methods over several sizes, with a bootstrap over the seeds.

    Between two sizes the curves run straight on logarithmic axes. Beyond the largest size a
    power law c + a x^(-b) is fitted to each, if three sizes were measured and the means fall.

    Args:
        sizes: sizes of the data or the model, positive.
        losses: for every size the losses of the method, one per seed (less is better).
        others: the losses of the other, the same seeds in the same order.
        level: coverage of the interval.
        target: a size to extrapolate to; 4 times the largest unless told otherwise.
        resamples: number of resamples of the seeds.

    Raises:
        ValueError: fewer than two different sizes, a size that is not positive, numbers of
            losses that differ, or a target beyond 10 times the largest size.

    References:
        Lechao Xiao, Rethinking Conventional Wisdom in Machine Learning: From Generalization to
        Scaling, 2024, arXiv:2409.15156 (the question; the procedure here is ours).

    Example:
        >>> falling = [[1.0, 1.1, 0.9], [0.5, 0.6, 0.4]]
        >>> level_curve = [[0.7, 0.8, 0.6], [0.7, 0.8, 0.6]]
        >>> found = find_crossing([100, 400], falling, level_curve)
        >>> round(found.at), found.crossings
        (204, 1)
    """
    x, pairs = _checked(sizes, losses, others)
    ahead = float(x[-1]) * 4 if target is None else float(target)
    if not 0 < ahead <= FURTHEST * x[-1]:
        raise ValueError(
            f"the target {ahead:g} lies beyond {FURTHEST:g} times the largest size {x[-1]:g}; "
            "measure larger sizes, or extrapolate less far"
        )
    means = np.array([pair.mean(axis=0) for pair in pairs]).T[:, None, :]  # (2, 1, sizes)
    logs = all((pair > 0).all() for pair in pairs)
    ratio = _ratio(means, logs=logs)
    places = crossing_points(x, ratio)[0]
    known = places[np.isfinite(places)]
    share, interval, draws = math.nan, None, None
    if min(len(pair) for pair in pairs) >= FEWEST_PAIRS:
        draws = _draws(pairs, resamples)
        logs = logs and bool((draws > 0).all())
        drawn = _ratio(draws, logs=logs)
        share = float((drawn[:, 0] * drawn[:, -1] < 0).mean())
        first = np.nanmin(np.c_[crossing_points(x, drawn), np.full(len(drawn), np.inf)], axis=1)
        if known.size and np.isfinite(first).mean() >= 0.5:
            tail = (1 - level) / 2
            low, high = np.quantile(first[np.isfinite(first)], [tail, 1 - tail])
            interval = (float(low), float(high))
    at = float(known[0]) if known.size else None
    basis = (tuple(x.tolist()), tuple(ratio[0].tolist()), at, int(known.size), interval, share)
    falls = logs and x.size >= 3 and bool((np.diff(means[:, 0]) < 0).all())
    if draws is None or not falls:
        return Crossing(*basis)
    fits = (fit_power_law(x, means[0, 0]), fit_power_law(x, means[1, 0]))
    mine, its = (fit_power_law(x, part[:FITTED]).at(ahead) for part in draws)
    return Crossing(*basis, ahead, float((mine < its).mean()), fits)


def crossing_points(sizes: Floats, ratio: Floats) -> Floats:
    """Sizes at which curves change sign, straight between neighbours over log size.

    A stretch of zeros counts once, where it ends, and only if the signs around it differ.

    Shape:
        sizes `(m,)`, ratio `(n, m)` to `(n, m - 1)`, NaN where there is no crossing.

    Example:
        >>> crossing_points(np.array([1.0, 100.0]), np.array([[1.0, -1.0]])).round(6).tolist()
        [[10.0]]
    """
    x = np.log(sizes)
    found = np.full((len(ratio), len(x) - 1), np.nan)
    last = ratio[:, 0].copy()  # the last value that is not zero
    for step in range(1, len(x)):
        before, now = ratio[:, step - 1], ratio[:, step]
        change = last * now < 0
        way = before[change] / (before - now)[change]  # zero where the stretch of zeros ends
        found[change, step - 1] = np.exp(x[step - 1] + (x[step] - x[step - 1]) * way)
        last = np.where(now != 0, now, last)
    return np.sort(found, axis=1)


def _checked(
    sizes: ArrayLike, losses: Sequence[ArrayLike], others: Sequence[ArrayLike]
) -> tuple[Floats, list[Floats]]:
    x = np.asarray(sizes, dtype=np.float64).ravel()
    if np.unique(x).size < 2 or np.unique(x).size < x.size or not (x > 0).all():
        raise ValueError(f"a curve needs two or more different sizes above zero; got {x.tolist()}")
    pairs = []
    for mine, its in zip(losses, others, strict=True):
        pair = np.stack([np.asarray(mine, np.float64), np.asarray(its, np.float64)], axis=-1)
        pairs.append(pair[np.isfinite(pair).all(axis=1)])
    if len(pairs) != x.size or not all(len(pair) for pair in pairs):
        raise ValueError("every size needs a loss of both methods; leave out sizes without one")
    order = np.argsort(x)
    return x[order], [pairs[place] for place in order]


def _draws(pairs: Sequence[Floats], resamples: int) -> Floats:
    """Means over resampled seeds `(2, resamples, sizes)`; pairs stay together.

    The deviations are stretched by sqrt(n / (n - 1)), by which a bootstrap of few values is too
    narrow.
    """
    parts = []
    for place, pair in enumerate(pairs):
        n = len(pair)
        mean = pair.mean(axis=0)
        moved = resampled_means(pair - mean, resamples, place + 1)
        parts.append(mean + math.sqrt(n / (n - 1)) * moved)
    return np.stack(parts, axis=-1).transpose(1, 0, 2)


def _ratio(means: Floats, *, logs: bool) -> Floats:
    mine, its = means
    gap = np.log(mine / its) if logs else mine - its
    return np.asarray(np.where(np.abs(gap) < 1e-12, 0.0, gap), dtype=np.float64)
