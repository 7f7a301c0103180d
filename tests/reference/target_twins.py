"""Slow NumPy twins of the formulas on targets: corrections, smoothing, weights of samples."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def softmax(row: Array) -> Array:
    shifted = np.exp(row - row.max())
    return shifted / shifted.sum()


def elr_penalty(logits: Array, targets: Array, eps: float = 1e-4) -> float:
    total = 0.0
    for z, t in zip(logits, targets, strict=True):
        p = np.clip(softmax(z), eps, 1 - eps)
        total += math.log(1 - float((t * p).sum()))
    return total / len(logits)


def elr_gradient(logits: Array, targets: Array) -> Array:
    """Closed form of the gradient of one sample's ``log(1 - <t, p>)``, where nothing is clamped."""
    out = np.zeros_like(logits)
    for i, (z, t) in enumerate(zip(logits, targets, strict=True)):
        p = softmax(z)
        inner = float((t * p).sum())
        out[i] = p * (inner - t) / (1 - inner)
    return out


def running_targets(table: Array, index: list[int], probs: Array, beta: float) -> Array:
    """The table after one batch; rows that occur twice move once, towards their mean."""
    out = table.copy()
    for sample in set(index):
        mine = [probs[i] for i, row in enumerate(index) if row == sample]
        out[sample] = beta * table[sample] + (1 - beta) * np.mean(mine, axis=0)
    return out


def correct(label: int, probs: Array, threshold: float) -> int:
    best = int(np.argmax(probs))
    return best if probs[best] > threshold and best != label else label


def confidence_weights(losses: Array, temperature: float) -> Array:
    return softmax(-losses / temperature)


def temperatures(
    last_epoch: int, tau: float, start: int, decay: float, floor: float
) -> list[float]:
    """Temperature during epochs 1, 2, ...: updated after each epoch that lies past ``start``."""
    present, out = tau, []
    for epoch in range(1, last_epoch + 1):
        out.append(present)
        if epoch > start:
            present = tau * max(floor, math.exp(-decay * (epoch - start)))
    return out


def smoothed_cross_entropy(logits: Array, labels: list[int], smoothing: float) -> float:
    """Szegedy et al., section 7: H(q', p) = (1 - e) H(q, p) + e H(u, p), mean over the rows."""
    total = 0.0
    for z, y in zip(logits, labels, strict=True):
        p, k = softmax(z), len(z)
        uniform = sum(-math.log(p[c]) / k for c in range(k))
        total += (1 - smoothing) * -math.log(p[y]) + smoothing * uniform
    return total / len(labels)


def smoothed_binary(logits: Array, targets: Array, smoothing: float) -> float:
    total = 0.0
    for row, given in zip(logits, targets, strict=True):
        for z, t in zip(row, given, strict=True):
            p, s = 1 / (1 + math.exp(-z)), t * (1 - smoothing) + smoothing / 2
            total -= s * math.log(p) + (1 - s) * math.log(1 - p)
    return total / logits.size


def balanced(train_labels: list[int], num_classes: int) -> Array:
    """``n / (K n_k)`` over the classes that occur, 1 for the others."""
    counts = [train_labels.count(c) for c in range(num_classes)]
    present, n = sum(c > 0 for c in counts), sum(counts)
    return np.array([n / (present * c) if c else 1.0 for c in counts])


def class_weighted(
    logits: Array, labels: list[int], weights: Array, train_labels: list[int], normalize: bool
) -> float:
    """``sum_i w[y_i] loss_i / N``; the mean weight over the training labels is 1."""
    scale = sum(weights[y] for y in train_labels) / len(train_labels) if normalize else 1.0
    total = 0.0
    for z, y in zip(logits, labels, strict=True):
        total += weights[y] / scale * -math.log(softmax(z)[y])
    return total / len(labels)
