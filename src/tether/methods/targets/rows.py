"""Per-sample tables: rows that occur twice in a batch, and class labels of any kind of target."""

from __future__ import annotations

import torch
from torch import Tensor


def average_duplicates(index: Tensor, values: Tensor) -> Tensor:
    """Give all rows of a batch that are the same sample their mean, the same bits for each.

    Deterministic and without a host sync; rows that occur once come back bit for bit.

    Args:
        index: sample of each row, int64 ``[N]``.
        values: ``[N, C]``.

    Example:
        >>> average_duplicates(torch.tensor([4, 9, 4]), torch.tensor([[1.0], [5.0], [3.0]]))
        tensor([[2.],
                [5.],
                [2.]])
    """
    same = index[:, None] == index[None, :]
    places = torch.arange(len(index), device=index.device)
    first = torch.where(same, places, len(index)).amin(1)
    others = same & (places[:, None] != places[None, :])
    mean = (values + others.to(values.dtype) @ values) / same.sum(1, keepdim=True)
    return mean[first]


def class_indices(targets: Tensor) -> Tensor:
    """Class of every row ``[N]``: indices as they are, the largest of probabilities ``[N, K]``."""
    return targets.argmax(1) if targets.ndim > 1 else targets
