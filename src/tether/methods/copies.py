"""Frozen copies of the model that hold the weights of a teacher."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tether.errors import ConfigError, TetherError

if TYPE_CHECKING:
    from tether.engine.context import Context


def filled_copy(ctx: Context, teacher: str | nn.Module) -> nn.Module:
    """A frozen copy of the model with a teacher's weights; its head may be another.

    Raises:
        TetherError: no such file, or weights of another shape.
    """
    if any(hasattr(ref.param, "_local_tensor") for ref in ctx.weights()):
        raise TetherError(f"{ctx.name!r}: under fully_shard the teacher can only be 'start'")
    saved = teacher.state_dict() if isinstance(teacher, nn.Module) else _read(ctx.name, teacher)
    net = copy.deepcopy(ctx.model).requires_grad_(False)
    heads = {ref.name for ref in ctx.weights() if ref.is_head}
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            given = saved.get(name)
            if given is not None and given.shape == tensor.shape:
                tensor.copy_(given)
            elif name not in heads:
                shape = "no such tensor" if given is None else f"the shape {tuple(given.shape)}"
                raise TetherError(
                    f"{ctx.name!r}: the teacher is another model: for {name!r} of shape "
                    f"{tuple(tensor.shape)} it has {shape}"
                )
    return net


def _read(who: str, teacher: str) -> dict[str, Tensor]:
    from tether.models.weights import read_weights

    place = Path(teacher).expanduser()
    for inner in ("model/model.safetensors", "model.safetensors"):
        if place.is_dir() and (place / inner).is_file():
            place = place / inner
    try:
        return read_weights(place)
    except ConfigError as error:
        raise TetherError(f"{who!r}: teacher={teacher!r}: {error}") from None
