"""Slow NumPy twins of the formulas on weights: projections, penalties towards the start, Fisher."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def frobenius(param: Array, center: Array, radius: float) -> Array:
    moved = param - center
    distance = math.sqrt(sum(float(value) ** 2 for value in moved.ravel()))
    if distance <= radius:
        return param.copy()
    return center + moved * (radius / distance)


def mars_norm(param: Array) -> float:
    return max(sum(abs(float(v)) for v in row.ravel()) for row in param)


def mars(param: Array, center: Array, radius: float) -> Array:
    out = param.copy()
    for j in range(len(param)):
        moved = param[j] - center[j]
        total = sum(abs(float(v)) for v in moved.ravel())
        if total > radius:
            out[j] = center[j] + moved * (radius / total)
    return out


def mars_euclidean(param: Array, center: Array, radius: float) -> Array:
    """Soft threshold of each row, found by bisection."""
    out = param.copy()
    for j in range(len(param)):
        moved = param[j] - center[j]
        sizes = np.abs(moved)
        if sizes.sum() <= radius:
            continue
        low, high = 0.0, float(sizes.max())
        for _ in range(200):
            middle = 0.5 * (low + high)
            if np.maximum(sizes - middle, 0.0).sum() > radius:
                low = middle
            else:
                high = middle
        out[j] = center[j] + np.sign(moved) * np.maximum(sizes - high, 0.0)
    return out


def batch_norm(gamma: Array, var: Array, gamma0: Array, var0: Array, radius: float) -> Array:
    out = gamma.copy()
    for c in range(len(gamma)):
        scale = math.sqrt(var[c] + 1e-6)
        slope, start = gamma[c] / scale, gamma0[c] / math.sqrt(var0[c] + 1e-6)
        if abs(slope - start) > radius:
            out[c] = (start + math.copysign(radius, slope - start)) * scale
    return out


def start_penalty(moved: Array, form: str, fisher: Array | None = None) -> float:
    weigh = np.ones_like(moved) if fisher is None else fisher
    if form in ("l2_sp", "l2"):
        return 0.5 * sum(
            float(f * t * t) for f, t in zip(weigh.ravel(), moved.ravel(), strict=True)
        )
    if form == "l1_sp":
        return sum(abs(float(t)) for t in moved.ravel())
    total = 0.0
    for f, row in zip(weigh, moved, strict=True):
        total += math.sqrt(row.size) * math.sqrt(float((f * row**2).sum()))
    return total


def start_gradient(moved: Array, form: str, fisher: Array | None = None) -> Array:
    """By central differences of :func:`start_penalty`, 0 at entries (rows) that have not moved."""
    step, out = 1e-6, np.zeros_like(moved)
    for place in np.ndindex(moved.shape):
        if form == "l1_sp" and moved[place] == 0:
            continue
        if form == "group_lasso_sp" and not moved[place[0]].any():
            continue
        up, down = moved.copy(), moved.copy()
        up[place] += step
        down[place] -= step
        gap = start_penalty(up, form, fisher) - start_penalty(down, form, fisher)
        out[place] = gap / (2 * step)
    return out


def proximal(moved: Array, step: float, form: str) -> Array:
    if form == "l1_sp":
        return np.sign(moved) * np.maximum(np.abs(moved) - step, 0.0)
    out = np.zeros_like(moved)
    for j, row in enumerate(moved):
        size, bound = float(np.linalg.norm(row)), step * math.sqrt(row.size)
        if size > bound:
            out[j] = row * (1.0 - bound / size)
    return out


def linear_fisher(weight: Array, bias: Array, rows: Array) -> tuple[Array, Array]:
    """Fisher diagonal of a linear softmax classifier: ``E_k (e_k - p)^2`` times ``x^2``."""
    fisher_weight, fisher_bias = np.zeros_like(weight), np.zeros_like(bias)
    for x in rows:
        logits = weight @ x + bias
        probs = np.exp(logits - logits.max())
        probs /= probs.sum()
        for k, chance in enumerate(probs):
            slope = -probs.copy()
            slope[k] += 1.0
            fisher_weight += chance * np.outer(slope, x) ** 2
            fisher_bias += chance * slope**2
    return fisher_weight / len(rows), fisher_bias / len(rows)
