"""The tensor in a batch that methods on inputs change: where it stands, and how to replace it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tether.batch import Batch
from tether.errors import TetherError
from tether.measure.pixels import floating_input


def numbers_of(batch: Batch, who: str) -> tuple[int | str, Tensor]:
    """Place and value of the floating numbers that a model takes.

    Raises:
        TetherError: there are none, as with token ids.
    """
    place = floating_input(batch.args, batch.kwargs)
    if place is None:
        raise TetherError(
            f"{who!r} changes floating numbers, and a batch holds none: token ids cannot be moved "
            "a little; give the model inputs_embeds, or leave the method out"
        )
    return place, value_at(batch, place)


def images_of(batch: Batch, who: str) -> tuple[int | str, Tensor]:
    """Place and value of images ``[N, 1 or 3, H, W]``, floating or uint8.

    Raises:
        TetherError: there are none.
    """
    place = floating_input(batch.args, batch.kwargs)
    if place is None and batch.args and getattr(batch.args[0], "dtype", None) is torch.uint8:
        place = 0
    found = None if place is None else value_at(batch, place)
    if place is None or found is None or found.ndim != 4 or found.shape[1] not in (1, 3):
        what = "none" if found is None else f"inputs of shape {tuple(found.shape)}"
        raise TetherError(f"{who!r} changes images [N, 1 or 3, H, W], and a batch holds {what}")
    return place, found


def value_at(batch: Batch, place: int | str) -> Tensor:
    """An argument of the model's call."""
    found: Any = batch.args[place] if isinstance(place, int) else batch.kwargs[place]
    tensor: Tensor = found
    return tensor


def with_value(batch: Batch, place: int | str, value: Tensor) -> Batch:
    """The batch with another argument in the model's call; the given one stays as it is."""
    if isinstance(place, int):
        return replace(batch, args=(*batch.args[:place], value, *batch.args[place + 1 :]))
    return replace(batch, kwargs={**batch.kwargs, place: value})
