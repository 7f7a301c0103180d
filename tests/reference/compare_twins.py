"""Slow twins of the statistics of a comparison: loops and integrals, from the definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np


def t_density(x: float, freedom: int) -> float:
    front = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    return (
        math.exp(front)
        / math.sqrt(freedom * math.pi)
        * (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    )


def t_tail(t: float, freedom: int, steps: int = 20000) -> float:
    """P(T > t) for t >= 0: one half less Simpson's rule from 0 to t."""
    if t == 0:
        return 0.5
    h = t / steps
    total = t_density(0, freedom) + t_density(t, freedom)
    for i in range(1, steps):
        total += (4 if i % 2 else 2) * t_density(i * h, freedom)
    return 0.5 - total * h / 3


def paired_t_p(differences: list[float]) -> float:
    n = len(differences)
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    return 2 * t_tail(abs(mean) / math.sqrt(variance / n), n - 1)


def t_interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    n = len(values)
    mean = sum(values) / n
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    low, high = 0.0, 100.0
    for _ in range(60):  # the quantile by bisection of the tail
        middle = (low + high) / 2
        low, high = (
            (middle, high) if t_tail(middle, n - 1, 2000) > (1 - level) / 2 else (low, middle)
        )
    return mean - low * sd / math.sqrt(n), mean + low * sd / math.sqrt(n)


def sign_flip_p(differences: list[float]) -> float:
    seen = abs(sum(differences))
    hits = total = 0
    for signs in itertools.product((1, -1), repeat=len(differences)):
        total += 1
        hits += abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= seen - 1e-12
    return hits / total


def holm(p_values: list[float]) -> list[float]:
    """Adjusted p of a hypothesis: the largest scaled p among those not above it."""
    m = len(p_values)
    order = sorted(range(m), key=lambda i: p_values[i])
    adjusted = [0.0] * m
    for place, i in enumerate(order):
        steps = [(m - k) * p_values[order[k]] for k in range(place + 1)]
        adjusted[i] = min(1.0, max(steps))
    return adjusted


def effect_size(differences: list[float]) -> float:
    n = len(differences)
    mean = sum(differences) / n
    sd = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    return (1 - 3 / (4 * (n - 1) - 1)) * mean / sd


def ranks(values: list[float]) -> list[float]:
    """1 for the largest; equal values share the mean of their places."""
    return [1 + sum(w > v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]


def average_ranks(table: np.ndarray) -> list[float]:
    rows = [ranks(row.tolist()) for row in table]
    return [sum(row[j] for row in rows) / len(rows) for j in range(table.shape[1])]


def friedman_statistic(table: np.ndarray) -> float:
    """Without ties."""
    n, k = table.shape
    squares = sum(r * r for r in average_ranks(table))
    return 12 * n / (k * (k + 1)) * (squares - k * (k + 1) ** 2 / 4)


def wilcoxon_p(differences: list[float]) -> float:
    """Exact, by all assignments of signs to the ranks of the sizes; zeros keep their rank."""
    sizes = [abs(d) for d in differences]
    own = [len(sizes) + 1 - r for r in ranks(sizes)]
    moved = [(r, d) for r, d in zip(own, differences, strict=True) if d]
    seen = abs(sum(r if d > 0 else -r for r, d in moved))
    hits = total = 0
    for signs in itertools.product((1, -1), repeat=len(moved)):
        total += 1
        hits += abs(sum(s * r for s, (r, _) in zip(signs, moved, strict=True))) >= seen - 1e-9
    return hits / total


def paired_power(effect: float, n: int, bound: float, steps: int = 4000) -> float:
    """P(|T| > bound), T noncentral: average the normal over the chi distribution of the sd."""
    freedom = n - 1
    total = 0.0
    top = 1 + 12 / math.sqrt(freedom)
    h = top / steps
    for i in range(1, steps + 1):
        s = (i - 0.5) * h  # estimated over true standard deviation
        log_density = (
            math.log(2)
            + freedom / 2 * math.log(freedom / 2)
            - math.lgamma(freedom / 2)
            + (freedom - 1) * math.log(s)
            - freedom * s * s / 2
        )
        shift = effect * math.sqrt(n)
        beyond = 0.5 * math.erfc((bound * s - shift) / math.sqrt(2))
        below = 0.5 * math.erfc((bound * s + shift) / math.sqrt(2))
        total += math.exp(log_density) * (beyond + below) * h
    return total
