"""Slow NumPy twins of the formulas on targets: early learning, label correction, reweighting."""

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
