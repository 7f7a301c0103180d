"""The norm layers of a model that a pruning penalty presses on, and masks that were given."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.methods.weights.prune_masks import inner_norms, norm_layers
from tether.words import listed, nearest

if TYPE_CHECKING:
    from tether.engine.context import Context


def chosen_layers(
    ctx: Context, include: Sequence[str] | str | None, *, everything: bool = False
) -> tuple[dict[str, nn.Parameter], list[tuple[str, ...]]]:
    """Trainable scales by the name of their layer, and the groups of layers that are tied.

    Args:
        ctx: the engine's view.
        include: wildcards of norm layers; None: those between two kernels of one module.
        everything: take every norm layer.

    Raises:
        TetherError: no such layer, or all of them are frozen.
    """
    names = {id(ref.param): ref.name for ref in ctx.weights()}
    layers: dict[str, nn.Parameter] = {
        names[id(module.weight)].rpartition(".")[0]: module.weight
        for module in norm_layers(ctx.model).values()
        if id(module.weight) in names
    }
    tied = [group for group, _, _ in inner_norms(ctx.model)]
    patterns = [include] if isinstance(include, str) else include
    for pattern in patterns or ():
        if layers and not any(fnmatch.fnmatchcase(name, pattern) for name in layers):
            near = nearest(pattern, layers, most=3, listing=True)
            raise TetherError(f"{ctx.name}: no norm layer is called {pattern!r}{near}")
    if everything:
        found = list(layers)
    elif patterns is not None:
        found = [name for name in layers if any(fnmatch.fnmatchcase(name, p) for p in patterns)]
    else:
        found = [name for group in tied for name in group if name in layers]
    if not found:
        between = "between two layers of a block; name layers with include, or include='*'"
        without = "with a scale; group_envelope prunes networks without"
        raise TetherError(
            f"{ctx.name}: {type(ctx.model).__name__} has no batch or group norm "
            f"{between if layers else without}"
        )
    still = [name for name in found if not layers[name].requires_grad]
    if len(still) == len(found):
        raise TetherError(f"{ctx.name}: all norm layers that it would press on are frozen")
    if still:
        warnings.warn(f"{ctx.name}: {listed(still)} are frozen and left alone", stacklevel=3)
    trained = {name: layers[name] for name in found if name not in still}
    whole = [group for group in tied if len(group) > 1 and all(name in trained for name in group)]
    return trained, whole


def given_masks(
    given: Mapping[str, Any] | str | Path, layers: Mapping[str, nn.Parameter], who: str
) -> dict[str, Tensor]:
    """A mask for every layer from a dict or a file; layers that it lacks keep all channels.

    Raises:
        TetherError: an unreadable file, an unknown layer, a mask of another length, or of a
            whole layer.
    """
    if isinstance(given, (str, Path)):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            given = load_file(given)
        except (OSError, SafetensorError) as error:
            raise TetherError(f"{who}: prune_mask {str(given)!r} cannot be read: {error}") from None
    for name in given:
        if name not in layers:
            near = nearest(name, layers, most=3, listing=True)
            raise TetherError(f"{who}: prune_mask names the norm layer {name!r}{near}")
    masks = {}
    for name, gamma in layers.items():
        mask = torch.as_tensor(given.get(name, torch.zeros(len(gamma)))).bool()
        if mask.shape != gamma.shape or bool(mask.all()):
            raise TetherError(
                f"{who}: the mask of {name!r} must hold {len(gamma)} entries, not all of them "
                f"True, got shape {tuple(mask.shape)}"
            )
        masks[name] = mask
    return masks


def whole_scales(layers: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The scales, gathered from all ranks where they are sharded."""
    return {
        name: gamma.full_tensor() if hasattr(gamma, "full_tensor") else gamma
        for name, gamma in layers.items()
    }
