"""The formulas of AdaRand: what draws the features, and what moves the class priors."""

from __future__ import annotations

import torch
from torch import Tensor

from tether.methods.features.class_membership import pick_classes
from tether.methods.features.random_regression import random_feature_regression
from tether.methods.features.rows import check_choice

DISTANCES = ("cosine_squared", "cosine")
UPDATES = ("both", "intra", "inter")


def adarand_feature_loss(
    features: Tensor,
    means: Tensor,
    stds: Tensor,
    targets: Tensor,
    *,
    sigma_scale: float = 1.0,
    distribution: str = "normal",
    reduction: str = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean squared distance of features to vectors drawn from the priors of their classes.

    Args:
        features: ``[N, d]``.
        means: of the priors, ``[K, d]``; no gradient goes there.
        stds: of the priors, ``[K, d]``.
        targets: class indices ``[N]`` (negative: left out), or class weights ``[N, K]``, by which
            one class a row is drawn (a row of zeros is left out).
        sigma_scale: factor on ``stds``.
        distribution: ``"normal"``, ``"laplace"`` or ``"uniform"``, each of these means and stds.
        reduction: ``"mean"`` over rows and coordinates, ``"sum"`` over coordinates.
        generator: source of the random numbers.

    Example:
        >>> means, stds = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.zeros(2, 2)
        >>> adarand_feature_loss(torch.tensor([[1.0, 3.0]]), means, stds, torch.tensor([1]))
        tensor(2.)
    """
    classes, keep = pick_classes(targets, generator)
    return random_feature_regression(
        features,
        means.detach()[classes],
        stds.detach()[classes] * sigma_scale,
        distribution=distribution,
        reduction=reduction,
        mask=keep,
        generator=generator,
    )


def adarand_prior_loss(
    means: Tensor,
    running_means: Tensor,
    *,
    distance: str = "cosine_squared",
    update: str = "both",
) -> Tensor:
    """Loss of the prior: class means follow the features and stay apart from each other.

    With cosines c: ``"cosine"`` is the paper's ``mean_k (1 - c(mu_k, r_k)) - mean_{k != l} (1 -
    c(mu_k, mu_l))``, least where the directions sum to zero; ``"cosine_squared"`` is the released
    code's ``mean_k (1 - c(mu_k, r_k))² + mean_{k != l} c(mu_k, mu_l)²``, least where all are
    orthogonal. Both are blind to the lengths of ``mu`` and ``r``.

    The pairs cost O(K d) for ``"cosine"``, through ``|sum_k u_k|²`` of the unit vectors u, and the
    smaller of the Gram matrices ``U Uᵀ`` and ``Uᵀ U``, whose Frobenius norms are equal, else.

    Args:
        means: ``[K, d]``.
        running_means: ``[K, d]``, the running class means r of the features.
        distance: ``"cosine_squared"`` or ``"cosine"``.
        update: ``"both"`` parts, ``"intra"`` (follow) or ``"inter"`` (apart; none for K = 1).

    Example:
        >>> adarand_prior_loss(torch.eye(3), torch.eye(3))
        tensor(0.)
        >>> adarand_prior_loss(torch.eye(3), torch.eye(3), distance="cosine")
        tensor(-1.)
    """
    _check(distance, update)
    unit, _ = _unit_rows(means)
    squared = distance == "cosine_squared"
    loss = means.new_zeros(())
    if update != "inter":
        gap = 1.0 - (unit * _unit_rows(running_means)[0]).sum(1)
        loss = loss + (gap.square() if squared else gap).mean()
    if update != "intra" and len(means) > 1:
        pairs = len(means) * (len(means) - 1)
        own = unit.square().sum(1)
        if squared:
            gram = unit @ unit.T if len(means) <= means.shape[1] else unit.T @ unit
            loss = loss + (gram.square().sum() - own.square().sum()) / pairs
        else:
            loss = loss + (unit.sum(0).square().sum() - own.sum()) / pairs - 1.0
    return loss


def adarand_prior_gradient(
    means: Tensor,
    running_means: Tensor,
    *,
    distance: str = "cosine_squared",
    update: str = "both",
) -> Tensor:
    """Gradient of :func:`adarand_prior_loss` with respect to ``means``, in closed form.

    Without autograd's graph it takes about half the time and memory. Row k is orthogonal to
    ``mu_k``, because the loss is blind to lengths.
    """
    _check(distance, update)
    unit, length = _unit_rows(means)
    squared = distance == "cosine_squared"
    count = len(means)
    grad = torch.zeros_like(unit)
    if update != "inter":
        follow, _ = _unit_rows(running_means)
        if squared:
            gap = 1.0 - (unit * follow).sum(1, keepdim=True)
            follow.mul_(gap.mul_(2.0))
        grad = follow.mul_(-1.0 / count)
    if update != "intra" and count > 1:
        # what k = l adds is parallel to u_k and leaves with the projection below
        pairs = count * (count - 1)
        if not squared:
            grad += unit.sum(0) * (2.0 / pairs)
        elif count <= means.shape[1]:
            grad.addmm_(unit @ unit.T, unit, alpha=4.0 / pairs)
        else:
            grad.addmm_(unit, unit.T @ unit, alpha=4.0 / pairs)
    along = (grad * unit).sum(1, keepdim=True)
    return grad.addcmul_(unit, along, value=-1.0).div_(length)


def _check(distance: str, update: str) -> None:
    check_choice("distance", distance, DISTANCES)
    check_choice("update", update, UPDATES)


def _unit_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    length = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-8)
    return rows / length, length
