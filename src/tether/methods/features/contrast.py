"""The two contrasts of Bi-Tuning, of a batch with queues of keys by class."""

from __future__ import annotations

import torch
from torch import Tensor


def with_one(features: Tensor) -> Tensor:
    """A further coordinate of 1, ``[N, d] -> [N, d + 1]``: what the bias of a head meets."""
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)


def projected_contrast(
    rows: Tensor,
    own: Tensor,
    queue: Tensor,
    there: Tensor,
    classes: Tensor,
    *,
    temperature: float = 0.07,
) -> Tensor:
    """Divergence of a softmax over keys from the even share of those of a sample's class, ``[N]``.

    Args:
        rows: projections of the samples, of unit length ``[N, p]``.
        own: the key of each sample ``[N, p]``, without a graph.
        queue: keys of each class ``[K, Q, p]``.
        there: bool ``[K, Q]``, False for empty places.
        classes: ``[N]``.
        temperature: T.

    Example:
        >>> z = torch.eye(2)
        >>> empty = torch.zeros(2, 1, dtype=torch.bool)
        >>> projected_contrast(z, z, torch.zeros(2, 1, 2), empty, torch.tensor([0, 1])).abs()
        tensor([0., 0.])
    """
    first = (rows * own.detach()).sum(1, keepdim=True)
    keys = queue.detach().flatten(0, 1)
    return _divergence(first, rows @ keys.T, there, classes, temperature)


def class_contrast(
    rows: Tensor,
    head: Tensor,
    queue: Tensor,
    there: Tensor,
    classes: Tensor,
    *,
    temperature: float = 0.07,
) -> Tensor:
    """The same over how a sample, and every key, meets the head's row of its class, ``[N]``.

    Args:
        rows: features of the samples with a further 1, of unit length ``[N, d + 1]``.
        head: the head's rows with their bias, of unit length ``[K, d + 1]``, without a graph.
        queue: such features of the keys ``[K, Q, d + 1]``.
        there: bool ``[K, Q]``, False for empty places.
        classes: ``[N]``.
        temperature: T.

    Example:
        >>> h = torch.eye(2)
        >>> empty = torch.zeros(2, 1, dtype=torch.bool)
        >>> class_contrast(h, h, torch.zeros(2, 1, 2), empty, torch.tensor([0, 1])).abs()
        tensor([0., 0.])
    """
    mine = head.detach()[classes]
    first = (rows * mine).sum(1, keepdim=True)
    return _divergence(first, mine @ queue.detach().flatten(0, 1).T, there, classes, temperature)


def _divergence(
    first: Tensor, others: Tensor, there: Tensor, classes: Tensor, temperature: float
) -> Tensor:
    """``KL(even share of the positives || softmax)``: of the own key and the queue of its class."""
    count, size = there.shape
    present = there.flatten()
    logits = torch.cat([first, others.masked_fill(~present, -torch.inf)], dim=1) / temperature
    log_probs = logits.log_softmax(1)
    owner = torch.arange(count, device=classes.device).repeat_interleave(size)
    positive = (owner == classes[:, None]) & present
    number = 1 + positive.sum(1)
    likelihood = log_probs[:, 0] + torch.where(positive, log_probs[:, 1:], 0.0).sum(1)
    return -likelihood / number - number.to(likelihood.dtype).log()
