"""Slow NumPy twins of the feature methods: the formulas written out, one number at a time."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def class_statistics(features: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Means, unbiased deviations and weights of features ``[N, d]`` by class weights ``[N, K]``."""
    count, width = weights.shape[1], features.shape[1]
    means, variances = np.zeros((count, width)), np.full((count, width), np.nan)
    totals = np.zeros(count)
    for k in range(count):
        w = weights[:, k]
        totals[k] = w.sum()
        if totals[k] == 0:
            means[k] = np.nan
            continue
        means[k] = (w[:, None] * features).sum(0) / totals[k]
        freedom = totals[k] - (w**2).sum() / totals[k]
        if freedom > 1e-9:
            variances[k] = (w[:, None] * (features - means[k]) ** 2).sum(0) / freedom
    known = ~np.isnan(variances).any(1)
    pooled = variances[known].mean(0) if known.any() else np.zeros(width)
    for k in range(count):
        if not known[k] and totals[k] > 0:
            variances[k] = pooled
    return means, np.maximum(np.sqrt(variances), 1e-6), totals


def squared_distance(features: Array, aims: Array, rows: list[int], reduction: str) -> float:
    """Mean over ``rows`` of squared distances, over or summed over coordinates."""
    total = 0.0
    for i in rows:
        for j in range(features.shape[1]):
            total += (features[i, j] - aims[i, j]) ** 2
    scale = len(rows) * (features.shape[1] if reduction == "mean" else 1)
    return total / scale if rows else 0.0


def cosine(u: Array, v: Array) -> float:
    return float(u @ v) / (max(np.linalg.norm(u), 1e-8) * max(np.linalg.norm(v), 1e-8))


def prior_loss(means: Array, running: Array, distance: str, update: str) -> float:
    """AdaRand's prior loss, pair by pair."""
    count = len(means)
    intra = inter = 0.0
    for k in range(count):
        c = cosine(means[k], running[k])
        intra += ((c - 1) ** 2 if distance == "cosine_squared" else 1 - c) / count
        for other in range(count):
            if other == k:
                continue
            c = cosine(means[k], means[other])
            inter += (c**2 if distance == "cosine_squared" else -(1 - c)) / (count * (count - 1))
    return (intra if update != "inter" else 0.0) + (inter if update != "intra" else 0.0)


def cosine_gradient(u: Array, v: Array) -> Array:
    """Gradient of ``cosine(u, v)`` by u."""
    length = np.linalg.norm(u)
    return v / (length * np.linalg.norm(v)) - cosine(u, v) * u / length**2


class PriorTwin:
    """AdaRand's prior: running means, loss gradient pair by pair, Adam."""

    def __init__(self, means: Array, alpha: float, lr: float, distance: str) -> None:
        self.mu, self.running = means.copy(), means.copy()
        self.alpha, self.lr, self.distance = alpha, lr, distance
        self.first, self.second, self.steps = np.zeros_like(means), np.zeros_like(means), 0

    def gradient(self) -> Array:
        count = len(self.mu)
        grad = np.zeros_like(self.mu)
        squared = self.distance == "cosine_squared"
        for k in range(count):
            c = cosine(self.mu[k], self.running[k])
            slope = 2 * (c - 1) if squared else -1.0
            grad[k] += slope * cosine_gradient(self.mu[k], self.running[k]) / count
            for other in range(count):
                if other == k:
                    continue
                c = cosine(self.mu[k], self.mu[other])
                slope = 2 * c if squared else 1.0
                # each pair stands twice in the sum
                grad[k] += (
                    2 * slope * cosine_gradient(self.mu[k], self.mu[other]) / (count * (count - 1))
                )
        return grad

    def step(self, features: Array, labels: NDArray[np.int64], progress: float) -> None:
        for k in range(len(self.mu)):
            mine = features[labels == k]
            if len(mine):
                self.running[k] = self.alpha * self.running[k] + (1 - self.alpha) * mine.mean(0)
        grad = self.gradient()
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * grad
        self.second = 0.999 * self.second + 0.001 * grad**2
        first = self.first / (1 - 0.9**self.steps)
        second = self.second / (1 - 0.999**self.steps)
        lr = self.lr * math.cos(math.pi * 7 / 16 * progress)
        self.mu -= lr * first / (np.sqrt(second) + 1e-8)


def feature_norm(features: Array, reduction: str) -> float:
    total = sum(float(f) ** 2 for row in features for f in row)
    count, width = features.shape
    return total / (count * width) if reduction == "mean" else total / (2 * count)


def head_gradient(features: Array, logits: Array, labels: NDArray[np.int64]) -> Array:
    """Gradient of the mean cross-entropy by the weights of a linear head, ``[K, d]``."""
    grad = np.zeros((logits.shape[1], features.shape[1]))
    for f, row, y in zip(features, logits, labels, strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        p[y] -= 1.0
        grad += np.outer(p, f) / len(features)
    return grad


def sgm(features: Array, logits: Array, labels: NDArray[np.int64], reduction: str) -> float:
    if reduction == "batch":
        return float((head_gradient(features, logits, labels) ** 2).sum())
    parts = [
        (head_gradient(features[i : i + 1], logits[i : i + 1], labels[i : i + 1]) ** 2).sum()
        for i in range(len(features))
    ]
    return float(np.mean(parts))
