"""Slow twins of the noise generators: NumPy and plain loops, and a random stream of their own.

The stream rebuilds the 53-bit uniforms from NumPy's Mersenne twister, so a twin agrees with the
library label by label: proof that a seed means the same labels wherever the twister is right.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np


class Stream:
    """Uniforms as a torch CPU generator with this seed would give them in float64."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)

    def uniform(self, n: int) -> list[float]:
        out = []
        for _ in range(n):
            high, low = (int(self.state.randint(0, 2**32, dtype=np.uint32)) for _ in range(2))
            out.append((((high << 32) | low) & (2**53 - 1)) / 2**53)
        return out

    def normal(self, rows: int, columns: int) -> np.ndarray:
        draws = [NormalDist().inv_cdf(u) for u in self.uniform(rows * columns)]
        return np.array(draws).reshape(rows, columns)


def largest_remainder(quotas: list[float], total: int) -> list[int]:
    counts = [math.floor(q + 1e-9) for q in quotas]
    left = [round((q - c) * 1e9) for q, c in zip(quotas, counts, strict=True)]
    for i in sorted(range(len(quotas)), key=lambda i: (-left[i], i))[: total - sum(counts)]:
        counts[i] += 1
    return counts


def shuffled_members(groups: list[int], stream: Stream) -> dict[int, list[int]]:
    keys = stream.uniform(len(groups))
    members: dict[int, list[int]] = {}
    for i in sorted(range(len(groups)), key=lambda i: keys[i]):
        members.setdefault(groups[i], []).append(i)
    return members


def pick(y: list[int], rate: float, exact: bool, stratified: bool, stream: Stream) -> set[int]:
    if not exact:
        return {i for i, u in enumerate(stream.uniform(len(y))) if u < rate}
    groups = y if stratified else [0] * len(y)
    sizes = [groups.count(g) for g in range(max(groups) + 1)]
    total = math.floor(rate * len(y) + 1e-9)
    counts = largest_remainder([rate * s for s in sizes], total)
    members = shuffled_members(groups, stream)
    return {i for g, rows in members.items() for i in rows[: counts[g]]}


def draw(p: np.ndarray, u: float) -> int:
    cumulative = np.cumsum(p)
    cumulative = cumulative / cumulative[-1]
    return next(j for j, c in enumerate(cumulative) if u < c)


def symmetric(y, rate, k, *, include_true=False, exact=True, stratified=False, seed=0):
    stream = Stream(seed)
    picked = pick(y, rate, exact, stratified, stream)
    out = list(y)
    for i, u in enumerate(stream.uniform(len(y))):
        if i in picked:
            choices = [(y[i] + 1 + j) % k for j in range(k - 1)]
            out[i] = int(u * k) if include_true else choices[int(u * (k - 1))]
    return out


def class_agnostic(y, rate, k, *, seed=0):
    stream = Stream(seed)
    u = np.array(stream.uniform(k))
    q = np.exp(u) / np.exp(u).sum()
    picked = pick(y, rate, True, False, stream)
    draws = stream.uniform(len(y))
    return [draw(q, draws[i]) if i in picked else y[i] for i in range(len(y))]


def pair(y, rate, k, *, exact=True, stratified=False, seed=0):
    picked = pick(y, rate, exact, stratified, Stream(seed))
    return [(c + 1) % k if i in picked else c for i, c in enumerate(y)]


def asymmetric(y, mapping, rate, k, *, seed=0):
    quotas = [rate * y.count(c) if mapping.get(c, c) != c else 0.0 for c in range(k)]
    counts = largest_remainder(quotas, math.floor(sum(quotas) + 1e-9))
    members = shuffled_members(y, Stream(seed))
    out = list(y)
    for c, rows in members.items():
        for i in rows[: counts[c]]:
            out[i] = mapping[c]
    return out


def asymmetric_legacy(y, mapping, rate, k, *, seed=0):
    stream = Stream(seed)
    now = list(y)
    for c in range(k):
        rows = [i for i in range(len(y)) if now[i] == c]
        keys = stream.uniform(len(rows))
        order = sorted(range(len(rows)), key=lambda i: keys[i])
        for place, j in enumerate(order):
            if place < rate * len(rows) - 1e-9:
                now[rows[j]] = mapping.get(c, c)
    return now


def matrix(y, t, *, exact=False, seed=0):
    stream = Stream(seed)
    if not exact:
        return [draw(t[c], u) for c, u in zip(y, stream.uniform(len(y)), strict=True)]
    out = list(y)
    for c, rows in shuffled_members(y, stream).items():
        counts = largest_remainder([len(rows) * p for p in t[c]], len(rows))
        targets = [j for j, count in enumerate(counts) for _ in range(count)]
        for i, j in zip(rows, targets, strict=True):
            out[i] = j
    return out


def instance(y, x, rate, k, *, std=0.1, shared=False, seed=0):
    stream = Stream(seed)
    normal = NormalDist()
    n, s = x.shape
    coins = stream.uniform(n)
    low, high = normal.cdf(-rate / std), normal.cdf((1 - rate) / std)
    q = [rate + std * normal.inv_cdf(low + u * (high - low)) for u in stream.uniform(n)]
    targets = stream.uniform(n)
    common = stream.normal(s, k) if shared else None
    weights = [stream.normal(s, k) if common is None else common for _ in range(k)]
    out = list(y)
    for i in range(n):
        if coins[i] < q[i]:
            scores = x[i] @ weights[y[i]]
            p = np.exp(scores - scores.max())
            p[y[i]] = 0.0
            out[i] = draw(p / p.sum(), targets[i])
    return out
