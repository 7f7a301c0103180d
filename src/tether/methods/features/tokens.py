"""Outputs of layers as tokens: maps, sequences and rows in one form, and grids of another size."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tether.errors import TetherError

#: Tokens before the grid of a vision transformer: none, a class token, distilled ones, registers.
_PREFIXES = (0, 1, 2, 5)


def mean_over_tokens(tokens: Tensor, keep: Tensor | None = None) -> Tensor:
    """Mean over the tokens that count, ``[N, T, d] -> [N, d]``; ``keep`` is bool ``[N, T]``."""
    if keep is None:
        return tokens.mean(1)
    weight = keep.to(tokens.dtype).unsqueeze(-1)
    return (tokens * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def value_of(output: Any) -> Tensor:
    """The tensor of a layer's output: of a tuple the first part, or its ``last_hidden_state``."""
    found = getattr(output, "last_hidden_state", output)
    found = found[0] if isinstance(found, (tuple, list)) else found
    if not isinstance(found, Tensor):
        raise TetherError(f"a layer gave a {type(found).__name__} where a tensor was expected")
    return found


def as_tokens(output: Any, width: int | None = None) -> Tensor:
    """A layer's output as ``[N, T, d]`` in float32 or wider.

    Args:
        output: rows ``[N, d]``, tokens ``[N, T, d]``, maps ``[N, d, H, W]`` or, where the last
            dimension alone is ``width``, ``[N, H, W, d]``; see :func:`value_of`.
        width: d, where it is known.
    """
    found = value_of(output)
    if found.ndim not in (2, 3, 4):
        raise TetherError(f"neither rows nor tokens nor maps: {tuple(found.shape)}")
    found = found.float() if found.element_size() < 4 else found
    if found.ndim == 2:
        return found.unsqueeze(1)
    if found.ndim == 3:
        return found
    last = width is not None and found.shape[1] != width and found.shape[-1] == width
    return found.flatten(1, 2) if last else found.flatten(2).transpose(1, 2)


def grid_of(tokens: Tensor) -> tuple[Tensor, int] | None:
    """The tokens that form a square, and its side; None where none do.

    Tokens that stand before a square, as the class token of a vision transformer, are left out.
    """
    count = tokens.shape[1]
    for prefix in _PREFIXES:
        side = math.isqrt(max(count - prefix, 0))
        if side > 0 and side * side == count - prefix:
            return tokens[:, prefix:], side
    return None


def match_grids(tokens: Tensor, side: int) -> Tensor:
    """A square grid of tokens ``[N, S * S, d]`` brought to another side, bilinearly."""
    own = math.isqrt(tokens.shape[1])
    if own == side:
        return tokens
    maps = tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[2], own, own)
    if own > side:  # every token counts
        return F.adaptive_avg_pool2d(maps, side).flatten(2).transpose(1, 2)
    maps = F.interpolate(maps, size=(side, side), mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)


def on_grid(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Tokens ``[N, T, d]`` brought to a grid, ``[N, rows * columns, d]``.

    A token for each place, perhaps behind a class token, is taken as it is; a square grid is
    brought to the other size; of anything else every place gets the mean.
    """
    count, places = tokens.shape[1], rows * columns
    if count - places in _PREFIXES:
        return tokens[:, count - places :]
    found = grid_of(tokens)
    if found is None or found[1] == 1:
        return tokens.mean(1, keepdim=True).expand(-1, places, -1)
    maps = found[0].transpose(1, 2).reshape(len(tokens), -1, found[1], found[1])
    maps = F.interpolate(maps, size=(rows, columns), mode="bilinear", align_corners=False)
    return maps.flatten(2).transpose(1, 2)
