"""Slow NumPy twins of the formulas that mix or mask inputs."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray


def softmax(row: Array) -> Array:
    shifted = np.exp(row - row.max())
    return shifted / shifted.sum()


def mixed(values: Array, partner: list[int], lam: Array) -> Array:
    out = np.zeros_like(values)
    for i in range(len(values)):
        out[i] = lam[i] * values[i] + (1 - lam[i]) * values[partner[i]]
    return out


def mixed_cross_entropy(logits: Array, a: list[int], b: list[int], lam: Array) -> float:
    total = 0.0
    for i, z in enumerate(logits):
        p = softmax(z)
        total -= lam[i] * math.log(p[a[i]]) + (1 - lam[i]) * math.log(p[b[i]])
    return total / len(logits)


def box(height: int, width: int, lam: float, centre: tuple[int, int]) -> tuple[Array, float]:
    """The pixels of a CutMix box, and the share outside it."""
    ratio = math.sqrt(1 - lam)
    half_h, half_w = int(height * ratio) // 2, int(width * ratio) // 2
    inside = np.zeros((height, width), dtype=bool)
    for y in range(max(0, centre[0] - half_h), min(height, centre[0] + half_h)):
        for x in range(max(0, centre[1] - half_w), min(width, centre[1] + half_w)):
            inside[y, x] = True
    return inside, 1 - inside.sum() / (height * width)


def rescaled(share: float, xi: float, threshold: float) -> float:
    return (share / threshold) ** xi if share < threshold else 1.0


def phi(z: Array, a: int, b: int) -> float:
    """Probability of a among all classes but b."""
    return math.exp(z[a]) / sum(math.exp(z[c]) for c in range(len(z)) if c != b)


def decoupled_mixup(
    logits: Array, a: list[int], b: list[int], lam: Array, weight: float, xi: float,
    threshold: float, mode: str,
) -> float:  # fmt: skip
    total = 0.0
    for i, z in enumerate(logits):
        p = softmax(z)
        total -= lam[i] * math.log(p[a[i]]) + (1 - lam[i]) * math.log(p[b[i]])
        if a[i] == b[i]:
            continue
        for own, other, share in ((a[i], b[i], lam[i]), (b[i], a[i], 1 - lam[i])):
            if (mode == "less" and share >= 0.5) or (mode == "more" and share <= 0.5):
                continue
            total -= weight * rescaled(share, xi, threshold) * math.log(phi(z, own, other))
    return total / len(logits)


def rescaled_binary(
    targets: Array, partner: list[int], lam: Array, xi: float, threshold: float
) -> Array:
    out = np.zeros_like(targets)
    for i in range(len(targets)):
        own, other = rescaled(lam[i], xi, threshold), rescaled(1 - lam[i], xi, threshold)
        for k in range(targets.shape[1]):
            out[i, k] = min(1.0, own * targets[i, k] + other * targets[partner[i], k])
    return out


def interval(logits: Array) -> tuple[float, float]:
    """Lower and upper end of a policy's interval."""
    a, b, _ = softmax(logits)
    return a, a + b


def intrusion(logits: Array, is_real: list[int]) -> float:
    return sum(-math.log(softmax(z)[r]) for z, r in zip(logits, is_real, strict=True)) / len(logits)


def beta_log_density(x: float, alpha: float, beta: float) -> float:
    norm = math.lgamma(alpha + beta) - math.lgamma(alpha) - math.lgamma(beta)
    return (alpha - 1) * math.log(x) + (beta - 1) * math.log(1 - x) + norm


def blurred(image: Array, kernel: int, sigma: float) -> Array:
    """Every pixel the weighted mean of its neighbours; beyond the edge stands its nearest pixel."""
    half, (height, width) = kernel // 2, image.shape
    curve = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-half, half + 1)]
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for i, wy in enumerate(curve):
                for j, wx in enumerate(curve):
                    row = min(max(y + i - half, 0), height - 1)
                    column = min(max(x + j - half, 0), width - 1)
                    out[y, x] += wy * wx * image[row, column] / sum(curve) ** 2
    return out


def reinforce(losses: Array, baseline: float, log_prob: Array) -> float:
    total = 0.0
    for loss, cells in zip(losses, log_prob, strict=True):
        total += (loss - baseline) * sum(cells) / len(cells)
    return total / len(losses)


def official(loss: float, log_prob: Array) -> float:
    scores = [math.log(sum(math.exp(v) for v in cells)) for cells in log_prob]
    return sum(score * loss for score in scores) / len(scores)
