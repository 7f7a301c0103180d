"""Weigh the samples of a batch by how little they lose (one part of RegSL)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.method import Method

if TYPE_CHECKING:
    from tether.engine.context import Context


def confidence_weights(losses: Tensor, temperature: float, mask: Tensor | None = None) -> Tensor:
    """Weights ``softmax(-loss / temperature)`` over the batch, without a graph; their sum is 1.

    A sample's weight is proportional to ``p_i(y_i)^(1 / temperature)``. Rows that ``mask`` leaves
    out weigh 0.

    Example:
        >>> confidence_weights(torch.tensor([0.0, 0.0]), 2.0)
        tensor([0.5000, 0.5000])
    """
    scores = -losses.detach() / temperature
    if mask is None:
        return scores.softmax(dim=0)
    weights = torch.where(mask, scores, -math.inf).softmax(dim=0)
    return torch.where(mask, weights, 0.0)  # where no row counts, the softmax is not a number


def confidence_weighted_loss(losses: Tensor, temperature: float) -> Tensor:
    """``sum_i w_i loss_i`` with :func:`confidence_weights`; no gradient through the weights."""
    return (confidence_weights(losses, temperature) * losses).sum()


def temperature_in_epoch(
    epoch: float, *, temperature: float, start_epoch: float, decay: float, floor: float
) -> float:
    """Temperature of an epoch, counted from 1: whole through ``start_epoch + 1``, then falling.

    ``tau max(floor, exp(-decay (epoch - 1 - start_epoch)))``.

    Example:
        >>> options = dict(temperature=2.0, start_epoch=5, decay=0.1, floor=0.5)
        >>> [round(temperature_in_epoch(e, **options), 2) for e in (5, 6, 7, 13)]
        [2.0, 2.0, 1.81, 1.0]
    """
    past = max(0.0, epoch - 1 - start_epoch)
    return temperature * max(floor, math.exp(-decay * past))


@register(
    "confidence_reweighting",
    kind="targets",
    paper="arXiv:2111.04578",
    needs=("epochs",),
    cost="light",
    neutral={"start_epoch": math.inf},
    example={"start_epoch": 2},
    batch_statistics=True,
    search_space={"temperature": ("log", 0.5, 4.0), "start_epoch": ("int", 1, 20)},
)
class ConfidenceReweighting(Method):
    """Give samples with a large loss less weight within their batch.

    Helps with wrong labels: what the network contradicts pulls less, so that it stays unsure
    about it instead of memorising it. Hurts hard and rare classes, and beside another loss that
    normalises over the batch. It must start before memorisation.

    From ``start_epoch`` on, over the N samples of a batch (of this process, of this
    micro-batch)::

        loss = sum_i w_i loss_i,   w = softmax(-loss / tau), without a graph

    ``tau -> inf`` is the plain mean, ``tau -> 0`` leaves the easiest sample. The temperature
    keeps its whole value through epoch ``start_epoch + 1``; in a later epoch e it is
    ``tau max(floor, exp(-decay (e - 1 - start_epoch)))``.

    Args:
        temperature: tau at first, > 0 (default and paper 2; 1.5 for 80 % noise).
        start_epoch: first epoch, counted from 1; ``math.inf`` never starts (default and paper 5).
        decay: fall of the temperature an epoch, >= 0 (default and paper 0.1).
        floor: smallest share of the temperature, in (0, 1] (default and paper 0.5).

    Shape:
        one loss a sample ``[N]``, of any kind of loss.

    State:
        None: the temperature follows from the epoch.

    Cost:
        O(N) a step.

    Raises:
        ValueError: an option out of range.

    References:
        Dongyue Li, Hongyang R. Zhang, "Improved Regularization and Robustness for Fine-tuning in
        Neural Networks", NeurIPS 2021, arXiv:2111.04578.

    Example:
        >>> ConfidenceReweighting(temperature=1.5, start_epoch=2)
        ConfidenceReweighting(temperature=1.5, start_epoch=2)
    """

    def __init__(
        self,
        temperature: float = 2.0,
        start_epoch: float = 5,
        decay: float = 0.1,
        floor: float = 0.5,
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature!r}")
        if not start_epoch >= 1:
            raise ValueError(f"start_epoch counts from 1, got {start_epoch!r}")
        if not decay >= 0:
            raise ValueError(f"decay must be >= 0, got {decay!r}")
        if not 0 < floor <= 1:
            raise ValueError(f"floor must lie in (0, 1], got {floor!r}")
        self.temperature = temperature
        self.start_epoch = start_epoch
        self.decay = decay
        self.floor = floor

    def setup(self, ctx: Context) -> None:
        """Forget the weights of an earlier run."""
        self._last: Tensor | None = None

    def present_temperature(self) -> float:
        """Temperature of the present epoch."""
        return temperature_in_epoch(
            self.ctx.epoch + 1,
            temperature=self.temperature,
            start_epoch=self.start_epoch,
            decay=self.decay,
            floor=self.floor,
        )

    def weight_samples(self, batch: Batch) -> Tensor | None:
        """Weights with mean 1 over the rows that count; None before the start."""
        if self.ctx.epoch + 1 < self.start_epoch:
            return None
        if batch.sample_losses is None:
            raise RuntimeError("the losses of the samples were not made")
        weights = confidence_weights(batch.sample_losses, self.present_temperature(), batch.mask)
        self.ctx.defer(lambda: setattr(self, "_last", weights))
        return weights * (len(weights) if batch.mask is None else batch.mask.sum())

    def measure(self) -> dict[str, Any]:
        """Temperature, and how many samples the last batch was worth: ``1 / sum w^2``."""
        size = math.nan if self._last is None else 1.0 / float(self._last.square().sum())
        return {"temperature": self.present_temperature(), "effective_sample_size": size}
