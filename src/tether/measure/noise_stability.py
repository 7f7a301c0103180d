"""How much the loss grows when noise is added to the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor, nn

from tether.errors import ConfigError
from tether.losses import LossLike
from tether.measure.batches import Batches
from tether.measure.evaluation import Evaluation
from tether.measure.intervals import Floats, check_level, means
from tether.measure.results import Record
from tether.measure.weights import (
    Layers,
    Perturbation,
    chosen_weights,
    depth_parts,
    reference_weights,
    root_mean_squares,
    undisturbed,
)

SIGMAS = (1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True, eq=False)
class NoiseCurve(Record):
    """Noise stability against the size of the noise.

    Attributes:
        perturbed: mean loss under noise, ``[S]``, one for each sigma.
        increase: its mean increase S(sigma) over the loss without noise, ``[S]``.
        standard_error: of the increase over draws, ``[S]``; NaN for a single draw.
        low: lower ends of the t intervals of the increase, ``[S]``.
        high: upper ends.
        draws: the increase of every draw, ``[S, R]``.
    """

    perturbed: Floats
    increase: Floats
    standard_error: Floats
    low: Floats
    high: Floats
    draws: Floats


@dataclass(frozen=True, eq=False)
class NoiseStability(Record):
    """What :func:`noise_stability` returns.

    Attributes:
        sigmas: sizes of the noise, ``[S]``.
        loss: mean loss without noise.
        curve: with noise on all chosen tensors at once.
        profile: the same with noise on one tensor (or depth group) at a time, in the order of the
            model; empty unless asked for.
        tensors: names of the tensors that get noise.
        own_scale: those among them whose relative noise is scaled by their own size, because
            their reference is zero.
        samples: how many samples count.
        relative: whether sigma is a share of each tensor's root mean square.
        antithetic: whether a draw is the mean over +U and -U.
        seed: of the draws.
        level: coverage of the intervals.
    """

    sigmas: tuple[float, ...]
    loss: float
    curve: NoiseCurve
    profile: dict[str, NoiseCurve]
    tensors: tuple[str, ...]
    own_scale: tuple[str, ...]
    samples: int
    relative: bool
    antithetic: bool
    seed: int
    level: float


def noise_stability(
    model: nn.Module,
    data: Batches,
    *,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 20,
    relative: bool = False,
    reference: Mapping[str, Tensor] | None = None,
    layers: Layers = None,
    per_layer: bool | Literal["group"] = False,
    antithetic: bool = True,
    loss: LossLike = "cross_entropy",
    head: str | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    level: float = 0.95,
) -> NoiseStability:
    """Mean increase of the loss when Gaussian noise is added to the weights.

    A flat solution bears more noise. Where the curve has slope 2 in a log-log plot the loss is
    quadratic around the solution; the knee marks the largest noise it bears, which also tells how
    coarsely the weights may be rounded. Absolute sigmas are not comparable between architectures,
    nor for layers before batch norm, whose scale is arbitrary: use ``relative`` there. For
    networks with rectifiers this is a better number of flatness than the Hessian's trace, which
    does not see their kinks.

    ``S(sigma) = mean_r [L(W + sigma U_r) - L(W)]`` with ``U_r ~ N(0, I)`` on the chosen tensors
    and L the mean over samples, in evaluation mode. ``antithetic`` takes
    ``(L(W + sigma U_r) + L(W - sigma U_r)) / 2`` for ``L(W + sigma U_r)``: the first-order term
    cancels, and the variance is far smaller. ``relative`` adds ``sigma s_i U_r`` to tensor i,
    ``s_i = |W0_i|_F / sqrt(numel)`` of the reference.

    The draws follow from seed, number of the draw and name of the tensor: the same for every
    sigma and for every model, so that two runs are compared draw by draw
    (:func:`noise_stability_difference`). CPU and CUDA draw different numbers. In float32 an
    increase below about 1e-7 of the loss is rounding; small networks may be measured in float64.

    Args:
        model: any module in float32 or float64; wrappers of DDP and ``torch.compile`` are looked
            through.
        data: batches, a loader or a data set; read once.
        sigmas: standard deviations of the noise, above 0.
        draws: how many (pairs of) draws, from 1; from 2 for a standard error.
        relative: sigma is a share of each tensor's root mean square.
        reference: with ``relative``, the tensors that tell the scale (a tensor that is zero there
            takes its own); None takes the model's own. Give the pretrained state to compare runs.
        layers: which tensors get noise: None, all of two dimensions or more; ``"all"``, vectors
            too; or a list of names of parameters and modules.
        per_layer: True measures each tensor alone as well, ``"group"`` each depth group (stem,
            blocks, head).
        antithetic: use +U and -U.
        loss: as in :class:`tether.losses.TaskLoss`.
        head: dotted name of the head, for ``per_layer="group"``; None: found by itself.
        max_samples: use the first so many; None uses all.
        seed: of the draws.
        level: coverage of the intervals, between 0 and 1.

    Shape:
        S sigmas, R draws; losses in the loss's own unit (nats for cross-entropy).

    Cost:
        ``1 + R S (2 if antithetic) (1 + L)`` forwards over the data, L the tensors or groups of
        the profile (0 without), and a random number a weight for each draw; two copies of the
        weights, and the samples, in memory.

    Raises:
        ConfigError: an option out of range, a layer the model lacks, a reference that does not
            fit.
        TetherError: weights or loss that are not finite, or in half precision.

    References:
        Dongyue Li, Hongyang R. Zhang, "Improved Regularization and Robustness for Fine-tuning in
        Neural Networks", 2021, arXiv:2111.04578.
        Haotian Ju, Dongyue Li, Hongyang R. Zhang, "Robust Fine-Tuning of Deep Neural Networks with
        Hessian-based Generalization Guarantees", 2022, arXiv:2206.02659.

    Example:
        >>> import torch
        >>> net = nn.Linear(3, 1, bias=False)
        >>> x = torch.eye(3)
        >>> found = noise_stability(net, [(x, net(x).detach())], sigmas=[0.1], loss="mse")
        >>> found.tensors, found.loss, bool(0.005 < found.curve.increase[0] < 0.02)
        (('weight',), 0.0, True)
    """
    sizes = _sizes(sigmas, draws)
    check_level(level)
    if per_layer not in (False, True, "group"):
        raise ConfigError(f"per_layer must be True, False or 'group', got {per_layer!r}")
    with undisturbed(model) as inner:
        weights = chosen_weights(inner, layers)
        scales, own = _scales(weights, reference) if relative else (None, ())
        parts: dict[str, list[int] | None] = {"": None}
        if per_layer == "group":
            parts |= depth_parts(inner, list(weights), head)
        elif per_layer:
            parts |= {name: [place] for place, name in enumerate(weights)}
        evaluation = Evaluation(inner, data, loss=loss, max_samples=max_samples)
        signs = (1.0, -1.0) if antithetic else (1.0,)
        losses = np.empty((len(parts), len(sizes), draws))
        with Perturbation(weights, seed) as noise:
            for r in range(draws):
                noise.draw("noise", r, scales=scales)
                for p, places in enumerate(parts.values()):
                    for s, sigma in enumerate(sizes):
                        losses[p, s, r] = _mean_loss(evaluation, noise, sigma, signs, places)
                    noise.restore(places)
    curves = [_curve(part, evaluation.base, level) for part in losses]
    return NoiseStability(
        sizes, evaluation.base, curves[0], dict(zip(list(parts)[1:], curves[1:], strict=True)),
        tuple(weights), own, evaluation.count, relative, antithetic, int(seed), float(level),
    )  # fmt: skip


def _sizes(sigmas: Sequence[float], draws: int) -> tuple[float, ...]:
    sizes = tuple(float(sigma) for sigma in sigmas)
    if not sizes or not all(0 < sigma < math.inf for sigma in sizes):
        raise ConfigError(f"sigmas must be numbers above 0, got {list(sigmas)}")
    if draws < 1:
        raise ConfigError(f"draws must be at least 1, got {draws}")
    return sizes


def _scales(
    weights: Mapping[str, Tensor], reference: Mapping[str, Tensor] | None
) -> tuple[list[float], tuple[str, ...]]:
    """Root mean square of each tensor's reference, or its own where that is zero."""
    mine = root_mean_squares(list(weights.values()))
    if reference is None:
        return mine, ()
    theirs = root_mean_squares(list(reference_weights(weights, reference).values()))
    own = tuple(name for name, scale in zip(weights, theirs, strict=True) if scale == 0)
    return [scale or other for scale, other in zip(theirs, mine, strict=True)], own


def _mean_loss(
    evaluation: Evaluation, noise: Perturbation, sigma: float, signs: Sequence[float],
    places: Sequence[int] | None,
) -> float:  # fmt: skip
    total = 0.0
    for sign in signs:
        noise.apply(sign * sigma, places)
        total += evaluation.loss()
    return total / len(signs)


def _curve(losses: Floats, base: float, level: float) -> NoiseCurve:
    increases = losses - base
    found = means(increases, level)
    return NoiseCurve(
        losses.mean(-1), found.mean, found.standard_error, found.low, found.high, increases
    )


@dataclass(frozen=True, eq=False)
class StabilityDifference(Record):
    """What :func:`noise_stability_difference` returns.

    Attributes:
        sigmas: sizes of the noise, ``[S]``.
        difference: mean of the first's increase minus the second's, ``[S]``; above 0 where the
            first bears noise worse.
        standard_error: over draws, ``[S]``.
        low: lower ends of the t intervals, ``[S]``.
        high: upper ends.
        level: coverage of the intervals.
    """

    sigmas: tuple[float, ...]
    difference: Floats
    standard_error: Floats
    low: Floats
    high: Floats
    level: float


def noise_stability_difference(
    first: NoiseStability, second: NoiseStability, *, level: float = 0.95
) -> StabilityDifference:
    """Compare the noise stability of two models draw by draw.

    Both were measured under the same noise, so the difference is surer than the two alone:
    ``mean_r (S1_r(sigma) - S2_r(sigma))`` with a paired t interval over draws. It tells of the
    draws of noise only, not of other data or other training seeds.

    Args:
        first: of one model.
        second: of the other, with the same sigmas, draws, seed, tensors and settings.
        level: coverage of the intervals, between 0 and 1.

    Raises:
        ConfigError: the two were not measured alike; what differs is named.

    Example:
        >>> import torch
        >>> net, data = nn.Linear(2, 2), [(torch.ones(3, 2), torch.tensor([0, 1, 1]))]
        >>> a = noise_stability(net, data, sigmas=[0.1], draws=3)
        >>> float(noise_stability_difference(a, a).difference[0])
        0.0
    """
    for name in ("sigmas", "seed", "relative", "antithetic", "tensors", "samples"):
        if getattr(first, name) != getattr(second, name):
            raise ConfigError(
                f"the two differ in {name}, so their draws are no pairs: measure both on the "
                "same data with the same settings"
            )
    a, b = first.curve.draws, second.curve.draws
    if a.shape != b.shape:
        raise ConfigError(f"the two differ in draws ({a.shape[1]} and {b.shape[1]})")
    found = means(a - b, level)
    return StabilityDifference(
        first.sigmas, found.mean, found.standard_error, found.low, found.high, float(level)
    )
