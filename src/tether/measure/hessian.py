"""Curvature of the loss: the Hessian's trace, layer by layer, and along the distance travelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tether.engine.taps import find_head
from tether.errors import ConfigError, TetherError
from tether.losses import LossLike
from tether.measure.batches import Batches, Inputs
from tether.measure.curvature import Curvature, differentiable, micro_batches
from tether.measure.evaluation import Evaluation
from tether.measure.intervals import Floats
from tether.measure.results import Record
from tether.measure.weights import (
    Layers,
    Perturbation,
    chosen_weights,
    reference_weights,
    undisturbed,
)

REDUCTIONS = ("mean", "max")
#: Draws between two looks at the standard error, and fewest draws.
_BLOCK, _FEWEST = 10, 20


@dataclass(frozen=True, eq=False)
class HessianTrace(Record):
    """What :func:`hessian_trace` returns.

    Attributes:
        layers: names of the weight tensors, in the order of the model.
        trace: trace of each one's block of the Hessian, ``[L]``.
        standard_error: of the traces, over draws, ``[L]``; NaN for a single draw.
        total: their sum.
        total_standard_error: of the sum.
        draws: the estimate of every draw, ``[R, L]``.
        converged: whether the relative standard error of the sum came below ``rtol``.
        method: ``"autograd"`` or ``"finite_difference"``.
        reduction: ``"mean"`` or ``"max"`` over batches.
        samples: how many samples count.
    """

    layers: tuple[str, ...]
    trace: Floats
    standard_error: Floats
    total: float
    total_standard_error: float
    draws: Floats
    converged: bool
    method: str
    reduction: str
    samples: int


def hessian_trace(
    model: nn.Module,
    data: Batches,
    *,
    max_draws: int = 100,
    rtol: float = 0.05,
    loss: LossLike = "cross_entropy",
    reduction: str = "mean",
    method: str = "auto",
    layers: Layers = None,
    micro_batch: int | None = None,
    max_samples: int | None = None,
    seed: int = 0,
) -> HessianTrace:
    """Trace of the Hessian of the loss, for each weight tensor, by Hutchinson's estimate.

    Tells which layers the loss is sharp in. For smooth networks it gives the noise stability at
    small sigma, ``S(sigma) = sigma^2 / 2 tr H``. For networks with rectifiers autograd does not
    see the kinks, whose share is of the same size (differences of gradients in float32 see them,
    as noise that may drown a deep network's trace: read the standard errors): compare layers with
    it, and take :func:`tether.measure.noise_stability` for a number of flatness. On
    data fitted to the last sample it is tiny while the loss explodes further out: look at several
    sigmas there, too.

    ``tr H_i = E[v_i' (H v)_i]`` with v = +-1 at random on all chosen tensors at once; what other
    layers add vanishes in expectation. Draws are added, ten at a time from twenty on, until the
    standard error of the sum is below ``rtol`` times the sum.

    Args:
        model: any module in float32 or float64.
        data: batches, a loader or a data set; read once.
        max_draws: most draws, from 1.
        rtol: relative standard error to stop at, at least 0; 0 makes all draws.
        loss: as in :class:`tether.losses.TaskLoss`.
        reduction: ``"mean"`` over samples; or ``"max"``, for each tensor the largest of the
            batches' traces, which bounds suppose (it depends on the batch size, and noise makes
            it too large).
        method: ``"autograd"``, a double backward; ``"finite_difference"`` of gradients, for
            layers without a second derivative and for less memory; ``"auto"``, the first unless a
            layer has no second derivative or a backward of its own. Attention runs in its plain
            form.
        layers: as in :func:`tether.measure.noise_stability`.
        micro_batch: split batches into parts of at most so many samples, to save memory; None
            takes them as they are.
        max_samples: use the first so many; None uses all.
        seed: of the draws; a tensor of the same name gets the same ones in every model.

    Shape:
        L tensors, R draws.

    Cost:
        About 4 to 6 forwards over the data a draw, and 3 more for every ten draws; the graph of
        one batch with its gradients in memory. Differences of gradients: 6 forwards a draw.

    Raises:
        ConfigError: an option out of range.
        TetherError: weights or loss that are not finite; a layer without a second derivative,
            under ``method="autograd"``.

    References:
        Michael F. Hutchinson, "A stochastic estimator of the trace of the influence matrix for
        Laplacian smoothing splines", 1990.
        Haotian Ju, Dongyue Li, Hongyang R. Zhang, "Robust Fine-Tuning of Deep Neural Networks with
        Hessian-based Generalization Guarantees", 2022, arXiv:2206.02659.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> found = hessian_trace(net, [(torch.eye(2), torch.ones(2, 1))], loss="mse")
        >>> [round(float(t), 4) for t in found.trace], found.layers
        ([2.0], ('weight',))
    """
    _check(reduction, max_draws=max_draws)
    if not rtol >= 0:
        raise ConfigError(f"rtol must be at least 0, got {rtol}")
    with undisturbed(model) as inner:
        weights = chosen_weights(inner, layers)
        evaluation = Evaluation(inner, data, loss=loss, max_samples=max_samples)
        parts = micro_batches(evaluation, micro_batch)
        shares = np.array([count for _, count in parts]) / evaluation.count
        with differentiable(inner, weights), Perturbation(weights, seed) as noise:
            curvature = Curvature(inner, noise, evaluation.task, method)
            values = np.empty((0, len(parts), len(weights)))
            converged = False
            while len(values) < max_draws and not converged:
                block = range(len(values), min(len(values) + _BLOCK, max_draws))
                fresh = [_batch_draws(curvature, *part, block) for part in parts]
                values = np.concatenate([values, np.stack(fresh, axis=1)])
                draws = _reduced(values, shares, reduction)
                total, error = _mean_and_error(draws.sum(1))
                converged = len(values) >= _FEWEST and bool(error <= rtol * abs(total))
    mean, errors = _mean_and_error(draws)
    return HessianTrace(
        tuple(weights), mean, errors, float(total), float(error), draws, converged,
        curvature.method, reduction, evaluation.count,
    )  # fmt: skip


def _check(reduction: str, **at_least_one: int) -> None:
    if reduction not in REDUCTIONS:
        raise ConfigError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    for name, value in at_least_one.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")


def _batch_draws(curvature: Curvature, inputs: Inputs, count: int, block: range) -> Floats:
    """``v_i' (H v)_i`` of one batch for some draws, ``[draws, L]``."""
    curvature.at(inputs, count)
    rows = []
    for draw in block:
        curvature.noise.draw("hessian", draw)
        signs = [
            torch.where(noise >= 0, 1.0, -1.0).to(noise.dtype) for noise in curvature.noise.noise
        ]
        products = curvature.product(signs)
        rows.append(
            [
                (v * p.detach()).sum(dtype=torch.float64).cpu()
                for v, p in zip(signs, products, strict=True)
            ]
        )
    curvature.leave()
    return np.array([torch.stack(row).numpy() for row in rows])


def _reduced(values: Floats, shares: Floats, reduction: str) -> Floats:
    """Draws by batches by layers -> draws by layers."""
    if reduction == "mean":
        return np.asarray(np.einsum("rbl,b->rl", values, shares))
    largest = values.mean(0).argmax(0)
    return np.asarray(np.take_along_axis(values, largest[None, None, :], axis=1)[:, 0])


def _mean_and_error(draws: Floats) -> tuple[Floats, Floats]:
    n = len(draws)
    spread = draws.std(0, ddof=1) if n > 1 else np.full(draws.shape[1:], math.nan)
    return draws.mean(0), spread / math.sqrt(n)


@dataclass(frozen=True, eq=False)
class HessianDistance(Record):
    """What :func:`hessian_distance` returns.

    Attributes:
        layers: names of the weight tensors, in the order of the model.
        distance: Frobenius distance of each from its reference, ``[L]``.
        curvature: ``v_i' H_i v_i`` over the batches, ``[L]``, as it is.
        h: the same with negative values set to 0, ``[L]``.
        score: ``sum_i sqrt(C h_i / n)``.
        loss_bound: C.
        train_size: n.
        from_zero: which were measured from zero.
        joint: whether cross terms between layers are included.
        reduction: ``"max"`` or ``"mean"`` over batches.
        method: ``"autograd"`` or ``"finite_difference"``.
        samples: how many samples count.
    """

    layers: tuple[str, ...]
    distance: Floats
    curvature: Floats
    h: Floats
    score: float
    loss_bound: float
    train_size: int
    from_zero: tuple[str, ...]
    joint: bool
    reduction: str
    method: str
    samples: int


def hessian_distance(
    model: nn.Module,
    reference: Mapping[str, Tensor],
    data: Batches,
    *,
    joint: bool = False,
    loss: LossLike = "cross_entropy",
    reduction: str = "max",
    from_zero: Sequence[str] | None = None,
    loss_bound: float | None = None,
    train_size: int | None = None,
    method: str = "auto",
    layers: Layers = None,
    micro_batch: int | None = None,
    max_samples: int | None = None,
) -> HessianDistance:
    """Curvature of the loss along the way each layer went: a measure of the generalisation gap.

    Far is harmless where the loss is flat, and near is not where it is sharp. Use it to compare
    runs of one model on one data set; it is no bound on the error, although it is taken from one.

    ``h_i = max(0, max over batches of v_i' H_i v_i)`` with ``v_i = W_i - W0_i`` and H_i the
    layer's own block of the Hessian of the batch's mean loss; ``score = sum_i sqrt(C h_i / n)``.
    With ``joint``, ``v_i' sum_j H_ij v_j`` in place of ``v_i' H_i v_i``, as published code has it:
    cross terms included, one product for all layers.

    Args:
        model: any module in float32 or float64.
        reference: state dict of the start.
        data: batches, a loader or a data set; read once. Training samples, about 100 a batch.
        joint: include the cross terms.
        loss: as in :class:`tether.losses.TaskLoss`.
        reduction: ``"max"`` or ``"mean"`` over batches; the maximum depends on the batch size.
        from_zero: names, or prefixes of modules, that are measured from zero because they had no
            pretrained value; None: the head.
        loss_bound: C, above 0; None: the largest loss of a sample.
        train_size: n, from 1; None: the samples of ``data``.
        method: as in :func:`hessian_trace`.
        layers: as in :func:`tether.measure.noise_stability`.
        micro_batch: split batches into parts of at most so many samples.
        max_samples: use the first so many; None uses all.

    Shape:
        L tensors.

    Cost:
        About 3 + 2 L forwards over the data (5 with ``joint``); the graph of one batch in memory.

    Raises:
        ConfigError: an option out of range, or a reference that does not fit.
        TetherError: weights or loss that are not finite; a layer without a second derivative.

    References:
        Haotian Ju, Dongyue Li, Hongyang R. Zhang, "Robust Fine-Tuning of Deep Neural Networks with
        Hessian-based Generalization Guarantees", 2022, arXiv:2206.02659.

    Example:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> start = {"weight": net.weight.detach() - 1.0}
        >>> data = [(torch.eye(2), torch.zeros(2, 1))]
        >>> found = hessian_distance(net, start, data, loss="mse", from_zero=())
        >>> round(float(found.h[0]), 4), round(float(found.distance[0]), 4)
        (2.0, 1.4142)
    """
    _check(reduction, train_size=1 if train_size is None else train_size)
    if loss_bound is not None and not 0 < loss_bound < math.inf:
        raise ConfigError(f"loss_bound must be above 0, got {loss_bound}")
    with undisturbed(model) as inner:
        weights = chosen_weights(inner, layers)
        zero = _zeroed(inner, weights, from_zero)
        start = reference_weights(weights, reference, zero)
        vectors = [w.detach() - start[name] for name, w in weights.items()]
        evaluation = Evaluation(inner, data, loss=loss, max_samples=max_samples)
        parts = micro_batches(evaluation, micro_batch)
        with differentiable(inner, weights), Perturbation(weights, 0) as noise:
            curvature = Curvature(inner, noise, evaluation.task, method)
            values = np.array([_along(curvature, *part, vectors, joint) for part in parts])
    shares = np.array([count for _, count in parts]) / evaluation.count
    along = values.max(0) if reduction == "max" else shares @ values
    h = np.maximum(along, 0.0)
    size = evaluation.count if train_size is None else int(train_size)
    bound = evaluation.largest if loss_bound is None else float(loss_bound)
    return HessianDistance(
        tuple(weights), np.array([float(v.double().norm()) for v in vectors]), along, h,
        float(np.sqrt(bound * h / size).sum()), bound, size, zero, joint, reduction,
        curvature.method, evaluation.count,
    )  # fmt: skip


def _zeroed(
    model: nn.Module, weights: Mapping[str, Tensor], given: Sequence[str] | None
) -> tuple[str, ...]:
    if given is not None:
        return tuple(given)
    try:
        head = find_head(model, None, None)[0]
    except TetherError:  # no linear layer: nothing began anew
        return ()
    return (head,) if any(name.startswith(f"{head}.") for name in weights) else ()


def _along(
    curvature: Curvature, inputs: Inputs, count: int, vectors: list[Tensor], joint: bool
) -> list[float]:
    """``v_i' H_i v_i`` of one batch, ``[L]``; with cross terms where ``joint``."""
    curvature.at(inputs, count)
    if joint:
        products = curvature.product(vectors)
    else:
        products = [curvature.product(vectors, [i])[0] for i in range(len(vectors))]
    curvature.leave()
    return [
        float((v * p.detach()).sum(dtype=torch.float64))
        for v, p in zip(vectors, products, strict=True)
    ]
