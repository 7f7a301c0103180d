"""Truncated features: how many of the first channels are kept, and what that costs."""

from __future__ import annotations

import torch
from torch import Tensor

#: Accuracy that a further channel must bring, so that of equal ones the smallest number wins.
PRICE = 1e-5
#: Numbers that a chunk of the accuracy curve may hold.
_CHUNK = 1 << 22


def nested_dropout(features: Tensor, k: Tensor | int) -> Tensor:
    """The first k channels of feature rows, zero behind them; nothing is rescaled.

    Example:
        >>> nested_dropout(torch.ones(1, 3), 2)
        tensor([[1., 1., 0.]])
    """
    keep = torch.arange(features.shape[-1], device=features.device) < k
    return features * keep.to(features.dtype)


def truncation_probabilities(width: int, sigma: float, mu: float = 0.0) -> Tensor:
    """``P(k)`` proportional to ``exp(-((k - mu) / sigma)^2)`` for k = 1, ..., width: float64.

    Example:
        >>> truncation_probabilities(3, 1e-9).tolist()
        [1.0, 0.0, 0.0]
    """
    k = torch.arange(1, width + 1, dtype=torch.float64)
    scores = -(((k - mu) / sigma) ** 2)
    return (scores - scores.max()).softmax(dim=0)


def nested_hits(
    features: Tensor, head_weight: Tensor, targets: Tensor, bias: Tensor | None = None
) -> Tensor:
    """How many rows are predicted right from their first k channels, k = 1, ..., D: ``[D]``.

    Args:
        features: ``[N, D]``.
        head_weight: ``[C, D]``.
        targets: class indices ``[N]``; a negative one is never hit.
        bias: ``[C]``, of the head.
    """
    rows, width = features.shape
    classes = head_weight.shape[0]
    step = max(1, _CHUNK // max(1, rows * classes))
    logits = features.new_zeros(rows, classes) if bias is None else bias.expand(rows, -1)
    hits = []
    for start in range(0, width, step):
        part = slice(start, start + step)
        parts = torch.einsum("nd,cd->dnc", features[:, part], head_weight[:, part])
        parts = parts.cumsum(dim=0) + logits
        hits.append((parts.argmax(dim=2) == targets).sum(dim=1))
        logits = parts[-1]
    return torch.cat(hits)


def nested_accuracy_curve(
    features: Tensor, head_weight: Tensor, targets: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Accuracy from the first k channels for every k, by one cumulative sum: ``[D]``.

    Arguments as of :func:`nested_hits`.

    Example:
        >>> h, w = torch.tensor([[1.0, -3.0], [1.0, 3.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
        >>> nested_accuracy_curve(h, w, torch.tensor([1, 0]))
        tensor([0.5000, 1.0000])
    """
    return nested_hits(features, head_weight, targets, bias) / max(1, len(features))


def best_truncation(accuracies: Tensor) -> Tensor:
    """``argmax_k (acc(k) - 1e-5 (k - 1))``, counted from 1, 0-dim.

    Example:
        >>> best_truncation(torch.tensor([0.5, 0.9, 0.9]))
        tensor(2)
    """
    price = PRICE * torch.arange(len(accuracies), device=accuracies.device)
    return (accuracies - price).argmax() + 1
