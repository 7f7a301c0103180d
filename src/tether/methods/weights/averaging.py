"""Averages of weights: along one course of training, and between finished ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def ema_share(
    decay: float, updates: Tensor, *, warmup: bool = True, uniform: bool = False
) -> Tensor:
    """Share of the way that an average moves towards the weights after update number ``updates``.

    ``1 - d`` with ``d = min(decay, (1 + t) / (10 + t))`` under ``warmup``, t counted from 0;
    ``1 / (t + 1)`` for the ``uniform`` mean of all so far.

    Example:
        >>> ema_share(0.9, torch.tensor([0.0, 10.0, 1e6]))
        tensor([0.9000, 0.4500, 0.1000])
        >>> ema_share(0.9, torch.tensor([4.0]), uniform=True)
        tensor([0.2000])
    """
    if uniform:
        return 1.0 / (updates + 1.0)
    # 1 - d without the cancellation of two numbers near 1
    least = torch.full_like(updates, 1.0 - decay)
    return torch.maximum(least, 9.0 / (10.0 + updates)) if warmup else least


def ema_update_(averages: list[Tensor], weights: list[Tensor], share: float | Tensor) -> None:
    """Move averages a share of the way towards the weights, in place.

    Example:
        >>> average = [torch.zeros(1)]
        >>> ema_update_(average, [torch.ones(1)], 0.25)
        >>> average
        [tensor([0.2500])]
    """
    if isinstance(share, Tensor):
        if share.device.type != "cpu":  # whose numbers are not waited for
            pull = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(pull, share)
            torch._foreach_add_(averages, pull)
            return
        share = float(share.numpy())
    torch._foreach_lerp_(averages, weights, share)  # one pass, nothing is written out between


def interpolate(
    start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """``(1 - alpha) start + alpha end``, by name; exactly either one at 0 and at 1.

    What ``start`` lacks, and what is no floating-point tensor, is the end's.

    Example:
        >>> interpolate({"w": torch.zeros(2)}, {"w": torch.ones(2)}, 0.25)["w"]
        tensor([0.2500, 0.2500])
    """
    return {
        name: torch.lerp(start[name].to(tensor), tensor, alpha)
        if name in start and tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in end.items()
    }


def uniform_soup(ingredients: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of several models' tensors, by name; what is not floating-point is the first one's.

    Raises:
        ValueError: there is none.

    Example:
        >>> uniform_soup([{"w": torch.zeros(1)}, {"w": torch.ones(1)}])["w"]
        tensor([0.5000])
    """
    if not ingredients:
        raise ValueError("a soup needs at least one model")
    found = {}
    for name, tensor in ingredients[0].items():
        if not tensor.is_floating_point():
            found[name] = tensor.clone()
            continue
        total = torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
        for one in ingredients:
            total += one[name].to(total)
        found[name] = (total / len(ingredients)).to(tensor.dtype)
    return found
