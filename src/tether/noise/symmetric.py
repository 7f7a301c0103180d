"""Noise that treats all classes alike: symmetric, and one fixed distribution for everybody."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tether.noise.base import (
    LabelLike,
    NoisyLabels,
    as_cpu_tensor,
    as_labels_and_classes,
    as_rows,
    categorical,
    check_rate,
    make_generator,
    noisy_labels,
    pick,
    require_classes,
    uniform,
)


def symmetric_noise(
    labels: LabelLike,
    rate: float,
    *,
    num_classes: int | None = None,
    include_true: bool = False,
    exact: bool = True,
    stratified: bool = False,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> NoisyLabels:
    """Replaces a share of the labels by uniformly drawn ones.

    The mildest noise: errors carry no information, and most methods survive a rate of 0.4 or
    more. It pours samples of large classes into small ones when classes are unbalanced.

    With ``include_true=False`` a picked sample gets a class other than its own,
    ``T = (1 - r) I + r / (K - 1) (1 1^T - I)``, and the realised rate is r. With
    ``include_true=True`` it may get its own class back, ``T = (1 - r) I + (r / K) 1 1^T``, and
    the realised rate is about ``r (K - 1) / K``: 0.36 for r = 0.4 and ten classes. Published
    results use either; an inclusive rate r equals an exclusive one of ``r (K - 1) / K``.

    Args:
        labels: true class indices; never modified.
        rate: share of samples picked, in [0, 1]. Usual: 0.2, 0.4, 0.6, 0.8.
        num_classes: K; by default the largest label plus one.
        include_true: let the new label be the true one.
        exact: pick exactly ``floor(r n)`` samples. False picks each with probability r.
        stratified: with ``exact``, spread that number over the classes in proportion to their
            size (largest remainder). Use it with many classes of few samples.
        generator: a CPU generator to draw from; replaces ``seed``.
        seed: seed of a generator of its own.

    Shape:
        ``labels``: n class indices; the result's ``labels`` alike, ``transition`` K x K.

    Cost:
        O(n log n), once.

    Raises:
        ValueError: rate outside [0, 1], labels that are not class indices below ``num_classes``,
            fewer than two classes, ``stratified`` without ``exact``.

    References:
        Dongyue Li, Hongyang R. Zhang, "Improved Regularization and Robustness for Fine-tuning in
        Neural Networks", 2021, arXiv:2111.04578 (inclusive).
        Sheng Liu, Jonathan Niles-Weed, Narges Razavian, Carlos Fernandez-Granda, "Early-Learning
        Regularization Prevents Memorization of Noisy Labels", 2020, arXiv:2007.00151 (inclusive).
        Jiaheng Wei, Zhaowei Zhu, Hao Cheng, Tongliang Liu, Gang Niu, Yang Liu, "Learning with
        Noisy Labels Revisited", 2022, arXiv:2110.12088 (exclusive).

    Example:
        >>> noisy = symmetric_noise([0, 1, 2, 3, 4] * 20, 0.4)
        >>> noisy.rate, int(noisy.mask.sum())
        (0.4, 40)
    """
    rate = check_rate(rate)
    true, k = as_labels_and_classes(labels, num_classes)
    require_classes(k, "symmetric noise")
    rng, seed_used = make_generator(generator, seed)
    picked = pick(true, rate, exact=exact, stratified=stratified, generator=rng)
    draws = uniform(len(true), generator=rng)
    if include_true:
        new = (draws * k).long().clamp_max(k - 1)
    else:
        new = (true + 1 + (draws * (k - 1)).long().clamp_max(k - 2)) % k
    name = "symmetric_inclusive" if include_true else "symmetric"
    return noisy_labels(true, torch.where(picked, new, true), k, name, seed_used)


def class_agnostic_noise(
    labels: LabelLike,
    rate: float,
    *,
    num_classes: int | None = None,
    distribution: Tensor | Sequence[float] | None = None,
    exact: bool = True,
    stratified: bool = False,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> NoisyLabels:
    """Replaces a share of the labels by draws from one distribution, the same for every class.

    Like inclusive symmetric noise, but some classes attract more errors than others. By default
    the distribution is ``q = softmax(u)`` with u uniform on [0, 1]^K, which is nearly flat: the
    largest entry is at most e times the smallest. Pass ``distribution`` for a stronger pull.

    ``T = (1 - r) I + r 1 q^T``; realised rate about ``r (1 - sum_i p_i q_i)`` with p the class
    shares.

    Args:
        labels: true class indices; never modified.
        rate: share of samples picked, in [0, 1]; a picked sample may keep its class.
        num_classes: K; by default the largest label plus one.
        distribution: K probabilities q; None draws them as above.
        exact: pick exactly ``floor(r n)`` samples. False picks each with probability r.
        stratified: with ``exact``, spread that number over the classes by their size.
        generator: a CPU generator to draw from; replaces ``seed``.
        seed: seed of a generator of its own.

    Shape:
        ``labels``: n class indices; the result's ``labels`` alike, ``transition`` K x K.

    Cost:
        O(n log n), once.

    Raises:
        ValueError: rate outside [0, 1], labels that are not class indices below ``num_classes``,
            fewer than two classes, a distribution that does not sum to one.

    References:
        Dongyue Li, Hongyang R. Zhang, "Improved Regularization and Robustness for Fine-tuning in
        Neural Networks", 2021, arXiv:2111.04578 (its released code calls this "nonuniform").

    Example:
        >>> noisy = class_agnostic_noise([0, 1, 2] * 40, 0.5, distribution=[0.0, 0.0, 1.0])
        >>> noisy.transition[2].tolist(), bool((noisy.labels[noisy.mask] == 2).all())
        ([0.0, 0.0, 1.0], True)
    """
    rate = check_rate(rate)
    true, k = as_labels_and_classes(labels, num_classes)
    require_classes(k, "class-agnostic noise")
    rng, seed_used = make_generator(generator, seed)
    if distribution is None:
        row = torch.softmax(uniform(1, k, generator=rng), dim=1)
    else:
        given = as_cpu_tensor(distribution, "distribution")
        row = as_rows(given.reshape(1, -1), name="distribution", shape=(1, k))
    picked = pick(true, rate, exact=exact, stratified=stratified, generator=rng)
    new = categorical(row, torch.zeros_like(true), uniform(len(true), generator=rng))
    return noisy_labels(true, torch.where(picked, new, true), k, "class_agnostic", seed_used)
