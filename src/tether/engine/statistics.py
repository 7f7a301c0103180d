"""Passes over the training data in evaluation mode, shared by all methods that ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tether.batch import Batch
from tether.engine.loader import split_batch, to_device
from tether.engine.state import distributed, rank, world_size
from tether.errors import TetherError

Update = Callable[[Batch], None]
Forward = Callable[[tuple[Any, ...], dict[str, Any]], tuple[Tensor, "Tensor | None"]]


class _ShareOfRank:
    """Batches of rows for one rank: every rank gets as many, padding is marked."""

    def __init__(self, size: int, batch_size: int) -> None:
        world = world_size()
        padded = -(-size // world) * world
        mine = range(rank(), padded, world)
        self.batches = [
            ([row % size for row in mine[at : at + batch_size]],
             [row < size for row in mine[at : at + batch_size]])
            for at in range(0, len(mine), batch_size)
        ]  # fmt: skip

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter([rows for rows, _ in self.batches])


def evaluation_batches(data: Any, device: torch.device) -> Iterator[tuple[Any, Tensor | None, Tensor | None]]:
    """(batch, rows, mask) over the whole data in row order, each rank its share."""
    loader = data if isinstance(data, DataLoader) else None
    dataset = loader.dataset if loader is not None else data
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        for batch in loader if loader is not None else data:
            yield to_device(batch, device), None, None
        return
    size = (loader.batch_size if loader is not None else None) or 64
    share = _ShareOfRank(len(dataset), size)
    ordered: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=share,  # type: ignore[arg-type]
        collate_fn=loader.collate_fn if loader is not None else None,
        num_workers=loader.num_workers if loader is not None else 0,
        generator=torch.Generator(),  # leaves the user's random numbers alone
    )
    for batch, (rows, real) in zip(ordered, share.batches, strict=True):
        index = torch.tensor(rows, device=device)
        mask = None if all(real) else torch.tensor(real, device=device)
        yield to_device(batch, device), index, mask


def run_passes(
    requests: list[tuple[Update, Callable[[], None]]], data: Any, device: torch.device,
    forward: Forward,
) -> None:  # fmt: skip
    """One pass: every batch goes to every update, then every finish runs once."""
    for batch, index, mask in evaluation_batches(data, device):
        args, kwargs, targets = split_batch(batch)
        logits, features = forward(args, kwargs)
        step = Batch(
            logits=logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits,
            targets=targets, labels=targets, index=index, features=features, mask=mask,
            args=args, kwargs=kwargs,
        )  # fmt: skip
        for update, _ in requests:
            update(step)
    for _, finish in requests:
        finish()


def training_targets(data: Any) -> Tensor:
    """Targets of the whole training set in row order, from its attributes or by reading it.

    Raises:
        TetherError: the data set is not map-style.
    """
    dataset = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TetherError("the targets of iterable data cannot be listed: use a map-style data set")
    tensors = getattr(dataset, "tensors", None)
    if isinstance(tensors, tuple) and len(tensors) >= 2:
        return torch.as_tensor(tensors[-1])
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        if found is not None and len(found) == len(dataset):
            return torch.as_tensor(found)
    rows = [torch.as_tensor(split_batch(dataset[row])[2]) for row in range(len(dataset))]
    return torch.stack(rows)


def gather_ranks(tensor: Tensor) -> Tensor:
    """``[world, ...]``: the tensor of every rank, in rank order."""
    if not distributed():
        return tensor.unsqueeze(0)
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    torch.distributed.all_gather(parts, tensor.contiguous())
    return torch.stack(parts)


def eval_mode(model: nn.Module) -> dict[nn.Module, bool]:
    """Put every module in evaluation mode; returns the flags to restore."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    return flags


def restore_mode(flags: dict[nn.Module, bool]) -> None:
    for module, training in flags.items():
        module.training = training
