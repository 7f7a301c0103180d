"""Moving average of the weights: train with the last ones, judge and keep the averaged ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.weights.averaging import ema_share, ema_update_

if TYPE_CHECKING:
    from tether.engine.context import Context


@register(
    "ema",
    kind="weights",
    paper="arXiv:2411.18704",
    needs=("epochs",),
    cost="light",
    neutral={"swap": False},
    example={"decay": 0.9},
    band="average",
    search_space={"decay": ("choice", 0.99, 0.999, 0.9999), "warmup": ("choice", True, False)},
)
class EMA(Method):
    """Average the weights over the updates, and judge, choose and export the average.

    Helps nearly always a little: the average of a noisy course lies nearer to its middle, which is
    worth most under a constant or a high learning rate, and with wrong labels. Hurts when the
    average lags: few updates with a large ``decay``. To average several runs, or a run with its
    start, after the fact: ``tether average``.

    After update t, with the weights W::

        A <- A + (1 - d) (W - A),   d = min(decay, (1 + t) / (10 + t))

    From the end of an epoch to the start of the next the model holds A, so that what is measured,
    chosen as the best epoch, saved and exported there is the average; training goes on with W. A
    model whose training is broken off within an epoch holds W.

    Args:
        decay: weight of the old average, in [0, 1) (default 0.999; 0.9999 for 10^5 updates on).
        warmup: a smaller decay at first, so that the average forgets its start (default).
        uniform: the plain mean of all weights after ``start``, as in stochastic weight averaging;
            ``decay`` and ``warmup`` are then without use.
        start: share of training before which A just follows W, in [0, 1) (default 0).
        swap: False leaves W in the model always; the average is ``averages()``.

    State:
        A copy of weights and of floating-point buffers, whether they stand in the model, and the
        number of updates. Running statistics of batch norms are averaged as weights are.

    Cost:
        One pass over the weights a step.

    Raises:
        ValueError: an option out of range.
        TetherError: ``start`` where the length of training is unknown.

    References:
        Daniel Morales-Brotons, Thijs Vogels, Hadrien Hendrikx, "Exponential Moving Average of
        Weights in Deep Learning: Dynamics and Benefits", TMLR 2024, arXiv:2411.18704. The uniform
        mean: Pavel Izmailov and others, "Averaging Weights Leads to Wider Optima and Better
        Generalization", UAI 2018, arXiv:1803.05407.

    Example:
        >>> EMA(decay=0.99, start=0.5)
        EMA(decay=0.99, start=0.5)
    """

    def __init__(
        self,
        decay: float = 0.999,
        warmup: bool = True,
        uniform: bool = False,
        start: float = 0.0,
        swap: bool = True,
    ) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must lie in [0, 1), got {decay!r}")
        if not 0.0 <= start < 1.0:
            raise ValueError(f"start must lie in [0, 1), got {start!r}")
        self.decay = decay
        self.warmup = warmup
        self.uniform = uniform
        self.start = start
        self.swap = swap

    updates: Tensor
    swapped: int

    def setup(self, ctx: Context) -> None:
        """Copy what is averaged."""
        if self.start > 0.0 and not ctx.has_horizon:
            raise TetherError(
                f"method {ctx.name!r}: start is a share of training, whose length is unknown: "
                "attach(..., epochs=...) or total_steps=..."
            )
        params = [ref.param for ref in ctx.weights() if ref.param.requires_grad]
        buffers = [b for b in ctx.model.buffers() if b.is_floating_point()]
        self._names: list[str] = []
        for kind, tensors in (("weight", params), ("buffer", buffers)):
            # under data parallelism each process has its own running statistics
            sync = "replicated" if kind == "weight" else "none"
            for number, tensor in enumerate(tensors):
                self._names.append(f"{kind}_{number}")
                (mine,) = ctx.local([tensor.detach()])
                self.add_state(self._names[-1], mine.clone(), sync=sync)
        self._own: list[Tensor] = [*params, *buffers]
        self.add_state("updates", torch.zeros((), device=ctx.device))
        self.add_state("swapped", 0)

    def _mine(self) -> list[Tensor]:
        """What the model holds, the shards of this rank."""
        return self.ctx.local(tensor.detach() for tensor in self._own)

    def _kept(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._names]

    def averages(self) -> list[Tensor]:
        """The averages: trained weights, then buffers, each in the model's order."""
        return self._mine() if self.swapped else self._kept()

    def acts_on(self) -> Iterable[nn.Parameter]:
        """The trained weights."""
        return [tensor for tensor in self._own if isinstance(tensor, nn.Parameter)]

    def after_step(self) -> None:
        """Move the averages, where an update was made."""
        made = self.ctx.step_mask
        if made is None:
            made = torch.ones_like(self.updates)
        if self.start > 0.0 and self.ctx.progress < self.start:
            share = made
        else:
            share = ema_share(self.decay, self.updates, warmup=self.warmup, uniform=self.uniform)
            share = share * made
            self.updates.add_(made)
        ema_update_(self._kept(), self._mine(), share)

    def epoch_start(self, epoch: int) -> None:
        """Training goes on with its own weights."""
        self.exchange(False)

    def edit_gradients(self) -> None:
        """A loop may make the last update after the epoch's end: on its own weights, too."""
        self.exchange(False)

    def epoch_end(self, epoch: int) -> None:
        """The average stands in the model."""
        if self.swap:
            self.exchange(True)

    @torch.no_grad()
    def exchange(self, averaged: bool) -> None:
        """Let the model hold the averages, or its own weights; the other lot is kept."""
        if bool(self.swapped) is averaged:
            return
        mine, kept = self._mine(), self._kept()
        held = [tensor.clone() for tensor in mine]
        torch._foreach_copy_(mine, kept)
        torch._foreach_copy_(kept, held)
        self.swapped = int(averaged)

    def measure(self) -> dict[str, Any]:
        """Updates averaged over, and how far the average lies from the weights."""
        gaps = torch._foreach_norm(torch._foreach_sub(self._mine(), self._kept()))
        return {"updates": int(self.updates), "distance": float(torch.stack(gaps).norm())}
