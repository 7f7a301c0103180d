"""The formulas of AdaMixUp: intervals of mixing ratios, and the loss that tells mixed rows."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def policy_interval(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Lower end and width of an interval in [0, 1], from three logits a row: ``[N], [N]``.

    With ``(a, b, c) = softmax(logits)``: from a to a + b.

    Example:
        >>> low, width = policy_interval(torch.zeros(1, 3))
        >>> low, width
        (tensor([0.3333]), tensor([0.3333]))
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    low, width, _ = wide.softmax(dim=-1).unbind(dim=-1)
    return low, width


def sample_ratio(low: Tensor, width: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """``low + width u`` with u uniform in [0, 1): a gradient flows to both ends."""
    u = torch.rand(low.shape, generator=generator, dtype=low.dtype, device=low.device)
    return low + width * u


def intrusion_loss(logits: Tensor, is_real: Tensor) -> Tensor:
    """Mean cross-entropy of telling real rows (1) from mixed ones (0), two logits a row.

    Example:
        >>> intrusion_loss(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor(0.6931)
    """
    return F.cross_entropy(logits, is_real)


def truncated_normal(like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers cut at two deviations, of the shape of ``like``."""
    inside = math.erf(2.0 / math.sqrt(2.0))  # share of a normal that lies within two deviations
    u = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return math.sqrt(2.0) * torch.erfinv((2.0 * u - 1.0) * inside)


def policy_pair(
    first: Tensor, second: Tensor, kind: str, *, generator: torch.Generator | None = None
) -> Tensor:
    """What the policy sees of a pair of inputs.

    Args:
        first: ``[N, C, ...]``.
        second: of the same shape.
        kind: ``"official"``, ``(m1 first + m2 second) / 2`` with truncated normal factors for every
            number; ``"concat"``, both side by side along dimension 1.
        generator: of random numbers.
    """
    if kind == "concat":
        return torch.cat([first, second], dim=1)
    noise = [truncated_normal(first, generator=generator) for _ in range(2)]
    return (noise[0] * first + noise[1] * second) / 2.0
