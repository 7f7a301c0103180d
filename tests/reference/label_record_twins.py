"""Slow twins of the record's columns and of the noise rate: NumPy, sample by sample."""

from __future__ import annotations

import math

import numpy as np


def class_columns(logits: np.ndarray, labels: np.ndarray) -> list[list[float]]:
    """Loss, margin, confidence and predicted class of each row."""
    rows = []
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        whole = sum(math.exp(v) for v in z)
        shares = [math.exp(v) / whole for v in z]
        rival = max(v for k, v in enumerate(z) if k != y)
        rows.append([-math.log(shares[y]), z[y] - rival, max(shares), shares.index(max(shares))])
    return rows


def multi_label_columns(logits: np.ndarray, labels: np.ndarray) -> list[list[float]]:
    """The same of the label that fits worst."""
    rows = []
    for z, y in zip(logits.tolist(), labels.tolist(), strict=True):
        signed = [v if one else -v for v, one in zip(z, y, strict=True)]
        worst = signed.index(min(signed))
        chance = 1 / (1 + math.exp(-z[worst]))
        rows.append([math.log(1 + math.exp(-signed[worst])), signed[worst],
                     max(chance, 1 - chance), worst])  # fmt: skip
    return rows


def posterior(logs: np.ndarray, given: np.ndarray, transition: np.ndarray, s: float) -> np.ndarray:
    """P(true | x, given), class by class."""
    found = np.zeros(logs.shape)
    for i, k in enumerate(given.tolist()):
        beliefs = np.exp(s * logs[i]) / np.exp(s * logs[i]).sum()
        joint = [beliefs[j] * transition[j, k] for j in range(logs.shape[1])]
        found[i] = np.array(joint) / sum(joint)
    return found


def transition_step(logs: np.ndarray, given: np.ndarray, transition: np.ndarray, s: float,
                    prior: float = 1.0) -> np.ndarray:  # fmt: skip
    """The matrix after one round of EM."""
    classes = logs.shape[1]
    counts = np.full((classes, classes), prior / classes)
    for row, k in zip(posterior(logs, given, transition, s), given.tolist(), strict=True):
        for j in range(classes):
            counts[j, k] += row[j]
    return counts / counts.sum(1, keepdims=True)


def uniform_likelihood(logs: np.ndarray, given: np.ndarray, share: float, s: float) -> float:
    """Mean log-likelihood of labels of which a share was drawn evenly from all classes."""
    total = 0.0
    for z, k in zip(logs, given.tolist(), strict=True):
        beliefs = np.exp(s * z) / np.exp(s * z).sum()
        total += math.log((1 - share) * beliefs[k] + share / len(z))
    return total / len(given)


def neighbours(units: np.ndarray, count: int) -> list[list[int]]:
    """The nearest other rows of each row, by comparing all."""
    found = []
    for i in range(len(units)):
        others = [j for j in range(len(units)) if j != i]
        found.append(sorted(others, key=lambda j: -float(units[i] @ units[j]))[:count])
    return found
