"""StableMax (Prieto et al., 2025): a softmax that does not saturate in floating point."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.method import Method


def stablemax_logits(input: Tensor) -> Tensor:
    """``g(x) = sign(x) log(1 + |x|)``: the logits whose softmax is StableMax, float32 or wider.

    Each side has a branch of its own, since ``sign`` (and ``clamp`` in some versions of torch)
    would give no gradient at 0, where a new head of zeros begins; the slope there is 1.

    Args:
        input: logits of any shape.

    Example:
        >>> stablemax_logits(torch.tensor([1.0, 0.0, -1.0]))
        tensor([ 0.6931,  0.0000, -0.6931])
    """
    wide = input.to(torch.promote_types(input.dtype, torch.float32))
    right = wide >= 0
    above, below = torch.where(right, wide, 0.0), torch.where(right, 0.0, wide)
    return torch.where(right, torch.log1p(above), -torch.log1p(-below))


def log_stablemax(input: Tensor, dim: int = -1) -> Tensor:
    """Logarithms of the StableMax probabilities, float32 or wider.

    Args:
        input: logits.
        dim: the classes.

    Example:
        >>> log_stablemax(torch.zeros(2)).exp()
        tensor([0.5000, 0.5000])
    """
    return stablemax_logits(input).log_softmax(dim)


def stablemax(input: Tensor, dim: int = -1) -> Tensor:
    """Probabilities ``s(z_i) / sum_j s(z_j)``, with s(x) = x + 1 from 0 on, 1 / (1 - x) below.

    Unlike softmax they change when a constant is added to all logits.

    Args:
        input: logits.
        dim: the classes.

    Example:
        >>> stablemax(torch.tensor([1.0, 0.0, -1.0]))
        tensor([0.5714, 0.2857, 0.1429])
    """
    return stablemax_logits(input).softmax(dim)


def stablemax_cross_entropy(logits: Tensor, targets: Tensor, **options: Any) -> Tensor:
    """Cross-entropy of StableMax: ``-log p_y``.

    Args:
        logits: ``[N, K]``, or ``[N, K, ...]``.
        targets: class indices or probabilities, as for ``F.cross_entropy``.
        options: those of ``F.cross_entropy``: weight, label_smoothing, ignore_index, reduction.

    Example:
        >>> logits, target = torch.tensor([[1e4, 0.0]]), torch.tensor([0])
        >>> F.cross_entropy(logits, target), stablemax_cross_entropy(logits, target)
        (tensor(0.), tensor(0.0001))
    """
    return F.cross_entropy(stablemax_logits(logits), targets, **options)


@register(
    "stablemax",
    kind="gradients",
    paper="arXiv:2501.04697",
    cost="light",
    losses=("cross_entropy", "token_cross_entropy"),
)
class StableMax(Method):
    """Replaces softmax in the loss, so that samples fitted well still have a gradient.

    Once all training samples are fitted, cross-entropy goes on by scaling the logits up until
    ``softmax`` rounds to 0 and 1: losses and gradients are exactly zero, and learning ends before
    the network generalises ("softmax collapse"). StableMax grows linearly where softmax grows
    exponentially, and its gradient fades like ``1 / z`` instead.

    Helps where a small training set is driven to zero loss, and with logits of low precision; the
    evidence is on algorithmic tasks, where generalisation comes tens of thousands of steps after
    the fit. Hurts calibration: trained so, the probabilities of the model are
    :func:`~tether.functional.stablemax` of its logits and not their softmax, which is far too
    sure; the predicted class is the same. Other methods of a recipe still read the softmax.
    First look whether the collapse is there at all: ``tether.measure.softmax_saturation``.

    With ``s(x) = x + 1`` for x >= 0 and ``1 / (1 - x)`` below, so that
    ``log s(x) = g(x) = sign(x) log(1 + |x|)``::

        p_i  = s(z_i) / sum_j s(z_j) = softmax(g(z))_i
        loss = -log p_y

    In evaluation mode ``reg.loss`` is the ordinary cross-entropy.

    Shape:
        Logits ``[N, K]`` with class indices or probabilities; ``[N, T, K]`` with token indices.

    State:
        None.

    Cost:
        One elementwise pass over the logits.

    References:
        Lucas Prieto, Melih Barsbey, Pedro A. M. Mediano, Tolga Birdal, "Grokking at the Edge of
        Numerical Stability", ICLR 2025, arXiv:2501.04697.

    Example:
        >>> StableMax()
        StableMax()
    """

    def sample_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of every sample; of tokens the mean over those that count."""
        logits, targets = batch.logits, batch.targets
        if logits.ndim == 2:
            return stablemax_cross_entropy(logits, targets, reduction="none")
        losses = stablemax_cross_entropy(logits.mT, targets, reduction="none")
        counts: Tensor = (targets != -100).sum(1).clamp(min=1)
        return losses.sum(1) / counts
