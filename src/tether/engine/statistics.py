"""Passes over the training data in evaluation mode, shared by all methods that ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tether.batch import Batch
from tether.engine.checks import take_entries
from tether.engine.loader import split_batch, to_device
from tether.engine.state import distributed, kept_random_state, rank, world_size
from tether.engine.taps import as_logits, wide
from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.engine.handle import Handle

Update = Callable[[Batch], None]


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


def evaluation_batches(
    data: Any, device: torch.device
) -> Iterator[tuple[Any, Tensor | None, Tensor | None]]:
    """(batch, rows, mask) over the whole data in row order, each rank its share."""
    loader = data if isinstance(data, DataLoader) else None
    dataset: Any = loader.dataset if loader is not None else data
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        for batch in loader if loader is not None else data:
            yield to_device(batch, device), None, None
        return
    size = (loader.batch_size if loader is not None else None) or 64
    share = _ShareOfRank(len(dataset), size)
    ordered: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=share,
        collate_fn=loader.collate_fn if loader is not None else None,
        num_workers=loader.num_workers if loader is not None else 0,
        generator=torch.Generator(),  # leaves the user's random numbers alone
    )
    for batch, (rows, real) in zip(ordered, share.batches, strict=True):
        index = torch.tensor(rows, device=device)
        mask = None if all(real) else torch.tensor(real, device=device)
        yield to_device(batch, device), index, mask


class StatisticsPass:
    """The pass that methods asked for: every batch to every update, then every finish once."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self._requests: list[tuple[Update, Callable[[], None]]] = []
        #: A pass that broke off has counted some rows: it cannot be run again.
        self._broken = False

    @property
    def pending(self) -> bool:
        return bool(self._requests)

    def request(self, who: str, update: Update, finish: Callable[[], None]) -> None:
        self.handle.need_train_data(who)
        self._requests.append((update, finish))

    def cancel(self) -> None:
        """A loaded state holds the outcome of the pass."""
        self._requests.clear()

    def run(self, loader: Any = None) -> None:
        """Make the pass; a loader over the training data tells how its samples are collated."""
        if not self._requests:
            return
        if self._broken:
            raise TetherError("the pass over the training data failed before: attach again")
        self._broken = True
        flags = {module: module.training for module in self.handle.inner.modules()}
        self.handle.inner.eval()
        try:
            with torch.no_grad(), kept_random_state(self.handle.device):
                for batch in self._batches(loader):
                    for update, _ in self._requests:
                        update(batch)
                for _, finish in self._requests:
                    finish()
        finally:
            restore_mode(flags)
        self._requests.clear()

    def _batches(self, loader: Any) -> Iterator[Batch]:
        handle, data = self.handle, self.handle.train_data
        if not isinstance(data, DataLoader) and isinstance(loader, DataLoader):
            data = DataLoader(data, loader.batch_size or 64, collate_fn=loader.collate_fn)
        yield from read_batches(handle, data)


def read_batches(handle: Handle, data: Any) -> Iterator[Batch]:
    """What the model, in its present mode, makes of data: each rank its share, in row order."""
    for given, index, mask in evaluation_batches(data, handle.device):
        args, kwargs, targets = split_batch(given)
        extras = take_entries(handle.maker.entries, kwargs)
        logits, raw, outputs = quiet_forward(handle, args, kwargs, None)
        logits = wide(logits)
        targets = handle.task.check(logits, targets)
        valid = handle.task.valid_tokens(targets)
        features = None if raw is None else handle.taps.pool(raw, valid, handle.pooling)
        yield Batch(
            logits=logits, targets=targets, labels=targets, index=index, features=features,
            mask=mask, args=args, kwargs=kwargs, taps=outputs, extras=extras,
        )  # fmt: skip


def quiet_forward(
    handle: Handle, args: Sequence[Any], kwargs: Mapping[str, Any],
    tensors: Mapping[str, Tensor] | None,
) -> tuple[Tensor, Tensor | None, dict[str, Any]]:  # fmt: skip
    """(logits, head input, named outputs) of the inner model, past its compiled form.

    The taps are left as they were.

    Args:
        handle: the attached model.
        args: the model's arguments.
        kwargs: its keyword arguments.
        tensors: parameters and buffers to call it with (by canonical name); None: its own.
    """
    taps, inner = handle.taps, handle.inner
    kept = dict(taps.store)
    taps.store.clear()
    taps.listening = True
    taps.repeating = handle.maker.repeats(args, kwargs)
    try:
        # compiled parts run as they are written: a compiled graph may not know the hooks
        with torch.compiler.set_stance("force_eager"):
            if tensors is None:
                output = inner(*args, **kwargs)
            else:
                own = taps.own_names(tensors)
                output = torch.func.functional_call(inner, own, tuple(args), dict(kwargs))
        logits, features = as_logits(output), taps.store.get("features")
        return logits, features, taps.take_outputs()
    finally:
        taps.listening = taps.repeating = False
        taps.store.clear()
        taps.store.update(kept)


def training_targets(data: Any) -> Tensor:
    """Targets of the whole training set in row order, from its attributes or by reading it.

    Raises:
        TetherError: the data set is not map-style.
    """
    dataset: Any = data.dataset if isinstance(data, DataLoader) else data
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


def restore_mode(flags: dict[nn.Module, bool]) -> None:
    for module, training in flags.items():
        module.training = training
