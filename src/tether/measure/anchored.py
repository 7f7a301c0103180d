"""How far features collapse that are tied to given ones: the closed forms of a small model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tether.errors import ConfigError
from tether.measure.checks import ArrayLike, classes, matrix
from tether.measure.results import Record


@dataclass(frozen=True, eq=False)
class AnchoredFeatures(Record):
    """What :func:`anchored_ufm_solution` returns.

    Attributes:
        features: the features where the alternation came to rest ``[N, d]`` (float64).
        head: the weights of the last layer for them ``[K, d]``.
        sweeps: how often both were solved for.
        moved: ``|H - H0| / |H0|``.
    """

    features: Tensor
    head: Tensor
    sweeps: int
    moved: float


def anchored_ufm_solution(
    reference_features: ArrayLike,
    targets: ArrayLike,
    *,
    head_decay: float = 5e-3,
    feature_decay: float = 1e-3,
    beta: float = 0.1,
    tolerance: float = 1e-8,
    sweeps: int = 20_000,
) -> AnchoredFeatures:
    """Features tied to given ones, trained to their end in the model of unconstrained features.

    Squared loss to one-hot targets Y, features H that are free but for decay and the tie to H0.
    Solved for W and for H in turn, each in closed form, until H rests::

        J = |W H^T - Y|^2 / 2N + head_decay |W|^2 / 2 + feature_decay |H|^2 / 2N
            + beta |H - H0|^2 / 2N

    The metrics of the result (``tether.measure.neural_collapse``) say how much collapse to expect
    of a weight beta relative to a weight decay; with beta 0 it is complete.

    Args:
        reference_features: H0, ``[N, d]``.
        targets: class indices ``[N]``.
        head_decay: above 0.
        feature_decay: 0 or more.
        beta: 0 or more; one of ``beta`` and ``feature_decay`` is above 0.
        tolerance: rest is a move of H below this share of its norm in one sweep.
        sweeps: at most.

    Raises:
        ConfigError: shapes that do not fit, or a strength out of range.

    References:
        Tom Tirer, Haoxiang Huang, Jonathan Niles-Weed, "Perturbation Analysis of Neural Collapse",
        ICML 2023, arXiv:2210.16658.

    Example:
        >>> h0 = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
        >>> near = anchored_ufm_solution(h0, torch.arange(20) % 2, beta=1.0)
        >>> far = anchored_ufm_solution(h0, torch.arange(20) % 2, beta=0.01)
        >>> near.moved < far.moved
        True
    """
    if not (head_decay > 0 and min(feature_decay, beta) >= 0 and feature_decay + beta > 0):
        raise ConfigError(
            f"need head_decay > 0, feature_decay >= 0 and beta >= 0, one of the two above 0; got "
            f"{head_decay}, {feature_decay} and {beta}"
        )
    start = matrix(reference_features)
    index = classes(targets, start)
    one_hot = torch.nn.functional.one_hot(index).to(start)
    samples, width = start.shape
    unit = torch.eye(width, dtype=start.dtype, device=start.device)
    features = start
    head = _best_head(features, one_hot, head_decay * samples * unit)
    done = 0
    while done < sweeps:
        done += 1
        left = head.T @ head + (feature_decay + beta) * unit
        moved = torch.linalg.solve(left, (one_hot @ head + beta * start).T).T
        step = float((moved - features).norm() / moved.norm().clamp(min=1e-300))
        features = moved
        head = _best_head(features, one_hot, head_decay * samples * unit)
        if step < tolerance:
            break
    far = float((features - start).norm() / start.norm().clamp(min=1e-300))
    return AnchoredFeatures(features, head, done, far)


def _best_head(features: Tensor, one_hot: Tensor, decay: Tensor) -> Tensor:
    """``Y^T H (H^T H + N decay)^-1``, the last layer that is best for given features."""
    best: Tensor = torch.linalg.solve(features.T @ features + decay, features.T @ one_hot)
    return best.T
