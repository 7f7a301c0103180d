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


# -- nested dropout and co-teaching --------------------------------------------------------------


def truncation_probabilities(width: int, sigma: float, mu: float) -> Array:
    raw = [math.exp(-(((k - mu) / sigma) ** 2)) for k in range(1, width + 1)]
    return np.array(raw) / sum(raw)


def accuracy_curve(features: Array, weight: Array, bias: Array, labels: list[int]) -> Array:
    """An evaluation of its own for every number of channels."""
    width = features.shape[1]
    out = np.zeros(width)
    for k in range(1, width + 1):
        hits = 0
        for h, y in zip(features, labels, strict=True):
            cut = np.array([h[j] if j < k else 0.0 for j in range(width)])
            hits += int(np.argmax(weight @ cut + bias) == y)
        out[k - 1] = hits / len(labels)
    return out


def best_truncation(accuracies: Array) -> int:
    best, found = -math.inf, 0
    for k, accuracy in enumerate(accuracies, start=1):
        value = accuracy - 1e-5 * (k - 1)
        if value > best:
            best, found = value, k
    return found


def kept(losses: Array, forget_rate: float) -> list[int]:
    count = max(1, int((1 - forget_rate) * len(losses) + 1e-6))
    return sorted(range(len(losses)), key=lambda i: (losses[i], i))[:count]


def cross_entropies(logits: Array, labels: list[int]) -> Array:
    return np.array([-math.log(softmax(z)[y]) for z, y in zip(logits, labels, strict=True)])


def co_teaching_losses(first: Array, second: Array, forget_rate: float) -> tuple[float, float]:
    """Losses of both networks on a shared batch, from their losses of each sample."""
    mine = float(np.mean([first[i] for i in kept(second, forget_rate)]))
    theirs = float(np.mean([second[i] for i in kept(first, forget_rate)]))
    return mine, theirs


# -- ELR+ ----------------------------------------------------------------------------------------


def elr_plus_step(
    logits: Array, told: Array, table: Array, index: list[int], targets: Array,
    permutation: list[int], lam: list[float], beta: float, refine: bool = False,
    eps: float = 1e-4,
) -> tuple[float, float, Array]:  # fmt: skip
    """One network's cross-entropy, its term and its table; ``told``: the other's average."""
    table = table.copy()
    for row, sample in enumerate(index):
        table[sample] = beta * table[sample] + (1 - beta) * softmax(told[row])
    running = np.array([table[sample] for sample in index])
    mixed = np.array(
        [lam[i] * running[i] + (1 - lam[i]) * running[permutation[i]] for i in range(len(index))]
    )
    targets = targets.copy()
    if refine:
        for i in range(len(index)):
            targets[i] = targets[i] * mixed[i] / sum(targets[i] * mixed[i])
    pull = 0.0
    for z, t in zip(logits, mixed, strict=True):
        p = np.clip(softmax(z), eps, 1 - eps)
        pull += math.log(1 - float((t * p).sum())) / len(logits)
    return soft_cross_entropy(logits, targets), pull, table


def average_decay(step: int, decay: float, ramp_steps: int) -> float:
    if ramp_steps:
        return math.exp(-5 * (1 - min(step, ramp_steps) / ramp_steps) ** 2) * decay
    return min(1 - 1 / (step + 1), decay)


# -- random teachers -----------------------------------------------------------------------------


def distillation(student: Array, teacher: Array, tau_s: float, tau_t: float) -> float:
    total = 0.0
    for z, t in zip(student, teacher, strict=True):
        p, q = softmax(z / tau_s), softmax(t / tau_t)
        total -= sum(float(q[k]) * math.log(p[k]) for k in range(len(z)))
    return total / len(student)


def projection(rows: Array, layers: list[tuple[Array, Array]], directions: Array) -> Array:
    """Hidden layers with GELU, a bottleneck of unit length, cosines with every direction."""
    out = []
    for row in rows:
        for at, (weight, bias) in enumerate(layers):
            row = weight @ row + bias
            if at < len(layers) - 1:
                row = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in row])
        unit = row / math.sqrt(float(row @ row))
        out.append([float(unit @ d) / math.sqrt(float(d @ d)) for d in directions])
    return np.array(out)
