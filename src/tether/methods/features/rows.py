"""What the methods on features share: rows of features, means over rows that count, checks."""

from __future__ import annotations

import torch
from torch import Tensor


def check_choice(option: str, value: object, allowed: tuple[object, ...]) -> None:
    """Refuse a value that an option does not know, and list those that it knows."""
    if value not in allowed:
        raise ValueError(f"{option}={value!r} is not one of {', '.join(map(repr, allowed))}")


def feature_rows(features: Tensor) -> Tensor:
    """Features as ``[N, d]`` in float32 or wider: squares of half floats overflow above 256."""
    if features.ndim < 2:
        raise ValueError(f"features need the shape [N, d], not {tuple(features.shape)}")
    rows = features.flatten(1)
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def mean_over_rows(values: Tensor, keep: Tensor | None = None, *, sum_dim: bool = False) -> Tensor:
    """Mean over rows, and over coordinates or (``sum_dim``) of their sums.

    Args:
        values: ``[N, d]``.
        keep: bool ``[N]``, False for rows that do not count; None when all count.
        sum_dim: add up the coordinates of a row instead of averaging them.

    Returns:
        A scalar; 0 when no row counts.
    """
    if keep is None:
        return values.sum(1).mean() if sum_dim else values.mean()
    rows = values.sum(1) if sum_dim else values.mean(1)
    return torch.where(keep, rows, 0.0).sum() / keep.sum().clamp(min=1)
