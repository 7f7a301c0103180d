"""Slow NumPy twins of the methods on losses and gradients."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def s(x: float) -> float:
    return x + 1 if x >= 0 else 1 / (1 - x)


def stablemax(row: Array) -> Array:
    total = sum(s(x) for x in row)
    return np.array([s(x) / total for x in row])


def stablemax_cross_entropy(logits: Array, targets: Array) -> float:
    total = 0.0
    for row, y in zip(logits, targets, strict=True):
        total -= math.log(stablemax(row)[y])
    return total / len(logits)


def orthogonal_gradient(g: Array, w: Array, rescale: bool, eps: float = 1e-30) -> Array:
    inner = square = 0.0
    for a, b in zip(w.ravel(), g.ravel(), strict=True):
        inner += a * b
        square += a * a
    left = g - inner / (square + eps) * w
    if not rescale:
        return left
    before = math.sqrt(sum(x * x for x in g.ravel()))
    after = math.sqrt(sum(x * x for x in left.ravel()))
    return left * before / (after + eps)


def collapsed(logits: Array) -> float:
    """Share of rows whose sum of exponentials rounds to 1, in the type of the logits."""
    found = 0
    for row in logits:
        total = logits.dtype.type(0)
        for value in sorted(row - row.max()):
            total = total + np.exp(value)
        found += total == 1
    return found / len(logits)
