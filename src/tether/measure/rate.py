"""How many bits the weights of a network take when they are coded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodingRate:
    """Bits a weight.

    Attributes:
        bits: mean length of the exponential Golomb code of order ``k``.
        k: its order.
        entropy: of the quantised weights: no code of single weights is shorter on average.
    """

    bits: float
    k: int
    entropy: float


def exp_golomb_lengths(numbers: Tensor, k: int = 0) -> Tensor:
    """Length of the exponential Golomb code of whole numbers >= 0, in bits.

    ``2 floor(log2(n + 2^k)) - k + 1``.

    Example:
        >>> exp_golomb_lengths(torch.tensor([0, 1, 2, 3, 7])).tolist()
        [1, 3, 3, 5, 7]
    """
    _, exponent = torch.frexp((numbers + (1 << k)).double())
    return 2 * (exponent.long() - 1) - k + 1


@torch.no_grad()
def exp_golomb_bits(
    tensors: Iterable[Tensor], *, frac_bits: int = 13, k: int | str = "best"
) -> CodingRate:
    """Mean code length of weights that are rounded to ``frac_bits`` binary places.

    Signs are folded in: 0, 1, -1, 2, -2 become 0, 1, 2, 3, 4.

    Args:
        tensors: the weights, for example ``model.parameters()``.
        frac_bits: binary places, 0 to 24 (default and paper 13).
        k: order of the code, or ``"best"`` for the one with the shortest mean.

    Example:
        >>> exp_golomb_bits([torch.zeros(9), torch.ones(1)], frac_bits=0)
        CodingRate(bits=1.2..., k=0, entropy=0.46899...)
    """
    if not 0 <= frac_bits <= 24:
        raise ValueError(f"frac_bits must lie in 0..24, got {frac_bits!r}")
    if k != "best" and not (isinstance(k, int) and k >= 0):
        raise ValueError(f'k must be "best" or a whole number from 0 on, got {k!r}')
    flat = [t.detach().flatten().double() for t in tensors if t.is_floating_point()]
    if not sum(len(t) for t in flat):
        raise ValueError("no weights to code")
    levels = torch.cat([(t * 2.0**frac_bits).round().long().cpu() for t in flat])
    folded = torch.where(levels > 0, 2 * levels - 1, -2 * levels)
    values, counts = torch.unique(folded, return_counts=True)
    share = counts.double() / counts.sum()
    orders = range(frac_bits + 3) if isinstance(k, str) else (k,)
    means = {order: float((exp_golomb_lengths(values, order) * share).sum()) for order in orders}
    best = min(means, key=lambda order: means[order])
    return CodingRate(means[best], best, float(-(share * share.log2()).sum().clamp(max=0.0)))
