"""Calls of a model as methods repeat them: their inputs, labelled or not, with one changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tether.batch import Batch
from tether.errors import TetherError


def call_of(batch: Batch, source: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the model for the inputs of the batch, or for its unlabelled ones."""
    if source == "train":
        return batch.args, batch.kwargs
    given = batch.extras[source]
    if hasattr(given, "items"):
        return (), dict(given.items())
    return (given,), {}


def first_of(
    args: Sequence[Any], kwargs: Mapping[str, Any], *, ndim: int | None, floating: bool
) -> Tensor:
    """The first tensor of a kind among the arguments; ``input_ids`` before others.

    Raises:
        TetherError: there is none.
    """
    for value in (kwargs.get("input_ids"), *args, *kwargs.values()):
        if (
            isinstance(value, Tensor)
            and value.is_floating_point() is floating
            and ndim in (None, value.ndim)
        ):
            return value
    what = "floating" if floating else "whole"
    raise TetherError(f"no {what} numbers of the expected shape among the arguments of the model")


def replaced(
    args: Sequence[Any], kwargs: Mapping[str, Any], old: Tensor, new: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with one tensor in the place of another."""
    return (
        tuple(new if value is old else value for value in args),
        {name: new if value is old else value for name, value in kwargs.items()},
    )


def without_task(batch: Batch) -> Tensor:
    """Sample weights that leave nothing of the task loss, so that penalties train alone."""
    assert batch.sample_losses is not None
    return torch.zeros_like(batch.sample_losses.detach())
