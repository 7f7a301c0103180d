"""Small decoders that predict inputs from what a layer gives."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tether.methods.features.depth import Reads

_CODES = 16


def place_codes(rows: int, columns: int, device: torch.device) -> Tensor:
    """Where each patch of a grid lies, as sines and cosines, ``[rows * columns, 16]``."""
    codes = []
    for count in (rows, columns):
        at = (torch.arange(count, device=device) + 0.5) / count
        angles = at.unsqueeze(1) * math.pi * torch.tensor([1.0, 2.0, 4.0, 8.0], device=device)
        codes.append(torch.cat([angles.sin(), angles.cos()], 1))
    down, across = codes
    return torch.cat([down.repeat_interleave(columns, 0), across.repeat(rows, 1)], 1)


def own_patch(told: Reads) -> int:
    """Side of a model's own patches: of a convolution that steps over its own width, else 16."""
    if not isinstance(told.first, nn.Conv2d):
        return 16
    side, step = told.first.kernel_size[0], told.first.stride[0]
    return side if side == step and side > 1 else 16


def make_decoder(told: Reads, width: int, patch: int) -> nn.Module:
    """A decoder for what a model reads, from rows of ``width`` coordinates.

    Images: from a token and the code of its place to the pixels of a patch. Texts: from a token to
    the space of the model's own words. Rows of numbers: from a row to a row.
    """
    if isinstance(told.first, nn.Embedding):
        inner = told.first.embedding_dim
        return nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.LayerNorm(inner))
    image = told.kind == "image"
    inputs = width + _CODES if image else width
    hidden = max(64, inputs)
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(),
        nn.Linear(hidden, told.size * patch**2 if image else told.size),
    )  # fmt: skip
