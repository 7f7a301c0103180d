"""Slow NumPy twins of the transfer baselines on features."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(row: Array) -> Array:
    shifted = np.exp(row - row.max())
    return shifted / shifted.sum()


def unit(row: Array) -> Array:
    return row / max(math.sqrt(sum(float(v) ** 2 for v in row)), 1e-12)


# -- batch spectral shrinkage --------------------------------------------------------------------


def spectral_shrinkage(features: Array, k: int) -> float:
    """The k smallest singular values, squared: least eigenvalues of the smaller Gram matrix."""
    n, d = features.shape
    gram = features @ features.T if n <= d else features.T @ features
    return float(sum(sorted(np.linalg.eigvalsh(gram))[:k]))


def spectral_gradient(features: Array, k: int) -> Array:
    u, s, vt = np.linalg.svd(features, full_matrices=False)
    grad = np.zeros_like(features)
    for i in range(len(s) - k, len(s)):
        grad += 2 * s[i] * np.outer(u[:, i], vt[i])
    return grad


# -- learning without forgetting -----------------------------------------------------------------


def divergence(logits: Array, teacher: Array, temperature: float) -> float:
    total = 0.0
    for z, u in zip(logits, teacher, strict=True):
        p, q = softmax(z / temperature), softmax(u / temperature)
        total += sum(b * (math.log(b) - math.log(a)) for a, b in zip(p, q, strict=True))
    return total / len(logits)


# -- co-tuning -----------------------------------------------------------------------------------


def direct_table(source_logits: Array, labels: NDArray[np.int64], count: int) -> Array:
    table = np.zeros((count, source_logits.shape[1]))
    for k in range(count):
        rows = [softmax(z) for z, y in zip(source_logits, labels, strict=True) if y == k]
        table[k] = sum(rows) / len(rows)
    return table


def reverse_table(coefficient: Array, scale: float, prior: Array) -> Array:
    """From the regression's coefficients ``[K_t, K_s]`` by Bayes' rule, one entry at a time."""
    count, old = coefficient.shape
    joint = np.zeros((count, old))
    for s in range(old):
        column = softmax(scale * coefficient[:, s])
        for t in range(count):
            joint[t, s] = column[t] * prior[s]
    return np.array([row / row.sum() for row in joint])


def co_tuning(logits: Array, labels: NDArray[np.int64], table: Array) -> float:
    total = 0.0
    for z, y in zip(logits, labels, strict=True):
        p = softmax(z)
        total -= sum(table[y, k] * math.log(p[k]) for k in range(len(p)))
    return total / len(logits)


# -- DELTA ---------------------------------------------------------------------------------------


def map_distance(maps: Array, start: Array, weights: Array | None, reduction: str) -> float:
    """Maps ``[N, C, H, W]``: the printed sums, one number at a time."""
    n, c, h, w = maps.shape
    v = np.full(c, 1.0 / c) if weights is None else weights
    total = 0.0
    for i in range(n):
        for j in range(c):
            square = 0.0
            for y in range(h):
                for x in range(w):
                    square += float(maps[i, j, y, x] - start[i, j, y, x]) ** 2
            total += 0.5 * c * v[j] * square / (h * w)
    return total / n if reduction == "mean" else total


def attention(scores: Array, temperature: float = 5.0) -> Array:
    spread = math.sqrt(float(np.mean([(s - scores.mean()) ** 2 for s in scores])))
    return softmax((scores - scores.mean()) / spread / temperature)


# -- Bi-Tuning -----------------------------------------------------------------------------------


def even_divergence(values: list[float], positives: list[int], temperature: float) -> float:
    """KL of the even share of the positive entries from the softmax of all."""
    p = softmax(np.array(values) / temperature)
    share = 1.0 / len(positives)
    return sum(share * (math.log(share) - math.log(p[k])) for k in positives)


def bi_tuning(
    f: Array, keys: Array, projection: Array, key_projection: Array, head: Array,
    queue_z: list[list[Array]], queue_h: list[list[Array]], labels: NDArray[np.int64],
    temperature: float,
) -> float:  # fmt: skip
    """Both parts; the queues hold a list of keys a class, of any length; ``head`` is [W, b]."""
    total = 0.0
    for row, key, c in zip(f, keys, labels, strict=True):
        z, own = unit(projection @ row), unit(key_projection @ key)
        values, positives = [float(z @ own)], [0]
        for k, kept in enumerate(queue_z):
            for other in kept:
                positives += [len(values)] if k == c else []
                values.append(float(z @ other))
        total += even_divergence(values, positives, temperature)
        h, w = unit(np.append(row, 1.0)), unit(head[c])
        values, positives = [float(h @ w)], [0]
        for k, kept in enumerate(queue_h):
            for other in kept:
                positives += [len(values)] if k == c else []
                values.append(float(other @ w))
        total += even_divergence(values, positives, temperature)
    return total / len(f)


# -- DR-Tune -------------------------------------------------------------------------------------


def rotation(p: Array, q: Array) -> Array:
    """Steps c of the sheet's algorithm: ``M = P^T Q = U S V^T``, ``R = V diag(1, .., det) U^T``."""
    m = (p - p.mean(0)).T @ (q - q.mean(0))
    u, _, vt = np.linalg.svd(m)
    signs = np.ones(len(m))
    signs[-1] = np.sign(np.linalg.det(vt.T @ u.T))
    return vt.T @ np.diag(signs) @ u.T


def calibrated(
    before: Array, now: Array, labels: NDArray[np.int64], head: Array, length: float,
    rotate: bool = True,
) -> Array:  # fmt: skip
    p, q = np.array([unit(r) for r in before]), np.array([unit(r) for r in now])
    if rotate:
        turn, centre = rotation(p, q), p.mean(0)
        p = np.array([turn @ (row - centre) + q.mean(0) for row in p])
    out = p.copy()
    for c in set(labels.tolist()):
        rows = [i for i, y in enumerate(labels) if y == c]
        weights = softmax(np.array([float(q[i] @ unit(head[c])) for i in rows]))
        centre = sum(w * q[i] for w, i in zip(weights, rows, strict=True))
        mean = sum(p[i] for i in rows) / len(rows)
        for i in rows:
            out[i] = p[i] + centre - mean
    return np.array([unit(row) * length for row in out])
