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


# -- the head's curvature ------------------------------------------------------------------------


def probabilities(z: Array, link: str) -> Array:
    if link == "sigmoid":
        return 1 / (1 + np.exp(-z))
    shifted = np.exp(z - z.max())
    return shifted / shifted.sum()


def head_gradient(features: Array, logits: Array, targets: Array, link: str = "softmax") -> Array:
    """Targets are probabilities; the last column is the bias."""
    n, classes = logits.shape
    out = np.zeros((classes, features.shape[1] + 1))
    for f, z, t in zip(features, logits, targets, strict=True):
        parts = classes if link == "sigmoid" else 1
        out += np.outer((probabilities(z, link) - t) / parts, np.append(f, 1.0)) / n
    return out


def head_hessian(features: Array, logits: Array, link: str = "softmax") -> Array:
    """The whole matrix, ``[C (d + 1), C (d + 1)]``."""
    n, classes = logits.shape
    size = classes * (features.shape[1] + 1)
    out = np.zeros((size, size))
    for f, z in zip(features, logits, strict=True):
        p, row = probabilities(z, link), np.append(f, 1.0)
        inner = np.diag(p) - np.outer(p, p)
        if link == "sigmoid":
            inner = np.diag(p * (1 - p)) / classes
        out += np.kron(inner, np.outer(row, row)) / n
    return out


def hessian_alignment(
    features: Array, logits: Array, targets: Array, domains: Array, *, kind: str, alpha: float,
    beta: float, reference: str = "mean_loss", link: str = "softmax",
) -> float:  # fmt: skip
    gradients, hessians = [], []
    for domain in sorted(set(domains.tolist())):
        mine = domains == domain
        gradients.append(head_gradient(features[mine], logits[mine], targets[mine], link).ravel())
        hessians.append(head_hessian(features[mine], logits[mine], link))
    g, whole = np.mean(gradients, axis=0), np.mean(hessians, axis=0)
    if kind == "hutchinson":
        each, h = [np.diag(m) for m in hessians], np.diag(whole)
    else:
        each = [m @ v for m, v in zip(hessians, gradients, strict=True)]
        h = whole @ g if reference == "mean_loss" else np.mean(each, axis=0)
    total = 0.0
    for h_e, g_e in zip(each, gradients, strict=True):
        total += alpha * ((h_e - h) ** 2).sum() + beta * ((g_e - g) ** 2).sum()
    return total / len(each)


def probed_diagonal(hessian: Array, probes: int, rng: np.random.Generator) -> Array:
    """Hutchinson's estimate: mean of ``s * (H s)`` over random signs s."""
    total = np.zeros(len(hessian))
    for _ in range(probes):
        signs = rng.choice([-1.0, 1.0], len(hessian))
        total += signs * (hessian @ signs)
    return total / probes
