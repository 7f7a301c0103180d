"""Slow NumPy twins of the methods on regression with skewed labels."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def distance(a: Array, b: Array) -> float:
    return float(np.mean(np.abs(np.atleast_1d(a) - np.atleast_1d(b))))


def conr(
    features: Array, labels: Array, predictions: Array, v: Array, window: float,
    temperature: float, push: float, *, linear: bool = False, lone_self: bool = False,
    official: bool = False,
) -> list[float]:  # fmt: skip
    n, out = len(features), []
    units = [f / math.sqrt(float((f * f).sum())) for f in features]
    for i in range(n):
        positives = [j for j in range(n) if j != i and distance(labels[i], labels[j]) <= window]
        negatives = [
            j
            for j in range(n)
            if distance(labels[i], labels[j]) > window
            and distance(predictions[i], predictions[j]) <= window
        ]
        if lone_self and not positives:
            positives = [i]
        if not positives or not negatives:
            out.append(0.0)
            continue
        s = [float(units[i] @ units[j]) / temperature for j in range(n)]
        below = sum(math.exp(s[j]) for j in positives)
        for j in negatives:
            far = distance(labels[i], labels[j])
            below += v[i] * (push * far if linear else math.exp(push * far)) * math.exp(s[j])
        if official:
            below += n - len(positives)
        total = sum(math.log(math.exp(s[j]) / below) for j in positives)
        out.append(-v[i] * total / len(positives))
    return out


def density_weights(labels: Array, bins: int, mode: str, sigma: float) -> list[float]:
    """Weight of each sample, mean 1."""
    low, high = labels.min(), labels.max()
    place = [min(int((y - low) / ((high - low) / bins)), bins - 1) for y in labels]
    counts = [place.count(k) for k in range(bins)]
    density = counts
    if sigma > 0:
        half = min(math.ceil(3 * sigma), bins - 1)
        kernel = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-half, half + 1)]
        density = []
        for k in range(bins):
            total = 0.0
            for step, weight in zip(range(-half, half + 1), kernel, strict=True):
                at = abs(k + step)
                at = 2 * (bins - 1) - at if at > bins - 1 else at
                total += weight * counts[at]
            density.append(total / sum(kernel))
    if mode == "inverse":
        raw = [1 / min(max(density[k], 5), 1000) for k in place]
    else:
        raw = [1 / math.sqrt(density[k]) for k in place]
    return [value * len(labels) / sum(raw) for value in raw]
