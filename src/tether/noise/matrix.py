"""Noise from a given transition matrix."""

from __future__ import annotations

import torch

from tether.noise.base import (
    ArrayLike,
    LabelLike,
    NoisyLabels,
    as_cpu_tensor,
    as_labels,
    as_rows,
    categorical,
    make_generator,
    noisy_labels,
    random_order,
    uniform,
    whole_counts,
)


def matrix_noise(
    labels: LabelLike,
    transition: ArrayLike,
    *,
    exact: bool = False,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> NoisyLabels:
    """Draws every label from the row of a transition matrix that belongs to its class.

    Any class-conditional noise, for instance the twin of human noise: the same matrix, but errors
    that no longer depend on the sample, which separates the two effects.

    ``P(given = j | true = i) = T[i, j]``. With ``exact=True`` every class i of n_i samples gets
    counts ``n_i T[i, j]`` rounded by largest remainder, so that each realised entry is within
    ``1 / n_i`` of the one asked for, and small classes keep their noise (rounding down each
    count would lose it).

    Args:
        labels: true class indices; never modified.
        transition: K x K, rows sum to one. Some libraries use the transpose.
        exact: fixed counts instead of independent draws. Default False, the usual protocol.
        generator: a CPU generator to draw from; replaces ``seed``.
        seed: seed of a generator of its own.

    Shape:
        ``labels``: n class indices; the result's ``labels`` alike, ``transition`` K x K.

    Cost:
        O(n log K) drawn, O(n log n) exact, once.

    Raises:
        ValueError: labels that are not class indices below K, a matrix that is not K x K, has
            negative entries, or rows that do not sum to one.

    References:
        Jiaheng Wei, Zhaowei Zhu, Hao Cheng, Tongliang Liu, Gang Niu, Yang Liu, "Learning with
        Noisy Labels Revisited", 2022, arXiv:2110.12088.

    Example:
        >>> noisy = matrix_noise([0, 1] * 10, [[0.7, 0.3], [0.0, 1.0]], exact=True)
        >>> noisy.transition.tolist()
        [[0.7, 0.3], [0.0, 1.0]]
    """
    table = as_cpu_tensor(transition, "transition")
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"transition must be a square matrix, not shape {tuple(table.shape)}")
    k = int(table.shape[0])
    true = as_labels(labels, num_classes=k)
    rows = as_rows(table, name="transition", shape=(k, k))
    rng, seed_used = make_generator(generator, seed)
    if exact:
        sizes = torch.bincount(true, minlength=k)
        counts = whole_counts(sizes.to(torch.float64)[:, None] * rows)
        given = torch.empty_like(true)
        columns = torch.arange(k).repeat(k)
        given[random_order(true, rng)] = columns.repeat_interleave(counts.flatten())
    else:
        given = categorical(rows, true, uniform(len(true), generator=rng))
    return noisy_labels(true, given, k, "matrix_exact" if exact else "matrix", seed_used)
