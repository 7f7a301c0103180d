"""Slow NumPy twins: distillation, incremental losses, Fisher diagonals, averages, metrics."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z))


def softmax(row: Array) -> Array:
    powers = np.exp(row - row.max())
    return powers / powers.sum()


def bce(z: float, t: float) -> float:
    p = sigmoid(z)
    return -t * math.log(p) - (1 - t) * math.log(1 - p)


def incremental_loss(logits: Array, labels: list[int], new: list[int]) -> list[float]:
    """Sum over the new classes of BCE(sigmoid(z_c), 1[y = c]), a row."""
    return [
        sum(bce(row[c], 1.0 if y == c else 0.0) for c in new)
        for row, y in zip(logits, labels, strict=True)
    ]


def masked_cross_entropy(logits: Array, labels: list[int], new: list[int]) -> list[float]:
    """Cross-entropy with the old logits at minus infinity."""
    found = []
    for row, y in zip(logits, labels, strict=True):
        masked = np.array([z if c in new else -np.inf for c, z in enumerate(row)])
        found.append(-math.log(softmax(masked)[y]))
    return found


def prediction_divergence(logits: Array, teacher: Array, mode: str, temperature: float) -> Array:
    """KL of the teacher's predictions from ours, by its definition."""
    found = []
    for z, z0 in zip(logits / temperature, teacher / temperature, strict=True):
        total = 0.0
        if mode == "softmax":
            for p, q in zip(softmax(z), softmax(z0), strict=True):
                total += q * math.log(q / p)
        else:
            for a, b in zip(z, z0, strict=True):
                p, q = sigmoid(a), sigmoid(b)
                total += q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
        found.append(total)
    return np.array(found)


def feature_distillation(features: Array, teacher: Array) -> float:
    total = 0.0
    for f, t in zip(features, teacher, strict=True):
        total += sum((a - b) ** 2 for a, b in zip(f, t, strict=True))
    return total / len(features)


def softmax_fisher(weight: Array, inputs: Array, labels: list[int] | None) -> Array:
    """Of ``z = W x``: mean over samples of the squared gradient of ``log p(y | x)``.

    ``d log p_y / d W_kj = (1[y = k] - p_k) x_j``; without labels the expectation over y ~ p.
    """
    total = np.zeros_like(weight)
    for i, x in enumerate(inputs):
        p = softmax(weight @ x)
        for y in range(len(p)) if labels is None else [labels[i]]:
            share = p[y] if labels is None else 1.0
            for k in range(len(p)):
                for j in range(len(x)):
                    total[k, j] += share * ((float(y == k) - p[k]) * x[j]) ** 2
    return total / len(inputs)


def sigmoid_fisher(weight: Array, inputs: Array) -> Array:
    """Mean of ``p (1 - p) x^2``, the analytic one of independent logistic regressions."""
    total = np.zeros_like(weight)
    for x in inputs:
        for k in range(len(weight)):
            p = sigmoid(float(weight[k] @ x))
            for j in range(len(x)):
                total[k, j] += p * (1 - p) * x[j] ** 2
    return total / len(inputs)


def ewc_penalty(weights: Array, start: Array, fisher: Array, weight: float) -> float:
    total = 0.0
    for w, s, f in zip(weights.ravel(), start.ravel(), fisher.ravel(), strict=True):
        total += f * (w - s) ** 2
    return weight * total


def moving_average(course: list[Array], start: Array, decay: float, warmup: bool) -> Array:
    """The average after each weight of a course was seen."""
    average = start.copy()
    for t, weights in enumerate(course):
        d = min(decay, (1 + t) / (10 + t)) if warmup else decay
        average = d * average + (1 - d) * weights
    return average


def global_forgetting(r: Array, classes: list[int]) -> float:
    """Smith et al.: tasks counted from 1 there, from 0 here."""
    n_tasks, total = len(r), 0.0
    for i in range(2, n_tasks + 1):
        for n in range(1, i):
            share = classes[n - 1] / sum(classes[:i])
            total += share * (r[n - 1, n - 1] - r[i - 1, n - 1])
    return total / (n_tasks - 1)


def forgetting(r: Array) -> float:
    falls = []
    for n in range(len(r) - 1):
        best = max(r[i, n] for i in range(n, len(r) - 1))
        falls.append(best - r[-1, n])
    return sum(falls) / len(falls)
