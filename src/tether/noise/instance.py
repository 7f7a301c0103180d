"""Instance-dependent noise: how often and into what a label flips depends on the input."""

from __future__ import annotations

from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor

from tether.noise.base import (
    LabelLike,
    NoisyLabels,
    as_cpu_tensor,
    as_labels_and_classes,
    categorical,
    check_rate,
    make_generator,
    noisy_labels,
    normal,
    require_classes,
    uniform,
)

_ROWS = 4096  # inputs converted to float64 at once


def instance_noise(
    labels: LabelLike,
    inputs: Tensor | npt.NDArray[Any],
    rate: float,
    *,
    num_classes: int | None = None,
    std: float = 0.1,
    shared: bool = False,
    scale: float | Literal["standardise"] | None = None,
    generator: torch.Generator | None = None,
    seed: int = 0,
) -> NoisyLabels:
    """Flips each label at a rate of its own, into a class that a random projection of x prefers.

    Closer to real mistakes than class-conditional noise, and harder: neither a matrix nor a rate
    describes it. Pass pretrained features as ``inputs`` (with ``scale="standardise"``) for
    errors that follow meaning instead of pixels.

    1. ``q_i`` from a normal of mean r and standard deviation ``std``, truncated to [0, 1].
    2. ``W_c``, S x K standard normal, one for each true class (``shared``: one for all).
    3. With probability ``q_i`` the label becomes a draw from ``softmax(x_i W_{y_i})`` over the
       classes other than ``y_i``.

    The size of the inputs decides how sharp step 3 is, since S terms are summed: with raw pixels
    the wrong class is nearly certain, so that noise behaves like pair noise within a region of
    inputs; ``"standardise"`` gives a soft distribution for any S.

    Args:
        labels: true class indices; never modified.
        inputs: one input a sample, of any shape (flattened). Bytes (uint8) are divided by 255.
        rate: mean flip rate, in [0, 1]. Usual: 0.2, 0.4. Truncation moves the mean inwards near
            0 and 1 (0.2 becomes 0.205); a rate of exactly 0 changes nothing.
        num_classes: K; by default the largest label plus one.
        std: standard deviation of the flip rates over samples; 0 makes them all r. Paper: 0.1.
        shared: one projection for all classes, the variant of the CIFAR-N utilities.
        scale: a factor on the inputs; or ``"standardise"``: zero mean and unit variance in every
            dimension, divided by ``sqrt(S)``; None leaves them as they are.
        generator: a CPU generator to draw from; replaces ``seed``.
        seed: seed of a generator of its own.

    Shape:
        ``labels``: n class indices; ``inputs``: n x anything, S numbers each; the result's
        ``labels`` n, ``transition`` K x K.

    Cost:
        O(n S K) once; S K numbers at a time, as the projections are made class by class.

    Raises:
        ValueError: rate outside [0, 1], negative ``std``, labels that are not class indices below
            ``num_classes``, another number of inputs than labels, inputs that are not finite,
            fewer than two classes.

    References:
        Xiaobo Xia, Tongliang Liu, Bo Han, Nannan Wang, Mingming Gong, Haifeng Liu, Gang Niu,
        Dacheng Tao, Masashi Sugiyama, "Part-dependent Label Noise: Towards Instance-dependent
        Label Noise", 2020, arXiv:2006.07836.

    Example:
        >>> x = torch.linspace(0, 1, 600).reshape(200, 3)
        >>> noisy = instance_noise([0, 1, 2, 3] * 50, x, 0.4)
        >>> 0.3 < noisy.rate < 0.5
        True
    """
    rate = check_rate(rate)
    if not 0.0 <= std < float("inf"):
        raise ValueError(f"std must be a number from 0 on, not {std:g}")
    true, k = as_labels_and_classes(labels, num_classes)
    require_classes(k, "instance noise")
    x = _as_inputs(inputs, len(true))
    rng, seed_used = make_generator(generator, seed)
    flip = uniform(len(true), generator=rng) < _flip_rates(rate, std, len(true), rng)
    target_draw = uniform(len(true), generator=rng)
    shift, factor = _scaling(x, scale)
    given = true.clone()
    weight = normal(x.shape[1], k, generator=rng) if shared else None
    for c in range(k):
        # drawn for every class, present or not: W_c depends on nothing but the seed, S and K
        projection = normal(x.shape[1], k, generator=rng) if weight is None else weight
        for rows in torch.split((flip & (true == c)).nonzero()[:, 0], _ROWS):
            scores = ((x[rows].double() - shift) * factor) @ projection
            if not bool(torch.isfinite(scores).all()):
                raise ValueError("inputs hold values that are not finite")
            scores[:, c] = -torch.inf
            probs = torch.softmax(scores, dim=1)
            given[rows] = categorical(probs, torch.arange(len(rows)), target_draw[rows])
    return noisy_labels(true, given, k, "instance_shared" if shared else "instance", seed_used)


def _as_inputs(inputs: Tensor | npt.NDArray[Any], n: int) -> Tensor:
    x = as_cpu_tensor(inputs, "inputs")
    if x.ndim < 1 or len(x) != n or x.numel() == 0:
        raise ValueError(f"inputs must hold one input for each of {n} labels, not {tuple(x.shape)}")
    return x.reshape(n, -1)


def _flip_rates(rate: float, std: float, n: int, rng: torch.Generator) -> Tensor:
    """Flip rates of the samples: a normal truncated to [0, 1], by its inverse distribution."""
    draws = uniform(n, generator=rng)
    if std == 0.0 or rate == 0.0:
        return torch.full_like(draws, rate)
    low, high = torch.special.ndtr(
        torch.tensor([(0.0 - rate) / std, (1.0 - rate) / std], dtype=torch.float64)
    )
    normals: Tensor = torch.special.ndtri(low + draws * (high - low))
    return (rate + std * normals).clamp(0.0, 1.0)


def _scaling(x: Tensor, scale: float | str | None) -> tuple[Tensor, Tensor]:
    """What to subtract from the inputs, and what to multiply them with."""
    none = torch.zeros((), dtype=torch.float64)
    if scale is None:
        return none, torch.tensor(1 / 255 if x.dtype == torch.uint8 else 1.0, dtype=torch.float64)
    if not isinstance(scale, str):
        return none, torch.tensor(float(scale), dtype=torch.float64)
    if scale != "standardise":
        raise ValueError(f"scale must be a number, 'standardise' or None, not {scale!r}")
    n = len(x)
    parts = torch.split(x, _ROWS)
    mean = torch.stack([p.double().sum(0) for p in parts]).sum(0) / n
    var = torch.stack([(p.double() - mean).square().sum(0) for p in parts]).sum(0) / n
    # a constant dimension says nothing about a sample: it is dropped
    inverse = torch.where(var > 0, var.rsqrt(), torch.zeros_like(var))
    return mean, inverse / x.shape[1] ** 0.5
