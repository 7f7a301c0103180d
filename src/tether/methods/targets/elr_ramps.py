"""What ELR+ adds to the formulas of ELR: ramps, targets that are refined."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ramp(step: int, steps: int) -> float:
    """``exp(-5 (1 - min(step, S) / S)^2)``: rises to 1 over S steps; 1 where S is 0.

    Example:
        >>> [round(ramp(at, 2), 3) for at in range(4)]
        [0.007, 0.287, 1.0, 1.0]
    """
    return math.exp(-5.0 * (1.0 - min(step, steps) / steps) ** 2) if steps else 1.0


def average_decay(step: int, decay: float, ramp_steps: int) -> float:
    """Share of the old weights in a moving average that begins by forgetting.

    ``decay ramp(step)`` with a ramp, else ``min(1 - 1 / (step + 1), decay)``.

    Example:
        >>> [round(average_decay(at, 0.9, 0), 3) for at in (0, 1, 3, 100)]
        [0.0, 0.5, 0.75, 0.9]
    """
    if ramp_steps:
        return decay * ramp(step, ramp_steps)
    return min(1.0 - 1.0 / (step + 1.0), decay)


def refined_targets(targets: Tensor, running: Tensor) -> Tensor:
    """``y t / sum(y t)``, row by row ``[N, C]``; y itself where the two have no class in common.

    Example:
        >>> refined_targets(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.3, 0.1]]))
        tensor([[0.7500, 0.2500]])
    """
    product = targets * running
    total = product.sum(dim=1, keepdim=True)
    tiny = torch.finfo(product.dtype).tiny
    return torch.where(total > tiny, product / total.clamp(min=tiny), targets)
