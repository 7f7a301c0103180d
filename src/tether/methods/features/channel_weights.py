"""How much each channel of a layer matters to the new task, before training: DELTA's attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tether.errors import TetherError
from tether.methods.features.class_relationship import fit_logistic
from tether.methods.features.feature_maps import by_channel, channel_dim
from tether.methods.features.queue import gathered
from tether.methods.features.stage_layers import Layer, output_of

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context

SCORES = ("attention", "gradient")


def attention_weights(scores: Tensor, *, temperature: float = 5.0) -> Tensor:
    """Channel weights of sum 1: a softmax of the scores' z-values over a temperature.

    Args:
        scores: by how much the loss rises without each channel ``[C]``.
        temperature: 5 in the paper's code.

    Example:
        >>> attention_weights(torch.zeros(4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    apart = scores - scores.mean()
    spread = apart.square().mean().sqrt().clamp(min=1e-12)
    return (apart / spread / temperature).softmax(0)


class ChannelScores:
    """Gathers what the scores need in the pass over the training data, then makes them.

    A linear head is fitted to the pretrained features; a channel's score is by how much the loss
    under that head rises when the channel is set to zero. No weight is touched: a hook on the
    layer masks its output, and is removed.

    Args:
        ctx: of the method.
        layers: whose channels are scored.
        score: ``"attention"``, or ``"gradient"`` for ``|sum F_c dL/dF_c|``, its first order.
        batches: batches that the losses are measured on.
    """

    def __init__(self, ctx: Context, layers: Sequence[Layer], score: str, batches: int) -> None:
        if ctx.loss_kind != "cross_entropy":
            raise TetherError(
                f"method {ctx.name!r}: channel_weights={score!r} fits a classifier, and the loss "
                f"is {ctx.loss_kind}: leave channel_weights out, or give the weights"
            )
        self.ctx, self.layers, self.score, self.batches = ctx, layers, score, batches
        self.features: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any], Tensor]] = []

    def update(self, batch: Batch) -> None:
        """Take in a batch of the pass."""
        labels = batch.targets
        if batch.mask is not None:
            labels = labels.masked_fill(~batch.mask, -100)
        self.features.append(batch.need_features())
        self.targets.append(labels)
        if len(self.calls) < self.batches:
            self.calls.append((batch.args, batch.kwargs, labels))

    def weights(self) -> list[Tensor]:
        """Weights of the channels of each layer, equal on all ranks."""
        ctx = self.ctx
        features, targets = gathered(ctx, [torch.cat(self.features), torch.cat(self.targets)])
        keep = targets >= 0
        rows = _with_one(features[keep])
        start = rows.new_zeros(ctx.num_classes, rows.shape[1])
        self.head = fit_logistic(rows, targets[keep], start, strength=1.0)
        found = self._by_gradient() if self.score == "gradient" else self._by_attention()
        return [attention_weights(ctx.all_reduce(scores, "mean")) for scores in found]

    def _loss(self, features: Tensor | None, targets: Tensor) -> Tensor:
        assert features is not None
        logits = _with_one(features) @ self.head.T
        return cross_entropy(logits, targets, ignore_index=-100)

    def _by_attention(self) -> list[Tensor]:
        found = []
        for layer in self.layers:
            assert layer.channels is not None
            total = torch.zeros(layer.channels, device=self.ctx.device)
            for args, kwargs, targets in self.calls:
                base = self._forward(args, kwargs, targets)
                for channel in range(layer.channels):
                    with self._without(layer, channel):
                        total[channel] += self._forward(args, kwargs, targets) - base
            found.append(total / len(self.calls))
        return found

    def _forward(self, args: tuple[Any, ...], kwargs: dict[str, Any], targets: Tensor) -> Tensor:
        made = self.ctx.forward(*args, grad=False, mode="eval", **kwargs)
        return self._loss(made.features, targets)

    @contextmanager
    def _without(self, layer: Layer, channel: int) -> Iterator[None]:
        def silence(module: Any, inputs: Any, output: Any) -> Any:
            several = isinstance(output, (tuple, list))
            maps = output[0] if several else output
            place = torch.tensor([channel], device=maps.device)
            silent = maps.index_fill(channel_dim(maps, layer.channels_first), place, 0.0)
            return (silent, *output[1:]) if several else silent

        handle = self.ctx.model.get_submodule(layer.name).register_forward_hook(silence)
        try:
            yield
        finally:
            handle.remove()

    @torch.enable_grad()
    def _by_gradient(self) -> list[Tensor]:
        found = [torch.zeros(int(layer.channels or 0), device=self.ctx.device)
                 for layer in self.layers]  # fmt: skip
        for args, kwargs, targets in self.calls:
            made = self.ctx.forward(*args, mode="eval", **kwargs)
            raw = [made.taps[layer.name] for layer in self.layers]
            raw = [maps[0] if isinstance(maps, (tuple, list)) else maps for maps in raw]
            grads = self.ctx.grad(self._loss(made.features, targets), raw)
            for layer, scores, maps, grad in zip(self.layers, found, raw, grads, strict=True):
                whole = output_of({layer.name: maps.detach() * grad}, layer.name, self.ctx.name)
                scores += by_channel(whole, layer.channels_first).sum((0, 1)).abs()
        return [scores / len(self.calls) for scores in found]


def _with_one(features: Tensor) -> Tensor:
    """A column of ones for the bias."""
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
