"""The formulas of decoupled mixup."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tether.methods.inputs.mixing import Ratio

MODES = ("both", "less", "more")
#: A share this near to 0 or 1 counts as unmixed.
WHOLE = 1e-3


def decoupled_log_probs(logits: Tensor, classes: Tensor, without: Tensor) -> Tensor:
    """Log probability of a class among all classes but one, ``[N]``.

    ``z_a - logsumexp_(c != b) z_c``: no gradient reaches the logit of b.

    Args:
        logits: ``[N, K]``.
        classes: a, int64 ``[N]``.
        without: b, int64 ``[N]``, another class than a.

    Example:
        >>> decoupled_log_probs(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([2]))
        tensor([-0.6931])
    """
    rest = logits.scatter(1, without[:, None], -math.inf)
    return logits.gather(1, classes[:, None]).squeeze(1) - rest.logsumexp(1)


def rescaled_ratio(lam: Tensor, xi: float = 0.0, threshold: float = 1.0) -> Tensor:
    """``(lam / t)^xi`` below t and 1 from t on; 0 for what has no share at all.

    Example:
        >>> rescaled_ratio(torch.tensor([0.0, 0.25, 1.0]), xi=0.5)
        tensor([0.0000, 0.5000, 1.0000])
    """
    scaled = torch.where(lam < threshold, (lam / threshold).clamp(min=0.0) ** xi, 1.0)
    return torch.where(lam < WHOLE, 0.0, scaled)


def decoupled_losses(
    logits: Tensor, targets_a: Tensor, targets_b: Tensor, lam: Ratio, *, xi: float = 0.0,
    threshold: float = 1.0, mode: str = "both",
) -> Tensor:  # fmt: skip
    """The term of each row that decoupled mixup adds, before its weight: ``[N]``.

    ``-(r(lam) log phi(a|b) + r(1 - lam) log phi(b|a))`` with :func:`decoupled_log_probs` and
    :func:`rescaled_ratio`; 0 where the classes are the same or one of them has no share.

    Args:
        logits: ``[N, K]``.
        targets_a: classes ``[N]``.
        targets_b: classes ``[N]``.
        lam: share of a, one number or one a row.
        xi: power of the shares; 0 weighs both classes alike.
        threshold: t, in (0, 1].
        mode: ``"both"``, or only the class with ``"less"`` or ``"more"`` than half.
    """
    lam = torch.as_tensor(lam, device=logits.device).to(logits.dtype).expand(len(logits))
    a, b = targets_a.clamp(min=0), targets_b.clamp(min=0)
    # where both are one class, another one stands in, so that nothing becomes infinite
    other = torch.where(a == b, (b + 1) % logits.shape[1], b)
    total = torch.zeros_like(lam)
    for own, theirs, share in ((a, other, lam), (other, a, 1.0 - lam)):
        weight = rescaled_ratio(share, xi, threshold)
        if mode != "both":
            chosen = share < 0.5 if mode == "less" else share > 0.5
            weight = torch.where(chosen, weight, 0.0)
        total = total - weight * decoupled_log_probs(logits, own, theirs)
    mixed = (a != b) & (lam >= WHOLE) & (lam <= 1.0 - WHOLE)
    return torch.where(mixed & (targets_a >= 0) & (targets_b >= 0), total, 0.0)


def decoupled_mixup_loss(
    logits: Tensor, targets_a: Tensor, targets_b: Tensor, lam: Ratio, *, weight: float = 0.1,
    xi: float = 0.0, threshold: float = 1.0, mode: str = "both",
) -> Tensor:  # fmt: skip
    """Mixup's cross-entropy and the decoupled term, a mean over the rows.

    Args:
        logits: ``[N, K]``.
        targets_a: classes ``[N]`` of the share ``lam``.
        targets_b: classes ``[N]`` of the rest.
        lam: one number, or one a row.
        weight: eta, of the decoupled term.
        xi: see :func:`decoupled_losses`.
        threshold: see :func:`decoupled_losses`.
        mode: see :func:`decoupled_losses`.

    Example:
        >>> z, a, b = torch.zeros(1, 3), torch.tensor([0]), torch.tensor([1])
        >>> decoupled_mixup_loss(z, a, b, 0.5, weight=1.0)  # log 3 + 2 log 2
        tensor(2.4849)
    """
    log_probs = logits.log_softmax(1)
    first, second = (log_probs.gather(1, y[:, None]).squeeze(1) for y in (targets_a, targets_b))
    lam = torch.as_tensor(lam, device=logits.device).to(logits.dtype)
    added = decoupled_losses(
        logits, targets_a, targets_b, lam, xi=xi, threshold=threshold, mode=mode
    )
    return (weight * added - lam * first - (1.0 - lam) * second).mean()


def rescaled_binary_targets(
    targets: Tensor, permutation: Tensor, lam: Ratio, *, xi: float = 0.0, threshold: float = 1.0
) -> Tensor:
    """``min(1, r(lam) y + r(1 - lam) y[permutation])``, for a sigmoid a class: ``[N, K]``."""
    lam = torch.as_tensor(lam, device=targets.device).to(targets.dtype).detach()
    own, theirs = (rescaled_ratio(s, xi, threshold).reshape(-1, 1) for s in (lam, 1.0 - lam))
    return (own * targets + theirs * targets[permutation]).clamp(max=1.0)
