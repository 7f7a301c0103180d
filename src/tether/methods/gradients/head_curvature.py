"""Gradient and Hessian of a linear head's loss in closed form, over samples and by domain.

With logits ``z = W f~``, ``f~ = [f, 1]``, residuals r (p - onehot(y) for softmax) and J the
derivative of the probabilities, all about the head's loss is a sum of products ``q_i f~_i^T``:
the gradient has ``q_i = r_i``, the Hessian times G has ``q_i = J_i G f~_i``. Nothing is
differentiated twice, and squared lengths of such sums, domain by domain, need one Gram matrix of
N x N: it need not be known how many domains a batch holds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tether.methods.features.rows import check_choice, feature_rows

LINKS = ("softmax", "sigmoid")
KINDS = ("hgp", "hutchinson")
REFERENCES = ("mean_loss", "mean_of_products")


def residuals(logits: Tensor, targets: Tensor, link: str = "softmax") -> Tensor:
    """Gradient of each sample's loss with respect to its logits, ``[N, C]``.

    Args:
        logits: ``[N, C]``.
        targets: class indices ``[N]`` (negative: zeros stand in) or probabilities ``[N, C]``.
        link: ``"softmax"``, or ``"sigmoid"`` for the mean over C binary cross-entropies.
    """
    if link == "sigmoid":
        return (logits.sigmoid() - targets.reshape(logits.shape)) / logits.shape[1]
    probs = logits.softmax(1)
    if targets.is_floating_point():
        return probs - targets
    return probs - torch.zeros_like(probs).scatter_(1, targets.clamp(min=0)[:, None], 1.0)


def _curve(logits: Tensor, moved: Tensor, link: str) -> Tensor:
    """``J_i a_i``: how the residuals change when the logits move by a, ``[N, C]``."""
    if link == "sigmoid":
        probs = logits.sigmoid()
        return probs * (1 - probs) * moved / logits.shape[1]
    probs = logits.softmax(1)
    weighed = probs * moved
    return weighed - probs * weighed.sum(1, keepdim=True)


def _spread(logits: Tensor, link: str) -> Tensor:
    """Diagonal of J, ``[N, C]``."""
    probs = logits.sigmoid() if link == "sigmoid" else logits.softmax(1)
    return probs * (1 - probs) / (logits.shape[1] if link == "sigmoid" else 1)


def _extended(features: Tensor, bias: bool) -> Tensor:
    rows = feature_rows(features)
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1) if bias else rows


def head_gradient(
    features: Tensor, logits: Tensor, targets: Tensor, *, bias: bool = True, link: str = "softmax"
) -> Tensor:
    """Gradient of the mean loss with respect to ``[W, b]`` of a linear head, ``[C, d + 1]``.

    Args:
        features: input of the head ``[N, d]``.
        logits: its output ``[N, C]``.
        targets: class indices ``[N]`` or probabilities ``[N, C]``.
        bias: whether the head has one; without, ``[C, d]``.
        link: ``"softmax"`` or ``"sigmoid"``.

    Example:
        >>> head_gradient(torch.tensor([[2.0]]), torch.zeros(1, 2), torch.tensor([0]))
        tensor([[-1.0000, -0.5000],
                [ 1.0000,  0.5000]])
    """
    check_choice("link", link, LINKS)
    return residuals(logits, targets, link).T @ _extended(features, bias) / len(features)


def head_hessian_gradient_product(
    features: Tensor, logits: Tensor, targets: Tensor, *, bias: bool = True, link: str = "softmax"
) -> Tensor:
    """Hessian of the mean loss times its gradient, for a linear head, ``[C, d + 1]``.

    Arguments as for :func:`head_gradient`.

    Example:
        >>> head_hessian_gradient_product(torch.ones(1, 1), torch.zeros(1, 2), torch.tensor([0]))
        tensor([[-0.5000, -0.5000],
                [ 0.5000,  0.5000]])
    """
    gradient = head_gradient(features, logits, targets, bias=bias, link=link)
    rows = _extended(features, bias)
    return _curve(logits, rows @ gradient.T, link).T @ rows / len(rows)


def head_hessian_diag(
    features: Tensor, logits: Tensor, *, bias: bool = True, link: str = "softmax"
) -> Tensor:
    """Diagonal of the Hessian of the mean loss, for a linear head, ``[C, d + 1]``.

    Exact, where Hutchinson's estimate needs hundreds of random probes. Arguments as for
    :func:`head_gradient`.

    Example:
        >>> head_hessian_diag(torch.tensor([[2.0]]), torch.zeros(1, 2))
        tensor([[1.0000, 0.2500],
                [1.0000, 0.2500]])
    """
    check_choice("link", link, LINKS)
    return _spread(logits, link).T @ _extended(features, bias).square() / len(features)


class Shares(NamedTuple):
    """Rows of a batch by domain: means over domains without knowing how many there are.

    Attributes:
        own: ``[N, N]``, row i averages over the domain of sample i.
        mean: ``[N]``, averages over domains of averages over samples; sums to 1.
        counted: rows that count, as numbers.
    """

    own: Tensor
    mean: Tensor
    counted: Tensor


def domain_shares(domains: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Shares:
    """Who shares a domain with whom; rows of ``mask`` that are False belong to none."""
    counted = torch.ones_like(domains, dtype=dtype) if mask is None else mask.to(dtype)
    same = (domains[:, None] == domains[None, :]).to(dtype) * counted
    sizes = same.sum(1).clamp(min=1.0)
    present = (counted / sizes).sum().clamp(min=1.0)
    return Shares(same / sizes[:, None], counted / sizes / present, counted)


def _variance(own: Tensor, own_rows: Tensor, mean: Tensor, rows: Tensor, shares: Shares) -> Tensor:
    """Mean over domains of ``|S_e - S|^2``, for sums S_e, S over outer products of rows."""
    gram = (own @ own.T) * (own_rows @ own_rows.T)
    squares = (shares.mean * (shares.own * gram).sum(1)).sum()
    middle = (shares.mean[:, None] * own).T @ own_rows
    reference = (shares.mean[:, None] * mean).T @ rows
    return squares + (reference * (reference - 2 * middle)).sum()


def hessian_alignment_penalty(
    features: Tensor, logits: Tensor, targets: Tensor, domains: Tensor, *, kind: str = "hgp",
    alpha: float = 1e-4, beta: float = 5e-3, reference: str = "mean_loss", detach: bool = True,
    bias: bool = True, link: str = "softmax", mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean over domains of ``alpha |h_e - h|^2 + beta |g_e - g|^2`` for a linear head.

    Computed in float64: squares of small differences vanish in less.

    Args:
        features: input of the head ``[N, d]``.
        logits: its output ``[N, C]``.
        targets: class indices ``[N]`` or probabilities ``[N, C]``.
        domains: whole numbers ``[N]``.
        kind: h_e is the Hessian times the gradient (``"hgp"``), or the Hessian's diagonal
            (``"hutchinson"``).
        alpha: price of curvature that differs.
        beta: price of gradients that differ.
        reference: for ``"hgp"``, h is that of the mean loss or the mean of all h_e.
        detach: no gradient through g and h.
        bias: whether the head has one.
        link: ``"softmax"`` or ``"sigmoid"``.
        mask: bool ``[N]``, False for rows that do not count.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> y, domains = torch.tensor([0, 0]), torch.tensor([3, 5])
        >>> float(hessian_alignment_penalty(z, z, y, domains, beta=0.0, alpha=0.0))
        0.0
    """
    check_choice("kind", kind, KINDS)
    check_choice("link", link, LINKS)
    check_choice("reference", reference, REFERENCES)
    rows, wide = _extended(features, bias).double(), logits.reshape(len(logits), -1).double()
    shares = domain_shares(domains, mask, rows.dtype)
    left = residuals(wide, targets, link)

    def apart(own: Tensor, mean: Tensor, right: Tensor) -> Tensor:
        still = right.detach() if detach else right
        mean = mean.detach() if detach else mean
        return _variance(own, right, mean, still, shares)

    total = beta * apart(left, left, rows)
    if kind == "hutchinson":
        spread = _spread(wide, link)
        return (total + alpha * apart(spread, spread, rows.square())).to(features.dtype)
    inner = rows @ rows.T
    own = mean = _curve(wide, (shares.own * inner) @ left, link)
    if reference == "mean_loss":
        mean = _curve(wide, (shares.mean * inner) @ left, link)
    return (total + alpha * apart(own, mean, rows)).to(features.dtype)
