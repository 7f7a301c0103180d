"""Slow twins of the measurements: NumPy, pair by pair, straight from the definitions."""

from __future__ import annotations

import math

import numpy as np


def entropy(f: np.ndarray) -> float:
    """Mean over all neighbours: the average of the k-nearest-neighbour estimators over k."""
    n, d = f.shape
    log_ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    digamma = [-0.5772156649015329]
    for k in range(1, n):
        digamma.append(digamma[-1] + 1 / k)
    total = 0.0
    for k in range(1, n):
        logs = []
        for i in range(n):
            distances = sorted(np.linalg.norm(f[i] - f[j]) for j in range(n) if j != i)
            logs.append(math.log(max(distances[k - 1], 1e-12)))
        # H_k = psi(n) - psi(k) + log c_d + d mean log eps_k
        total += digamma[n - 1] - digamma[k - 1] + log_ball + d * float(np.mean(logs))
    return total / (n - 1)


def mutual_information(f: np.ndarray, y: np.ndarray) -> float:
    return entropy(f) - sum((y == k).mean() * entropy(f[y == k]) for k in np.unique(y))


def class_separation(f: np.ndarray, y: np.ndarray) -> float:
    def distance(a, b):
        units_a, units_b = ([v / np.linalg.norm(v) for v in rows] for rows in (a, b))
        return np.mean([1 - u @ v for u in units_a for v in units_b])

    groups = [f[y == k] for k in np.unique(y)]
    within = np.mean([distance(g, g) for g in groups])
    overall = np.mean([[distance(a, b) for b in groups] for a in groups])
    # by convention nothing is separated where every feature points the same way
    return 1 - within / overall if overall > 1e-12 else 0.0


def linear_cka(f: np.ndarray, g: np.ndarray) -> float:
    """By the Hilbert-Schmidt independence criterion of the two Gram matrices."""
    n = len(f)
    h = np.eye(n) - 1 / n

    def hsic(a, b):
        return np.trace(a @ a.T @ h @ b @ b.T @ h)

    return hsic(f, g) / math.sqrt(hsic(f, f) * hsic(g, g))


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    pairs = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a in scores[positive]
        for b in scores[~positive]
    ]
    return float(np.mean(pairs))


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float:
    total, recall = 0.0, 0.0
    for cut in sorted(set(scores), reverse=True):
        taken = scores >= cut
        now = (taken & positive).sum() / positive.sum()
        total += (now - recall) * (taken & positive).sum() / taken.sum()
        recall = now
    return total


def precision_at(scores: np.ndarray, positive: np.ndarray, k: int, seed: int = 0) -> float:
    """Averaged over many random orders of equal scores."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(4000):
        order = np.lexsort((rng.random(len(scores)), -scores))
        found.append(positive[order[:k]].mean())
    return float(np.mean(found))


def correction(s: list[int], y: list[int], t: list[int]) -> dict[str, float]:
    rows = list(zip(s, y, t, strict=True))

    def share(hits, among):
        chosen = [r for r in rows if among(*r)]
        return sum(hits(*r) for r in chosen) / len(chosen) if chosen else math.nan

    return {
        "precision": share(lambda s, y, t: t == y, lambda s, y, t: t != s),
        "recall": share(lambda s, y, t: t == y, lambda s, y, t: s != y),
        "damage": share(lambda s, y, t: t != y, lambda s, y, t: s == y),
        "wrong_to_wrong": share(lambda s, y, t: t not in (s, y), lambda s, y, t: s != y),
        "accuracy_before": share(lambda s, y, t: s == y, lambda s, y, t: True),
        "accuracy_after": share(lambda s, y, t: t == y, lambda s, y, t: True),
    }
