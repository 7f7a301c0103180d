"""Slow twins of the analyses: NumPy and loops, straight from the definitions."""

from __future__ import annotations

import cmath
import math

import numpy as np

# -- neural collapse -------------------------------------------------------------------------------


def collapse(f, y, weighting="class"):
    """NC1 with the whole d x d matrices, its variants, and the centred means."""
    names = sorted(set(y.tolist()))
    k, n, d = len(names), len(f), f.shape[1]
    means = {c: f[y == c].mean(0) for c in names}
    share = {c: 1 / k if weighting == "class" else (y == c).mean() for c in names}
    center = sum(share[c] * means[c] for c in names)
    within, between, spread = np.zeros((d, d)), np.zeros((d, d)), {}
    for c in names:
        rows = f[y == c]
        scatter = sum(np.outer(h - means[c], h - means[c]) for h in rows) / len(rows)
        within += share[c] * scatter
        between += share[c] * np.outer(means[c] - center, means[c] - center)
        spread[c] = np.trace(scatter)
    pairs = [(a, b) for a in names for b in names if a != b]
    gaps = [(spread[a] + spread[b]) / (2 * ((means[a] - means[b]) ** 2).sum()) for a, b in pairs]
    assert n == sum((y == c).sum() for c in names)
    return {
        "nc1": np.trace(within @ np.linalg.pinv(between, rcond=1e-6, hermitian=True)) / k,
        "nc1_trace": np.trace(within) / np.trace(between),
        "nc1_cdnv": np.mean(gaps),
    }, np.array([means[c] - center for c in names])


def simplex(v):
    k = len(v)
    norms = [np.linalg.norm(row) for row in v]
    cosines = [v[i] @ v[j] / norms[i] / norms[j] for i in range(k) for j in range(k) if i != j]
    gram = v @ v.T
    ideal = np.eye(k) - 1 / k
    return {
        "norm": np.std(norms) / np.mean(norms),
        "angle": np.mean([abs(c + 1 / (k - 1)) for c in cosines]),
        "angle_spread": np.std(cosines),
        "frame": np.linalg.norm(gram / np.linalg.norm(gram) - ideal / np.linalg.norm(ideal)),
    }


def nearest_mismatch(f, y, logits):
    names = sorted(set(y.tolist()))
    means = {c: f[y == c].mean(0) for c in names}
    wrong = 0
    for h, z in zip(f, logits, strict=True):
        near = min(names, key=lambda c: np.linalg.norm(h - means[c]))
        wrong += near != max(names, key=lambda c: z[c])
    return wrong / len(f)


def feature_model(start, y, lw, lh, beta, sweeps):
    """The unconstrained features model tied to some start, by its two closed forms in turn."""
    h, n = start.copy(), start.shape[1]
    for _ in range(sweeps):
        w = y @ h.T @ np.linalg.inv(h @ h.T + n * lw * np.eye(len(h)))
        h = np.linalg.solve(w.T @ w + (lh + beta) * np.eye(len(h)), w.T @ y + beta * start)
    return h, w


# -- calibration -----------------------------------------------------------------------------------


def calibration_error(confidence, correct, bins, scheme="width", largest=False):
    n = len(confidence)
    groups = [[] for _ in range(bins)]
    if scheme == "width":
        for i, c in enumerate(confidence):
            groups[min(int(c * bins), bins - 1)].append(i)
    else:
        for place, i in enumerate(sorted(range(n), key=lambda i: confidence[i])):
            groups[place * bins // n].append(i)
    gaps = [(abs(np.mean(correct[g]) - np.mean(confidence[g])), len(g)) for g in groups if g]
    return max(g for g, _ in gaps) if largest else sum(g * m for g, m in gaps) / n


def brier(p, y):
    return np.mean(
        [sum((p[i, k] - (y[i] == k)) ** 2 for k in range(p.shape[1])) for i in range(len(p))]
    )


# -- boundaries ------------------------------------------------------------------------------------


def tilt(f, y, w, b, i, j):
    """Angle in degrees, strength, strength of class i with the bias, variance along the tilt."""
    m, n = f[y == i].mean(0), f[y == j].mean(0)
    c = (w[i] - w[j]) / np.linalg.norm(w[i] - w[j])
    z = (m - n) / np.linalg.norm(m - n)
    cosine = c @ z
    offset = (b[i] - b[j]) / np.linalg.norm(w[i] - w[j])
    reach = c @ m + offset
    t = c - cosine * z
    t /= np.linalg.norm(t)
    names = sorted(set(y.tolist()))
    scatter = np.mean(
        [np.cov(f[y == k], rowvar=False, ddof=0).reshape(f.shape[1], -1) for k in names], axis=0
    )
    half = np.linalg.norm(m - n) / 2
    return (
        math.degrees(math.acos(cosine)),
        1 / cosine if cosine > 0 else math.inf,
        half / reach if reach > 0 else math.inf,
        t @ scatter @ t / (np.trace(scatter) / f.shape[1]),
    )


# -- linear dynamics -------------------------------------------------------------------------------


def flow_error(x, time, signal, noise, init):
    """Expected test error of gradient flow from matrix functions of X^T X, features of 1 / N."""
    n = x.shape[1]
    values, vectors = np.linalg.eigh(x.T @ x)
    stays = vectors @ np.diag(np.exp(-values * time)) @ vectors.T
    # w = stays (w0 - wbar) + wbar + S X^T e with S the integral of stays over time
    integral = (
        vectors
        @ np.diag([(1 - math.exp(-v * time)) / v if v > 1e-9 else time for v in values])
        @ vectors.T
    )
    spread = integral @ x.T
    bias = (signal + init) * np.trace(stays @ stays.T)
    return (bias + noise * np.trace(spread @ spread.T)) / n + noise


def flow_train_error(x, time, signal, noise, init):
    p = len(x)
    values, vectors = np.linalg.eigh(x.T @ x)
    stays = vectors @ np.diag(np.exp(-values * time)) @ vectors.T
    integral = (
        vectors
        @ np.diag([(1 - math.exp(-v * time)) / v if v > 1e-9 else time for v in values])
        @ vectors.T
    )
    residual = np.eye(p) - x @ integral @ x.T  # what the noise leaves
    moved = x @ stays
    return ((signal + init) * np.trace(moved @ moved.T) + noise * np.trace(residual @ residual.T)
            ) / p  # fmt: skip


def ridge_error(x, g, signal, noise):
    n = x.shape[1]
    inverse = np.linalg.inv(x.T @ x + g * np.eye(n))
    spread = inverse @ x.T
    return (signal * g**2 * np.trace(inverse @ inverse) + noise * np.trace(spread @ spread.T)
            ) / n + noise  # fmt: skip


def log_evidence(x, y, signal, noise):
    """Log likelihood of centred targets under a centred linear model, the mean projected out."""
    p = len(x)
    basis = np.linalg.svd(np.eye(p) - 1 / p)[0][:, : p - 1]
    z, t = basis.T @ (x - x.mean(0)), basis.T @ (y - y.mean(0))
    cov = signal * z @ z.T + noise * np.eye(p - 1)
    total = 0.0
    for c in range(t.shape[1]):
        total -= 0.5 * (
            np.linalg.slogdet(2 * np.pi * cov)[1] + t[:, c] @ np.linalg.solve(cov, t[:, c])
        )
    return total


# -- histories and neurons -------------------------------------------------------------------------


def forgetting(correct):
    epochs, n = correct.shape
    return [
        sum(correct[e, i] and not correct[e + 1, i] for e in range(epochs - 1)) for i in range(n)
    ]


def two_groups(values):
    """The best split, every threshold tried: variance between the groups over all variance."""
    values = np.sort(values)
    best = 0.0
    for cut in range(1, len(values)):
        low, high = values[:cut], values[cut:]
        best = max(best, len(low) * len(high) / len(values) ** 2 * (low.mean() - high.mean()) ** 2)
    return best / values.var()


def participation(u, r=2):
    p = len(u)
    power = []
    for f in range(1, p // 2 + 1):
        power.append(abs(sum(u[t] * cmath.exp(-2j * cmath.pi * f * t / p) for t in range(p))) ** 2)
    return sum(a**r for a in power) / sum(power) ** r


def serving(hidden, weight, labels, wrong, unit):
    clean, bad = [], []
    for h, y, is_wrong in zip(hidden, labels, wrong, strict=True):
        act = abs(h[unit] * (weight[y, unit] - weight[:, unit].mean()))
        (bad if is_wrong else clean).append(act)
    a, b = sum(clean), sum(bad) * len(clean) / len(bad)
    return a / (a + b)


def wilson(hits, n, z):
    """The shares p whose score statistic is z: both roots."""
    share = hits / n
    return sorted(np.roots([1 + z * z / n, -(2 * share + z * z / n), share**2]).real)
