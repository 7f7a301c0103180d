"""Slow NumPy twins of layers and of what is done to inputs."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def cross_entropy(row: Array, label: int) -> float:
    top = float(row.max())
    return top + math.log(sum(math.exp(z - top) for z in row)) - float(row[label])


def dropped(features: Array, draws: Array, p: float) -> Array:
    """Numbers whose draw lies under p become 0, the others grow by 1 / (1 - p)."""
    out = np.zeros(draws.shape)
    for at in np.ndindex(*draws.shape):
        if draws[at] >= p:
            out[at] = features[at[1:]] / (1.0 - p)
    return out


def multi_sample_losses(logits: Array, labels: list[int]) -> list[float]:
    """Mean over the samples of each row's loss; logits ``[M, N, K]``."""
    found = []
    for row, label in enumerate(labels):
        found.append(sum(cross_entropy(sample[row], label) for sample in logits) / len(logits))
    return found
