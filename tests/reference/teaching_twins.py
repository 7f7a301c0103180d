"""Slow NumPy twins of methods in which networks teach themselves and one another."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def softmax(row: Array) -> Array:
    shifted = np.exp(row - row.max())
    return shifted / shifted.sum()


# -- progressive self-distillation ---------------------------------------------------------------


def ps_kd_targets(
    course: list[list[tuple[list[int], Array]]], labels: list[int], classes: int, alpha_max: float
) -> list[list[Array]]:
    """Targets of every step of every epoch, from its samples and logits."""
    past: dict[int, Array] = {}
    out = []
    for epoch, steps in enumerate(course):
        alpha = alpha_max * (epoch + 1) / len(course)
        of_epoch = []
        for samples, logits in steps:
            targets = np.zeros((len(samples), classes))
            for i, sample in enumerate(samples):
                y = np.eye(classes)[labels[sample]]
                if epoch == 0:
                    past[sample] = y
                targets[i] = (1 - alpha) * y + alpha * past.get(sample, y)
            for i, sample in enumerate(samples):
                past[sample] = softmax(logits[i])
            of_epoch.append(targets)
        out.append(of_epoch)
    return out


def soft_cross_entropy(logits: Array, targets: Array) -> float:
    total = 0.0
    for z, t in zip(logits, targets, strict=True):
        p = softmax(z)
        total -= sum(float(t[c]) * math.log(p[c]) for c in range(len(z)))
    return total / len(logits)
