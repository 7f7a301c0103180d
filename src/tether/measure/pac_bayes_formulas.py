"""The inequalities behind a PAC-Bayes bound, as functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tether.errors import ConfigError


def kl_bernoulli(p: float, q: float) -> float:
    """Relative entropy of two coins in nats, ``p ln(p/q) + (1-p) ln((1-p)/(1-q))``.

    Args:
        p: between 0 and 1.
        q: between 0 and 1.

    Example:
        >>> kl_bernoulli(0.2, 0.2), round(kl_bernoulli(0.0, 0.5), 4)
        (0.0, 0.6931)
    """
    total = 0.0
    for a, b in ((p, q), (1 - p, 1 - q)):
        if a > 0:
            total += a * math.log(a / b) if b > 0 else math.inf
    return max(total, 0.0)


def kl_inverse(p: float, budget: float) -> float:
    """The largest q with ``kl_bernoulli(p, q) <= budget``, by bisection.

    Args:
        p: between 0 and 1.
        budget: at least 0; infinite gives 1.

    Example:
        >>> round(kl_inverse(0.0, math.log(2)), 6), kl_inverse(0.3, 0.0)
        (0.5, 0.3)
    """
    low, high = min(max(p, 0.0), 1.0), 1.0
    if budget <= 0:
        return low
    for _ in range(100):
        middle = (low + high) / 2
        if kl_bernoulli(p, middle) <= budget:
            low = middle
        else:
            high = middle
    return high


def gaussian_kl(distances: Sequence[float], sigmas: Sequence[float]) -> float:
    """Relative entropy in nats of two Gaussians with the same variances: ``sum d^2 / (2 sigma^2)``.

    Args:
        distances: between the means of each part.
        sigmas: standard deviation of each part; a part that did not move costs nothing.

    Example:
        >>> gaussian_kl([2.0, 0.0], [1.0, 0.0])
        2.0
    """
    parts = zip(distances, sigmas, strict=True)
    return sum(d * d / (2 * s * s) if s > 0 else math.inf for d, s in parts if d > 0)


def complexity(kl: float, n: int, delta: float, grid: float = 0.0) -> float:
    """What a bound pays a sample: ``(KL + grid + ln(2 sqrt(n) / delta)) / n``.

    Args:
        kl: relative entropy of posterior and prior, at least 0.
        n: samples, from 1.
        delta: probability that the bound is wrong.
        grid: logarithm of the number of priors that were chosen from, by a union bound.

    References:
        Andreas Maurer, "A Note on the PAC Bayesian Theorem", 2004, arXiv:cs/0411099.

    Example:
        >>> round(complexity(10.0, 100, 0.05), 4)
        0.1599
    """
    if n < 1:
        raise ConfigError(f"a bound needs at least one sample, got {n}")
    return (kl + grid + math.log(2 * math.sqrt(n) / delta)) / n


def bound_kl(error: float, cost: float, *, draws: float = math.inf, delta: float = 1.0) -> float:
    """The bound in its kl form: the largest q with ``kl(e || q) <= cost``.

    Args:
        error: mean error under noise on the samples, in [0, 1].
        cost: :func:`complexity`.
        draws: independent draws of noise behind ``error``; infinite where it is exact. The
            largest mean they allow takes its place: ``kl(error || e) <= ln(1 / delta) / draws``.
        delta: probability that the draws mislead.

    Example:
        >>> round(bound_kl(0.1, 0.05), 4)
        0.2201
    """
    return kl_inverse(kl_inverse(error, math.log(1 / delta) / draws), cost)


def bound_sqrt(error: float, cost: float, *, draws: float = math.inf, delta: float = 1.0) -> float:
    """The bound in its weaker, additive form: ``e + sqrt(ln(1/delta) / (2 m)) + sqrt(cost / 2)``.

    Args:
        error: mean error under noise on the samples, in [0, 1].
        cost: :func:`complexity`.
        draws: m, as in :func:`bound_kl`.
        delta: as there.

    Example:
        >>> round(bound_sqrt(0.1, 0.05), 4)
        0.2581
    """
    return error + math.sqrt(math.log(1 / delta) / (2 * draws)) + math.sqrt(cost / 2)
