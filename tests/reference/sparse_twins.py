"""Slow NumPy twins of sparse weights: thresholdings, group envelope, rates, repulsion, masks."""

from __future__ import annotations

import itertools
import math

import numpy as np

Array = np.ndarray


def penalty(x: Array, form: str, q: float = 0.5, lam: float = 1.0, a: float = 1.0) -> Array:
    """Phi of the proximal operator; for CEL0 with its weight inside."""
    if form == "l1":
        return np.abs(x)
    if form == "l0":
        return (x != 0).astype(float)
    if form == "cel0":
        edge = math.sqrt(2 * lam) / a
        return np.where(np.abs(x) <= edge, lam - a**2 / 2 * (np.abs(x) - edge) ** 2, lam)
    return np.abs(x) ** {"l1/2": 0.5, "l2/3": 2 / 3, "lq": q}[form]


def brute_force_prox(t: float, g: float, form: str, **more: float) -> float:
    """Argmin of ``1/2 (x - t)^2 + g phi(x)`` on a fine grid and 0, then on a finer one round it."""
    low, high, best = min(t, 0.0) - 1e-3, max(t, 0.0) + 1e-3, 0.0
    for _ in range(3):
        grid = np.append(np.linspace(low, high, 20001), 0.0)
        values = 0.5 * (grid - t) ** 2 + g * penalty(grid, form, **more)
        best = float(grid[np.argmin(values)])
        step = (high - low) / 20000
        low, high = best - 2 * step, best + 2 * step
    return best


def prox(t: float, g: float, form: str) -> float:
    """The printed formula for one number."""
    size, sign = abs(t), math.copysign(1.0, t)
    if form == "l1":
        return sign * max(size - g, 0.0)
    if form == "l0":
        return t if size > math.sqrt(2 * g) else 0.0
    if form == "l1/2":
        if size <= 1.5 * g ** (2 / 3):
            return 0.0
        psi = math.acos(g / 4 * (size / 3) ** -1.5)
        return 2 / 3 * t * (1 + math.cos(2 * math.pi / 3 - 2 / 3 * psi))
    assert form == "l2/3"
    if size <= 2 * (2 * g / 3) ** 0.75:
        return 0.0
    theta = math.acosh(27 * t * t / 16 * (2 * g) ** -1.5)
    a = 2 / math.sqrt(3) * (2 * g) ** 0.25 * math.sqrt(math.cosh(theta / 3))
    return sign * ((a + math.sqrt(2 * size / a - a * a)) / 2) ** 3


def prox_lq(t: float, g: float, q: float) -> float:
    """The larger root by bisection between b and |t|."""
    b = (2 * g * (1 - q)) ** (1 / (2 - q))
    if abs(t) <= b + g * q * b ** (q - 1):
        return 0.0
    low, high = b, abs(t)
    for _ in range(200):
        middle = (low + high) / 2
        if middle + g * q * middle ** (q - 1) > abs(t):
            high = middle
        else:
            low = middle
    return math.copysign(low, t)


def prox_cel0(t: float, gamma: float, lam: float, a: float) -> float:
    size = abs(t)
    if a * a * gamma >= 1:
        return t if size > math.sqrt(2 * gamma * lam) else 0.0
    steep = max(size - math.sqrt(2 * lam) * a * gamma, 0.0) / (1 - a * a * gamma)
    return math.copysign(min(size, steep), t)


def best_support(a: Array, y: Array, lam: float) -> tuple[float, Array]:
    """Minimum of ``1/2 |A x - y|^2 + lam |x|_0`` over all supports, and where it lies."""
    best, where = math.inf, np.zeros(a.shape[1])
    for count in range(a.shape[1] + 1):
        for support in itertools.combinations(range(a.shape[1]), count):
            x = np.zeros(a.shape[1])
            if support:
                x[list(support)] = np.linalg.lstsq(a[:, support], y, rcond=None)[0]
            value = 0.5 * float(((a @ x - y) ** 2).sum()) + lam * count
            if value < best - 1e-12:
                best, where = value, x
    return best, where


def envelope(norms: Array, k: float, d: Array) -> float:
    """The closed form, with a loop over r."""
    v = sorted((math.sqrt(w) * n for w, n in zip(d, norms, strict=True)), reverse=True)
    if sum(1 for x in v if x > 0) <= k:
        return 0.5 * sum(x * x for x in v)
    for r in range(math.ceil(k)):
        s = sum(v[r:]) / (k - r)
        if (r == 0 or v[r - 1] >= s - 1e-12) and s >= v[r] - 1e-12:
            return 0.5 * (sum(x * x for x in v[:r]) + sum(v[r:]) ** 2 / (k - r))
    raise AssertionError("no r")


def envelope_prox(norms: Array, k: float, lam: float, d: Array) -> Array:
    """Factors of the groups; the root z by bisection."""
    if sum(1 for n in norms if n > 0) <= k:
        return 1 / (1 + lam * d)
    c = np.sqrt(lam * d) * norms

    def soft_count(z: float) -> float:
        return sum(min(max(cj * z - lam * dj, 0.0), 1.0) for cj, dj in zip(c, d, strict=True))

    low, high = 0.0, max((1 + lam * dj) / cj for cj, dj in zip(c, d, strict=True) if cj > 0)
    for _ in range(200):
        middle = (low + high) / 2
        if soft_count(middle) >= k:
            high = middle
        else:
            low = middle
    out = np.zeros(len(norms))
    for j, n in enumerate(norms):
        if n > 0:
            out[j] = max(0.0, min(1 / (1 + lam * d[j]), 1 - math.sqrt(lam * d[j]) / high / n))
    return out


def envelope_prox_by_search(norms: Array, k: float, lam: float, d: Array) -> Array:
    """The same for three groups, by a grid over the factors that is refined."""
    low, high = np.zeros(3), np.ones(3)
    best = low
    for _ in range(9):
        axes = [np.linspace(a, b, 9) for a, b in zip(low, high, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        values = [
            lam * envelope(p * norms, k, d) + 0.5 * float((((p - 1) * norms) ** 2).sum())
            for p in points
        ]
        best = points[int(np.argmin(values))]
        step = (high - low) / 8
        low, high = np.maximum(best - 1.5 * step, 0.0), np.minimum(best + 1.5 * step, 1.0)
    return best


def gg_shape(values: Array) -> float:
    """Shape of the generalised Gaussian with these moments, by bisection on log-gamma."""
    n, total, square = len(values), float(np.abs(values).sum()), float((values**2).sum())
    wanted, low, high = math.log(n * square / total**2), 0.1, 3.0
    for _ in range(100):
        nu = (low + high) / 2
        ratio = math.lgamma(1 / nu) + math.lgamma(3 / nu) - 2 * math.lgamma(2 / nu)
        low, high = (nu, high) if ratio > wanted else (low, nu)
    return low


def backslash(w: Array, step: float, nu: float, eps: float, proximal: bool) -> Array:
    out = w.copy()
    for i, value in enumerate(w):
        taken = step * nu * (abs(value) + eps) ** (nu - 1)
        moved = abs(value) - taken
        out[i] = np.sign(value) * (max(moved, 0.0) if proximal else moved)
    return out


def exp_golomb_length(n: int, k: int) -> int:
    """The code itself: ``n + 2^k`` in binary, behind as many zeros as it has digits past k + 1."""
    digits = bin(n + 2**k)[2:]
    return len(digits) + len(digits) - 1 - k


def coding_rate(weights: Array, frac_bits: int, k: int) -> tuple[float, float]:
    """Mean bits, and the entropy."""
    levels = [round(float(w) * 2**frac_bits) for w in weights]
    folded = [2 * q - 1 if q > 0 else -2 * q for q in levels]
    counts = {q: folded.count(q) for q in set(folded)}
    entropy = -sum(c / len(folded) * math.log2(c / len(folded)) for c in counts.values())
    return sum(exp_golomb_length(q, k) for q in folded) / len(folded), entropy


def repulsion(w: Array, anchors: list[Array], form: str, scale: float) -> float:
    total = 0.0
    for anchor in anchors:
        total += sum((a - b) ** 2 for a, b in zip(w, anchor, strict=True)) / len(anchors)
    u = total / scale
    return {"exp": math.exp(-u), "inverse": 1 / u, "negative": -u}[form]


def repulsion_gradient(w: Array, anchor: Array, form: str) -> Array:
    """The printed gradients for one anchor, without scale."""
    d = float(((w - anchor) ** 2).sum())
    factor = {"inverse": -2 / d**2, "negative": -2.0, "exp": -2 * math.exp(-d)}[form]
    return factor * (w - anchor)


def energy_threshold(gamma: Array, share: float) -> float:
    """Line by line: the squares in rising order, until their sum is more than the share."""
    size = sorted(abs(float(g)) for g in gamma)
    if size[-1] < 1e-3:
        return 1.0
    total, so_far = sum(s * s for s in size), 0.0
    for i, s in enumerate(size):
        so_far += s * s
        if so_far > share * total:
            return 0.0 if i == 0 else (s + size[i - 1]) / 2
    return 0.0


def voted(masks: list[list[bool]]) -> list[bool]:
    votes = [sum(column) for column in zip(*masks, strict=True)]
    fewest = min(sum(mask) for mask in masks)
    for needed in range(len(masks), 0, -1):
        if sum(v >= needed for v in votes) >= fewest:
            return [v >= needed for v in votes]
    return [False] * len(votes)


def compand(v: float, a: float, b: float, form: str) -> float:
    if form == "arctan":
        return a * math.atan(v / b)
    if form == "tanh":
        return a * math.tanh(v / b)
    return a * math.copysign(1, v) * math.log(1 + 255 * abs(v) / b) / math.log(256)


def arctan_slopes(v: float, a: float, b: float) -> tuple[float, float, float]:
    """Printed derivatives of the arctangent form in v, a, b."""
    bend = 1 + (v / b) ** 2
    return a / b / bend, math.atan(v / b), -a * v / b**2 / bend
