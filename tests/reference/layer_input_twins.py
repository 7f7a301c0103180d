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


def stochastic_norm(
    x: Array, running_mean: Array, running_var: Array, use_batch: list[bool], weight: Array,
    bias: Array, eps: float,
) -> Array:  # fmt: skip
    """Channel by channel of ``[N, C, L]``: z0 by the running moments, z1 by the batch's."""
    out = np.zeros_like(x)
    for c in range(x.shape[1]):
        values = x[:, c]
        z0 = (values - running_mean[c]) / math.sqrt(running_var[c] + eps)
        mean = values.mean()
        variance = ((values - mean) ** 2).mean()
        z1 = (values - mean) / math.sqrt(variance + eps)
        s = 1.0 if use_batch[c] else 0.0
        out[:, c] = ((1 - s) * z0 + s * z1) * weight[c] + bias[c]
    return out


def torchvision_magnitude(strength: float) -> int:
    """Of 31 bins, 0 to 30."""
    return round(strength * 30)


def timm_magnitude(strength: float) -> float:
    """On the scale 0 to 10."""
    return strength * 10.0


def fgsm_rs(x, eta, gradient, epsilon: float, init: str, bounds) -> Array:
    """One step from a random start; pixels are the inputs themselves."""

    def cut(values: Array) -> Array:
        return values if bounds is None else np.minimum(np.maximum(values, bounds[0]), bounds[1])

    begun = cut(x + eta)
    slopes = gradient(begun)
    step = 1.25 * epsilon if init == "rs" else epsilon
    out = np.zeros_like(x)
    for at in np.ndindex(*x.shape):
        delta = (begun[at] - x[at]) + step * np.sign(slopes[at])
        if init == "rs":
            delta = min(max(delta, -epsilon), epsilon)
        out[at] = x[at] + delta
    return cut(out)


def abnormal_penalty(
    logits_start: Array, losses_start: Array, logits_adv: Array, losses_adv: Array,
    ce_weight: float, output_weight: float, reduction: str,
) -> tuple[float, float]:  # fmt: skip
    """The penalty and the share of abnormal samples, step by step."""
    abnormal, normal = [], []
    for i in range(len(losses_start)):
        (abnormal if losses_start[i] > losses_adv[i] else normal).append(i)
    share = len(abnormal) / len(losses_start)
    if not abnormal or not normal:
        return 0.0, share

    def variation(rows: list[int]) -> float:
        total = 0.0
        for i in rows:
            squares = [(a - b) ** 2 for a, b in zip(logits_adv[i], logits_start[i], strict=True)]
            total += sum(squares) / (1 if reduction == "sum" else len(squares))
        return total / len(rows)

    v_ce = sum(losses_start[i] - losses_adv[i] for i in abnormal) / len(abnormal)
    gap = max(variation(abnormal) - variation(normal), 0.0)
    return share * (ce_weight * v_ce + output_weight * gap), share
