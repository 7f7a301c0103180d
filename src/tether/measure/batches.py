"""Batches of any common form, taken apart into the model's arguments and the targets."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler

from tether.catalogue import ENTRIES
from tether.engine.loader import BatchStream, split_batch, to_device
from tether.errors import ConfigError, TetherError
from tether.measure.weights import device_of

#: Anything that gives batches ``(inputs, targets)``, inputs being a tensor, a tuple or list of the
#: model's arguments, or a dict of its keyword arguments; or dicts that hold the targets under
#: ``labels`` (``label``, ``targets``, ``target``, ``y``). A data set gives its samples instead.
Batches = Iterable[Any]

_DATASET_BATCH = 64


class Inputs(NamedTuple):
    """One batch: the model's arguments and the targets, on the model's device."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Tensor

    @property
    def rows(self) -> int:
        """How many samples it holds."""
        return int(self.targets.shape[0])

    def part(self, start: int, stop: int) -> Inputs:
        """Some of its samples.

        Args:
            start: the first.
            stop: one after the last.
        """
        if start <= 0 and stop >= self.rows:
            return self
        args, kwargs, targets = _rows(tuple(self), self.rows, start, stop)
        return Inputs(args, kwargs, targets)


def _rows(value: Any, rows: int, start: int, stop: int) -> Any:
    """The same rows of every tensor in a batch that has a row for each sample."""
    if isinstance(value, Tensor):
        return value[start:stop] if value.ndim and value.shape[0] == rows else value
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(_rows(part, rows, start, stop) for part in value)
    if hasattr(value, "items"):
        return {key: _rows(part, rows, start, stop) for key, part in value.items()}
    return value


def batches_of(
    model: nn.Module, data: Batches, *, max_samples: int | None = None
) -> Iterator[Inputs]:
    """The batches of some data in a fixed order, taken apart, on the model's device.

    A loader over a map-style data set is read in row order whatever its shuffling; one with a
    sampler of another kind is read as it is.

    Args:
        model: the inner model; its signature tells whether entries such as ``domains`` are its own.
        data: as :data:`Batches`, or a data set.
        max_samples: stop after so many, from 1; None takes all.

    Raises:
        ConfigError: a batch of another form, or a ``max_samples`` below 1.
    """
    if max_samples is not None and max_samples < 1:
        raise ConfigError(f"max_samples must be at least 1, got {max_samples}")
    device, own = device_of(model), _own_entries(model)
    left = max_samples
    for batch in _ordered(data):
        inputs = _split(to_device(batch, device), own, device)
        if left is not None:
            inputs = inputs.part(0, left)
            left -= inputs.rows
        if inputs.rows:
            yield inputs
        if left is not None and left <= 0:
            return


def _own_entries(model: nn.Module) -> set[str]:
    try:
        return set(ENTRIES) & set(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return set()


def _split(batch: Any, own: set[str], device: torch.device) -> Inputs:
    inputs: Any = batch[0] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    if hasattr(inputs, "items"):
        args, kwargs, targets = (), dict(inputs.items()), batch[1]
    elif isinstance(inputs, (tuple, list)):
        args, kwargs, targets = tuple(inputs), {}, batch[1]
    else:
        try:
            args, kwargs, targets = split_batch(batch)
        except TetherError as error:
            raise ConfigError(str(error)) from None
    kwargs = {k: v for k, v in kwargs.items() if k not in ENTRIES or k in own}
    try:
        targets = torch.as_tensor(targets, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"targets must be a tensor, not {type(targets).__name__}") from None
    if targets.ndim == 0:
        raise ConfigError("targets must hold one row a sample: give batches, not single samples")
    return Inputs(args, kwargs, targets)


def _ordered(data: Any) -> Iterator[Any]:
    if isinstance(data, DataLoader):
        plain = isinstance(data.sampler, (SequentialSampler, RandomSampler))
        if isinstance(data.dataset, IterableDataset) or not plain or data.batch_size is None:
            states = [(g, g.get_state()) for g in _generators(data)]
            try:
                yield from data
            finally:
                for generator, state in states:
                    generator.set_state(state)
            return
        yield from DataLoader(
            data.dataset, batch_size=data.batch_size, collate_fn=data.collate_fn,
            num_workers=data.num_workers, worker_init_fn=data.worker_init_fn,
            generator=torch.Generator(),
        )  # fmt: skip
    elif isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        yield from DataLoader(data, batch_size=_DATASET_BATCH, generator=torch.Generator())
    elif hasattr(data, "__iter__"):
        yield from data
    else:
        raise ConfigError(f"data must give batches, a {type(data).__name__} does not")


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    """Those that a loader and its samplers draw from."""
    inner = getattr(loader.batch_sampler, "sampler", None)
    found = [*BatchStream._generators(loader).values(), getattr(inner, "generator", None)]
    return [generator for generator in found if isinstance(generator, torch.Generator)]
