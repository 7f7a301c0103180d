"""Noise for multi-label data: every label of every sample flips on its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from tether.noise.base import (
    NoisyLabels,
    as_cpu_tensor,
    check_rate,
    choose,
    make_generator,
    uniform,
    whole_counts,
)

RateLike = float | Sequence[float] | Tensor


def multilabel_noise(
    labels: Tensor | npt.NDArray[Any] | Sequence[Sequence[int]],
    rate_positive: RateLike,
    rate_negative: RateLike,
    *,
    exact: bool = True,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> NoisyLabels:
    """Drops a share of the positive labels and adds a share of false ones.

    Positives and negatives need rates of their own: where one label in twenty is positive, a
    common rate of 0.2 would leave four false positives for each true one.

    ``P(0 | 1) = r_positive``, ``P(1 | 0) = r_negative``, independent over samples and labels.

    Args:
        labels: 0 or 1 for each sample and label; never modified.
        rate_positive: share of the ones that become zero, in [0, 1]; one number, or one a label.
        rate_negative: share of the zeros that become one, in [0, 1]; one number, or one a label.
        exact: fixed numbers of flips for each label, rounded so that their total over all labels
            is the floor of the sum. False flips each entry with its probability.
        generator: a CPU generator to draw from; replaces ``seed``.
        seed: seed of a generator of its own.

    Shape:
        ``labels``: n x L, any dtype that holds 0 and 1 (kept); the result's ``labels`` and
        ``mask`` alike, ``transition`` L x 2 x 2 (row: true value, column: given value).

    Cost:
        O(n L log(n L)), once.

    Raises:
        ValueError: entries other than 0 and 1, another number of dimensions than two, rates
            outside [0, 1] or not one a label.

    Example:
        >>> noisy = multilabel_noise([[1, 0], [1, 0], [1, 1], [1, 1]], 0.5, 0.0)
        >>> noisy.labels.sum(0).tolist(), noisy.transition[0].tolist()
        ([2, 1], [[1.0, 0.0], [0.5, 0.5]])
    """
    true = as_cpu_tensor(labels, "labels").clone()
    if true.ndim != 2 or true.numel() == 0:
        raise ValueError(f"labels must have shape samples x labels, not {tuple(true.shape)}")
    on = true == 1
    if not bool((on | (true == 0)).all()):
        raise ValueError("multi-label labels must all be 0 or 1")
    num_labels = int(true.shape[1])
    rates = torch.stack(
        [
            _as_rates(rate_negative, num_labels, "rate_negative"),
            _as_rates(rate_positive, num_labels, "rate_positive"),
        ]
    )
    rng, seed_used = make_generator(generator, seed)
    columns = torch.arange(num_labels).expand_as(on)
    # cells: value times number of labels plus label; one rate and one exact count for each
    cells = (on * num_labels + columns).flatten()
    sizes = torch.bincount(cells, minlength=2 * num_labels)
    if exact:
        quotas = sizes.view(2, num_labels).double() * rates
        mask = choose(cells, torch.cat([whole_counts(q) for q in quotas]), rng)
    else:
        mask = uniform(len(cells), generator=rng) < rates.flatten()[cells]
    flipped = torch.bincount(cells[mask], minlength=2 * num_labels)
    share = (flipped / sizes.clamp_min(1).double()).view(2, num_labels)
    transition = torch.stack(
        [
            torch.stack([1 - share[0], share[0]], dim=1),
            torch.stack([share[1], 1 - share[1]], dim=1),
        ],
        dim=1,
    )
    mask = mask.view_as(on)
    given = (on ^ mask).to(true.dtype)
    rate = int(mask.sum()) / mask.numel()
    return NoisyLabels(given, true, mask, transition, rate, "multilabel", seed_used)


def _as_rates(rate: RateLike, num_labels: int, name: str) -> Tensor:
    values = as_cpu_tensor(rate, name).to(torch.float64).flatten()
    if len(values) not in (1, num_labels):
        raise ValueError(f"{name} must be one number or {num_labels} of them, not {len(values)}")
    for value in values.tolist():
        check_rate(value, name)
    return values.expand(num_labels)
