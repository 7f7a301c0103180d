"""Slow twins of the measures that perturb weights: NumPy, one number at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def quadratic_loss(x: Array, y: Array, w: Array) -> float:
    """``0.5 |w x - y|^2`` averaged over samples."""
    total = 0.0
    for row, goal in zip(x, y, strict=True):
        for k in range(len(w)):
            total += 0.5 * (sum(w[k, j] * row[j] for j in range(len(row))) - goal[k]) ** 2
    return total / len(x)


def noisy_increase(x: Array, y: Array, w: Array, u: Array, sigma: float, signs) -> float:
    """Increase of the quadratic loss under one draw."""
    base = quadratic_loss(x, y, w)
    return float(np.mean([quadratic_loss(x, y, w + s * sigma * u) - base for s in signs]))


def quadratic_trace(x: Array, outputs: int) -> float:
    """Trace of the Hessian of the quadratic loss: outputs times the mean squared input."""
    return outputs * sum(v * v for row in x for v in row) / len(x)


def softmax_trace(x: Array, w: Array, b: Array) -> float:
    """Trace of the Hessian of a softmax head's cross-entropy in its weight matrix."""
    total = 0.0
    for row in x:
        scores = [sum(w[k, j] * row[j] for j in range(len(row))) + b[k] for k in range(len(w))]
        powers = [math.exp(s - max(scores)) for s in scores]
        p = [v / sum(powers) for v in powers]
        total += sum(v * v for v in row) * sum(v * (1 - v) for v in p)
    return total / len(x)


def gaussian_kl(mean: Array, start: Array, sigma: Array) -> float:
    """The general formula for two Gaussians, with their covariances written out."""
    cov = np.diag(sigma**2)
    inverse, d = np.linalg.inv(cov), mean - start
    logs = np.linalg.slogdet(cov)[1] - np.linalg.slogdet(cov)[1]
    return float(0.5 * (np.trace(inverse @ cov) - len(mean) + d @ inverse @ d + logs))


def kl_inverse(p: float, budget: float, steps: int = 200_000) -> float:
    """By walking up from p until the relative entropy is too large."""
    best = p
    for q in np.linspace(p, 1.0, steps)[1:-1]:
        value = (p * math.log(p / q) if p else 0.0) + (1 - p) * math.log((1 - p) / (1 - q))
        if value > budget:
            break
        best = float(q)
    return best


def additive_bound(error: float, kl: float, n: int, delta: float) -> float:
    return error + math.sqrt((kl + math.log(2 * math.sqrt(n) / delta)) / (2 * n))


def gap_score(h: Array, bound: float, n: int) -> float:
    return sum(math.sqrt(bound * v) for v in h) / math.sqrt(n)
