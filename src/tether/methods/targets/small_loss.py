"""Choosing samples by their loss: the selection of co-teaching, and how its share moves."""

from __future__ import annotations

import torch
from torch import Tensor


def small_loss_selection(losses: Tensor, forget_rate: float, mask: Tensor | None = None) -> Tensor:
    """The ``int((1 - forget_rate) n)`` smallest of n losses, one at least: bool ``[N]``.

    Of equal losses the earlier one is kept.

    Args:
        losses: ``[N]``.
        forget_rate: share that is left out, in [0, 1).
        mask: bool ``[N]``, False for rows that do not count; None where all do.

    Example:
        >>> small_loss_selection(torch.tensor([0.3, 0.1, 0.2]), 0.4)
        tensor([False,  True, False])
    """
    losses = losses.detach()
    if mask is not None:
        losses = torch.where(mask, losses, torch.inf)
    place = torch.empty_like(losses, dtype=torch.int64)
    order = losses.argsort(stable=True)
    place.scatter_(0, order, torch.arange(len(losses), device=losses.device))
    if mask is None:
        return place < max(1, int((1.0 - forget_rate) * len(losses) + 1e-6))
    count = ((1.0 - forget_rate) * mask.sum() + 1e-4).floor().clamp(min=1.0)
    return (place < count) & mask


def forget_rate_in_epoch(epoch: int, forget_rate: float, ramp_epochs: int) -> float:
    """``F min(e / T_k, 1)`` in epoch e, counted from 0; F throughout where ``ramp_epochs`` is 0.

    Example:
        >>> [forget_rate_in_epoch(e, 0.5, 2) for e in range(4)]
        [0.0, 0.25, 0.5, 0.5]
    """
    return forget_rate * min(epoch / ramp_epochs, 1.0) if ramp_epochs else forget_rate


def mean_of(losses: Tensor, keep: Tensor) -> Tensor:
    """Mean of the losses that are kept; 0 where none is."""
    return torch.where(keep, losses, 0.0).sum() / keep.sum().clamp(min=1)
