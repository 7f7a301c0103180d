"""The moving class means of AdaRand: the loss that moves them, its gradient, their module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tether.methods.features.rows import check_choice

DISTANCES = ("cosine_squared", "cosine")
UPDATES = ("both", "intra", "inter")


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


class ClassPrior(nn.Module):
    """Means (a parameter), deviations, running means of the features, and where they began."""

    mu: nn.Parameter
    sigma: Tensor
    running_mu: Tensor
    start_mu: Tensor

    def __init__(self, num_classes: int, num_features: int, device: torch.device | str) -> None:
        super().__init__()
        zeros = torch.zeros(num_classes, num_features, device=device)
        self.mu = nn.Parameter(zeros.clone())
        for name in ("sigma", "running_mu", "start_mu"):
            self.register_buffer(name, zeros.clone())

    @torch.no_grad()
    def begin(self, mu: Tensor, sigma: Tensor, running_mu: Tensor) -> None:
        """Start from the statistics of the pretrained features."""
        self.mu.copy_(mu)
        self.start_mu.copy_(mu)
        self.sigma.copy_(sigma)
        self.running_mu.copy_(running_mu)

    @torch.no_grad()
    def follow(self, sums: Tensor, counts: Tensor, alpha: float, mask: Tensor | None) -> None:
        """Running means ``r <- alpha r + (1 - alpha) m`` for the classes that were present.

        A class with a total weight w below one sample (soft labels) moves by ``w (1 - alpha)``; an
        absent class keeps its bits. ``mask`` 0 leaves all as they were.
        """
        share = counts.clamp(max=1.0) * (1.0 - alpha)
        if mask is not None:
            share = share * mask
        batch_means = sums / counts.clamp(min=torch.finfo(counts.dtype).tiny)[:, None]
        moved = torch.lerp(self.running_mu, batch_means, share[:, None])
        self.running_mu.copy_(torch.where((share > 0)[:, None], moved, self.running_mu))
