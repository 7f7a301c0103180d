"""DELTA (Li et al., 2019): feature maps stay near the pretrained ones, channel by channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.features.channel_weights import SCORES, ChannelScores
from tether.methods.features.feature_maps import by_channel, feature_map_distances
from tether.methods.features.rows import check_choice
from tether.methods.features.stage_layers import choose_layers, output_of
from tether.methods.weights.towards_start import Pulled, add_gradients_
from tether.schedule import Schedule, ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context

REDUCTIONS = ("mean", "sum")


@register(
    "delta",
    kind="features",
    paper="arXiv:1901.09229",
    needs=("features", "inputs", "reference"),
    cost="forward",
    neutral={"weight": 0.0, "head_weight": 0.0},
    pooling="mean",
    search_space={"weight": ("log", 1e-3, 10.0), "head_weight": ("log", 1e-4, 0.1)},
)
class DELTA(Method):
    """Keeps the feature maps of some layers near those of the pretrained weights.

    What is kept is what the layers compute on the training samples, not their weights. Helps with
    few labelled samples of a task near the pretrained one. Hurts where useful features have to be
    new. In train mode a batch norm sees other statistics than the pretrained model, so that the
    distance is not zero at the start; take layers before the norms, as the default does. Set the
    optimiser's own ``weight_decay`` to 0, and do not give the head a second decay (``l2_sp``).

    ``R = mean_i sum_layers sum_c C v_c |F_ic - F0_ic|² / (2 H W)``, and ``head_weight / 2 |w|²``
    for the weights of the new head; channel weights v of a layer have the sum 1.

    Args:
        weight: a, 0 and more, default 0.5; schedulable. The paper sums over its batch of 64, for
            which 0.01 (0.1 on Stanford Dogs) is 0.64 (6.4) here.
        layers: names of layers; None (default): of each stage the last convolution, of blocks
            without one their output, four at most; see ``tether diagnose`` for names.
        channel_weights: None (default): all channels alike; ``"attention"`` (the paper): by how
            much the loss rises when a channel is set to zero, which takes a forward a channel and
            batch; ``"gradient"`` (ours): the same to first order, one backward a batch; or
            weights a layer, ``{layer: [C numbers]}``.
        head_weight: b, 0 and more, default 0.01 as in the paper; schedulable.
        reduction: over the samples of a batch: ``"mean"`` (default) or ``"sum"`` (the paper).
        batches: batches that channels are scored on, default 4 as in the paper's code.

    Shape:
        Outputs of layers ``[N, C, H, W]``, ``[N, T, C]`` or ``[N, C]``.

    State:
        ``channels_<i>`` ``[C]``, the weights of layer i, where they are computed.

    Cost:
        A forward of the pretrained weights, shared by all methods that compare with them, and the
        kept maps. Weights by attention: one forward a channel and batch, once.

    Raises:
        ValueError: a negative weight, an unknown choice, fewer than 1 batch.
        TetherError: no such layer (with the nearest names), a layer that gives no tensor or has
            other channels than its weights, scores for another loss than cross-entropy.

    References:
        Xingjian Li, Haoyi Xiong, Hanchao Wang, Yuxuan Rao, Liping Liu, Zeyu Chen, Jun Huan.
        DELTA: DEep Learning Transfer using Feature Map with Attention for Convolutional Networks.
        ICLR 2019, arXiv:1901.09229.

    Example:
        >>> DELTA(weight=0.1, layers=["layer3", "layer4"])
        DELTA(weight=0.1, layers=['layer3', 'layer4'])
    """

    def __init__(
        self,
        weight: ScheduleLike = 0.5,
        layers: Sequence[str] | None = None,
        channel_weights: str | Mapping[str, Any] | None = None,
        head_weight: ScheduleLike = 0.01,
        reduction: str = "mean",
        batches: int = 4,
    ) -> None:
        for name, value in (("weight", weight), ("head_weight", head_weight)):
            if isinstance(value, (int, float)) and not value >= 0:
                raise ValueError(f"{name} must be >= 0, got {value!r}")
        check_choice("reduction", reduction, REDUCTIONS)
        if not isinstance(channel_weights, Mapping):
            check_choice("channel_weights", channel_weights, (None, *SCORES))
        if batches < 1:
            raise ValueError(f"batches must be 1 or more, got {batches!r}")
        self.weight, self.head_weight = weight, head_weight
        self.layers, self.channel_weights = layers, channel_weights
        self.reduction, self.batches = reduction, batches

    def schedules(self) -> dict[str, Schedule]:
        """Both weights may follow a schedule."""
        return {"weight": Schedule(self.weight), "head_weight": Schedule(self.head_weight)}

    def setup(self, ctx: Context) -> None:
        """Find the layers, and ask for the weights of their channels."""
        names = [self.layers] if isinstance(self.layers, str) else self.layers
        self.chosen = choose_layers(ctx, names)
        self._head = [Pulled(ref.param, None, None) for ref in ctx.weights() if ref.is_head]
        given = self.channel_weights
        if given is None:
            return
        for at, layer in enumerate(self.chosen):
            if isinstance(given, Mapping):
                if layer.name not in given:
                    raise TetherError(
                        f"method {ctx.name!r}: channel_weights has none for {layer.name!r}"
                    )
                values = torch.as_tensor(given[layer.name], dtype=torch.float32)
            elif layer.channels is None:
                raise TetherError(
                    f"method {ctx.name!r}: the layer {layer.name!r} has no weight that tells its "
                    "channels: name another one, or leave channel_weights out"
                )
            else:
                values = torch.full((layer.channels,), 1.0 / layer.channels)
            self.add_state(f"channels_{at}", values.to(ctx.device))
        if isinstance(given, str):
            scores = ChannelScores(ctx, self.chosen, given, self.batches)

            def finish() -> None:
                for at, weights in enumerate(scores.weights()):
                    getattr(self, f"channels_{at}").copy_(weights)

            ctx.statistics(scores.update, finish)

    def acts_on(self) -> Iterable[nn.Parameter]:
        """The head's parameters, which decay towards zero."""
        return [pulled.param for pulled in self._head]

    def penalty(self, batch: Batch) -> Tensor:
        """Distance of the layers' outputs from those under the pretrained weights."""
        teacher, total = self.ctx.teacher(), None
        for at, layer in enumerate(self.chosen):
            maps = output_of(batch.taps, layer.name, self.ctx.name)
            start = output_of(teacher.taps, layer.name, self.ctx.name)
            weights = getattr(self, f"channels_{at}", None)
            self._check(layer.name, maps, start, weights, layer.channels_first)
            found = feature_map_distances(maps, start, weights, channels_first=layer.channels_first)
            total = found if total is None else total + found
        assert total is not None
        if self.reduction == "mean":
            return batch.masked_mean(total)
        return (total if batch.mask is None else torch.where(batch.mask, total, 0.0)).sum()

    def _check(
        self, name: str, maps: Tensor, start: Tensor, weights: Tensor | None, first: bool
    ) -> None:
        if maps.shape != start.shape:
            raise TetherError(
                f"method {self.ctx.name!r}: the layer {name!r} gives {tuple(maps.shape)} in "
                f"training and {tuple(start.shape)} under the pretrained weights in evaluation "
                "mode: it drops positions in training; name an earlier layer"
            )
        channels = by_channel(maps, first).shape[2]
        if weights is not None and len(weights) != channels:
            raise TetherError(
                f"method {self.ctx.name!r}: the layer {name!r} has {channels} channels, its "
                f"weights {len(weights)}: give as many, or name another layer"
            )

    def edit_gradients(self) -> None:
        """Add the gradient of the head's decay."""
        add_gradients_(self.ctx, self._head, self.value("head_weight"), "l2")
