"""Correlated noise: the mistakes of another network become the labels."""

from __future__ import annotations

import torch
from torch import Tensor

from tether.noise.base import (
    ArrayLike,
    LabelLike,
    NoisyLabels,
    as_cpu_tensor,
    as_labels,
    as_rows,
    categorical,
    check_rate,
    floor_share,
    make_generator,
    noisy_labels,
    require_classes,
    uniform,
)


def auxiliary_noise(
    labels: LabelLike,
    probs: ArrayLike,
    rate: float | None = None,
    *,
    sample: bool = False,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> NoisyLabels:
    """Labels samples by another network's predictions, so that errors depend on the input.

    Much harder than symmetric noise of the same rate: errors sit where classes look alike, and a
    student of the same architecture finds them natural. Take the probabilities of a weak network
    (an early checkpoint, a small model) in evaluation mode under a fixed transform, on samples
    it was not trained on: by cross-prediction over 2 to 5 folds, or from a disjoint part.

    - ``rate=None``: every label is the network's top class; its error rate is the noise rate.
    - a rate r, ``sample=False``: samples are ranked by the probability of their likeliest wrong
      class, and the top ``floor(r n)`` get it. Exact, nothing random.
    - a rate r, ``sample=True``: labels are drawn from ``softmax(log p / tau)``, where bisection
      finds the tau at which the expected share of wrong labels is r.

    Args:
        labels: true class indices; never modified.
        probs: the network's class probabilities, one row a sample.
        rate: share of wrong labels, in [0, 1]; None takes the predictions as they are.
        sample: draw labels at a temperature instead of ranking.
        generator: a CPU generator for ``sample``; replaces ``seed``.
        seed: seed of a generator of its own.

    Shape:
        ``labels``: n class indices; ``probs``: n x K; the result's ``labels`` n,
        ``transition`` K x K.

    Cost:
        O(n K), once (``sample``: times about 60 for the bisection).

    Raises:
        ValueError: rate outside [0, 1], labels that are not class indices below K, probabilities
            of another shape or whose rows do not sum to one, fewer than two classes, ``sample``
            without a rate, or a rate that no temperature reaches.

    References:
        Dongyue Li, Hongyang R. Zhang, "Improved Regularization and Robustness for Fine-tuning in
        Neural Networks", 2021, arXiv:2111.04578. There all labels come from an early checkpoint
        that has seen the samples; the target rates are ours.

    Example:
        >>> probs = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]]
        >>> auxiliary_noise([0, 0, 1, 1], probs).labels.tolist()
        [0, 1, 0, 0]
        >>> auxiliary_noise([0, 0, 1, 1], probs, 0.5).labels.tolist()
        [0, 1, 1, 0]
    """
    values = as_cpu_tensor(probs, "probs")
    if values.ndim != 2:
        raise ValueError(f"probs must have one row a sample, not shape {tuple(values.shape)}")
    k = int(values.shape[1])
    require_classes(k, "auxiliary noise")
    true = as_labels(labels, num_classes=k)
    rows = as_rows(values, name="probs", shape=(len(true), k))
    if rate is None:
        if sample:
            raise ValueError("sample=True needs a rate: without one the top class is taken")
        return noisy_labels(true, rows.argmax(1), k, "auxiliary", None)
    rate = check_rate(rate)
    if sample:
        rng, seed_used = make_generator(generator, seed)
        tempered = _at_rate(rows, true, rate)
        given = categorical(tempered, torch.arange(len(true)), uniform(len(true), generator=rng))
        return noisy_labels(true, given, k, "auxiliary_sampled", seed_used)
    wrong = rows.scatter(1, true[:, None], -1.0)
    strength, second = wrong.max(1)
    order = torch.argsort(strength, descending=True, stable=True)
    top = order[: floor_share(rate, float(len(true)))]
    given = true.clone()
    given[top] = second[top]
    return noisy_labels(true, given, k, "auxiliary_ranked", None)


def _at_rate(rows: Tensor, true: Tensor, rate: float) -> Tensor:
    """The rows at the temperature whose expected share of wrong labels is the rate."""
    logits = rows.clamp_min(torch.finfo(rows.dtype).tiny).log()

    def tempered(log_tau: float) -> Tensor:
        return torch.softmax(logits * (-torch.tensor(log_tau, dtype=rows.dtype)).exp(), dim=1)

    def wrong(log_tau: float) -> float:
        return float(1.0 - tempered(log_tau).gather(1, true[:, None]).mean())

    low, high = -12.0, 12.0
    if not wrong(low) - 1e-4 <= rate <= wrong(high) + 1e-4:
        raise ValueError(
            f"no temperature gives a rate of {rate:g}: these probs reach {wrong(low):.3f} (the "
            f"error of the top class) to {wrong(high):.3f}; use sample=False for other rates"
        )
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if wrong(middle) < rate else (low, middle)
    return tempered(high)
