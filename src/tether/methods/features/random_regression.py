"""Regression of features to random vectors: the formula that RandReg and AdaRand share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.methods.features.rows import check_choice, feature_rows, mean_over_rows

NOISES = ("normal", "laplace", "uniform")
LOSSES = ("mse", "smooth_l1")
REDUCTIONS = ("mean", "sum")


def unit_noise(like: Tensor, distribution: str, generator: torch.Generator | None) -> Tensor:
    """Random numbers of mean 0 and variance 1, of the shape, type and device of ``like``."""
    check_choice("distribution", distribution, NOISES)
    noise = torch.empty_like(like)
    if distribution == "normal":
        return noise.normal_(generator=generator)
    if distribution == "uniform":
        return noise.uniform_(-math.sqrt(3.0), math.sqrt(3.0), generator=generator)
    other = torch.empty_like(like).exponential_(generator=generator)
    return noise.exponential_(generator=generator).sub_(other).mul_(math.sqrt(0.5))


def random_feature_regression(
    features: Tensor,
    mean: Tensor | float,
    std: Tensor | float,
    *,
    distribution: str = "normal",
    loss: str = "mse",
    reduction: str = "mean",
    mask: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean squared distance of features to fresh random vectors: ``mean (f - z)²``.

    ``E_z R = mean (f - mean)² + mean std²`` and ``E_z dR/df = 2 (f - mean) / (N d)``: a pull to
    the mean and gradient noise of deviation ``2 std / (N d)``. z carries no gradient.

    Args:
        features: ``[N, d]``.
        mean: of z: a number, ``[d]`` or ``[N, d]``.
        std: of z, likewise; 0 for no noise.
        distribution: ``"normal"``, ``"laplace"`` or ``"uniform"``, each of this mean and std.
        loss: ``"mse"`` or ``"smooth_l1"``.
        reduction: ``"mean"`` over rows and coordinates, ``"sum"`` over coordinates.
        mask: bool ``[N]``, False for rows that do not count.
        generator: source of the random numbers.

    Example:
        >>> random_feature_regression(torch.tensor([[1.0, 3.0]]), 1.0, 0.0)
        tensor(2.)
    """
    check_choice("loss", loss, LOSSES)
    check_choice("reduction", reduction, REDUCTIONS)
    rows = feature_rows(features)
    with torch.no_grad():
        aim = unit_noise(rows, distribution, generator).mul_(std).add_(mean)
    distance = F.mse_loss if loss == "mse" else F.smooth_l1_loss
    return mean_over_rows(distance(rows, aim, reduction="none"), mask, sum_dim=reduction == "sum")
