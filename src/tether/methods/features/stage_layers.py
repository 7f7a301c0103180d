"""Layers whose outputs stand for a network's stages: those named, or a choice by depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.engine.context import Context

MOST = 4
_ASIDE = ("downsample", "shortcut", "projection")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Layer(NamedTuple):
    """A layer, and the number of its output's channels where its weights tell it."""

    name: str
    channels: int | None
    channels_first: bool


def choose_layers(ctx: Context, names: Sequence[str] | None) -> list[Layer]:
    """The named layers, each asked for with ``ctx.tap``; None chooses at most four.

    A stage or block of depth is represented by its last convolution, before its norm, where its
    last weight is one, else by its output. Of more than four, four are taken that end at equal
    steps, the last block among them.

    Raises:
        TetherError: no such layer (the nearest names are listed), or none to choose from.
    """
    chosen = _default_names(ctx) if names is None else list(names)
    if not chosen:
        raise TetherError(
            f"method {ctx.name!r} finds no layers below the head: name some with layers=[...]"
        )
    for name in chosen:
        ctx.tap(name)
    return [_layer(ctx.model, name) for name in chosen]


def _default_names(ctx: Context) -> list[str]:
    last: dict[str, str] = {}
    for ref in ctx.weights():
        aside = any(word in ref.name for word in _ASIDE) and ref.group in last
        if ref.role == "weight" and not ref.is_head and ref.group != "stem" and not aside:
            last[ref.group] = ref.name.rpartition(".")[0]
    modules = dict(ctx.model.named_modules())
    found = [
        module if isinstance(modules.get(module), _CONVOLUTIONS) or group not in modules else group
        for group, module in last.items()
    ]
    steps = [-(-(at + 1) * len(found) // MOST) - 1 for at in range(MOST)]
    return found if len(found) <= MOST else [found[step] for step in steps]


def _layer(model: nn.Module, name: str) -> Layer:
    module = dict(model.named_modules()).get(name)
    if module is None:  # behind a wrapper: its weights are not looked at
        return Layer(name, None, False)
    weights = [
        p
        for path, p in module.named_parameters()
        if p.ndim >= 2 and "relative_position" not in path
    ]
    channels = weights[-1].shape[0] if weights else None
    return Layer(name, channels, isinstance(module, _CONVOLUTIONS))


def output_of(taps: dict[str, Any], name: str, who: str) -> Tensor:
    """The output of a layer as float32 or wider; of several parts the first.

    Raises:
        TetherError: it is no tensor.
    """
    found = taps[name]
    if isinstance(found, (tuple, list)) and found:
        found = found[0]
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.ndim < 2:
        raise TetherError(
            f"method {who!r}: the layer {name!r} gives a {type(found).__name__}, not a tensor of "
            "features a sample: name another one with layers=[...]"
        )
    return found.to(torch.promote_types(found.dtype, torch.float32))
