"""Randomness that follows from names instead of history: transforms and orders keyed on a hash.

What an item looks like depends on (seed, epoch, row, view) alone: not on what was drawn before,
on the order, or on the process that makes it. A run that is broken off and goes on therefore sees
the very same samples.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tether.data.table import Table
from tether.errors import ConfigError, TetherError
from tether.words import printable

Encode = Callable[[Any], dict[str, Any]]

#: Keep what is keyed for different ends apart.
ITEM, ORDER, DOMAIN, UNLABELLED, PAIRS = range(5)
_MASK = 2**63 - 1


def key_of(*numbers: int) -> int:
    """64 bits that follow from some whole numbers."""
    packed = struct.pack(f"<{len(numbers)}q", *(number & _MASK for number in numbers))
    return int.from_bytes(blake2b(packed, digest_size=8).digest(), "little")


class Keyed:
    """Inside a ``with``, all global generators follow from a key; afterwards they go on as before.

    Torch's CPU generator, Python's and NumPy's are meant. They continue bit for bit, except that
    the second normal which NumPy's old ``np.random.normal`` keeps in hand is dropped: asking for
    that state would cost more than all the rest.

    Args:
        numbers: what the key is made of.
    """

    __slots__ = ("key", "numpy", "python", "torch")
    _own = np.random.MT19937(0)

    def __init__(self, *numbers: int) -> None:
        self.key = key_of(*numbers)

    def __enter__(self) -> None:
        self.torch = torch.default_generator.get_state()
        self.python = random.getstate()
        # NumPy's state is not copied: another generator takes its place meanwhile
        self.numpy = mtrand.get_bit_generator()
        torch.default_generator.manual_seed(self.key & _MASK)
        random.seed(self.key)
        mtrand.set_bit_generator(self._own)
        np.random.seed(self.key & 0xFFFFFFFF)

    def __exit__(self, *error: object) -> None:
        torch.default_generator.set_state(self.torch)
        random.setstate(self.python)
        mtrand.set_bit_generator(self.numpy)


class KeyedDataset(Dataset[dict[str, Any]]):
    """Samples of a table as the model takes them, randomly transformed by key.

    An item holds what ``encode`` gives, ``labels`` (where the table has them), and on request
    ``domains`` and ``views``.

    Args:
        table: the samples.
        encode: raw input -> the model's inputs by name. It may draw from torch's, Python's or
            NumPy's global generators.
        seed: of the run.
        train: whether what is drawn changes from epoch to epoch.
        views: how many views of a sample are wanted, the item's own among them; the entry
            ``views`` holds the others, each as ``encode`` gives it.
        domains: whether items hold ``domains``, the index of the sample's domain.
    """

    def __init__(
        self, table: Table, encode: Encode, *, seed: int, train: bool, views: int = 1,
        domains: bool = False,
    ) -> None:  # fmt: skip
        self.table, self.encode, self.seed = table, encode, int(seed)
        self.train, self.views = train, int(views)
        self.labels = None if table.labels is None else torch.as_tensor(table.labels)
        self.domains = None
        if domains:
            if table.domains is None:
                raise ConfigError("the data have no domains: give --domain-column NAME")
            self.domains = torch.as_tensor(table.domains)
        # in shared memory, so that workers which live through the epochs see it change
        self._epoch: Tensor = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch that random transforms follow from."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins, before its loader is iterated; workers learn of it as well."""
        self._epoch.fill_(int(epoch))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> dict[str, Any]:
        row = int(row)
        item = self._encode(row, 0)
        if self.labels is not None:
            item["labels"] = self.labels[row]
        if self.domains is not None:
            item["domains"] = self.domains[row]
        if self.views > 1:
            item["views"] = [self._encode(row, view) for view in range(1, self.views)]
        return item

    def _encode(self, row: int, view: int) -> dict[str, Any]:
        epoch = self.epoch if self.train else 0
        return encode_keyed(self.table, self.encode, row, (ITEM, self.seed, epoch, row, view))


def encode_keyed(
    table: Table, encode: Encode, row: int, numbers: tuple[int, ...]
) -> dict[str, Any]:
    """A sample as the model takes it, with the random numbers of a key.

    An ``encode`` whose ``draws`` is False is known to draw none, which saves setting them up.

    Raises:
        TetherError: the sample cannot be read any more; names it.
    """
    try:
        if not getattr(encode, "draws", True):
            return dict(encode(table.inputs[row]))
        with Keyed(*numbers):
            return dict(encode(table.inputs[row]))
    except OSError as error:
        raise TetherError(
            f"sample '{printable(table.ids[row], 200)}' cannot be read any more: {error}"
        ) from error


def keyed_permutation(length: int, *numbers: int) -> Tensor:
    """An order of so many rows that follows from a key."""
    generator = torch.Generator().manual_seed(key_of(*numbers) & _MASK)
    return torch.randperm(length, generator=generator)


#: The same order serves many steps; nobody may write into what it gives.
_kept_permutation = lru_cache(maxsize=4)(keyed_permutation)


def endless_rows(length: int, start: int, count: int, *numbers: int) -> list[int]:
    """Part of an endless series of orders of so many rows, one after another."""
    rows: list[int] = []
    while len(rows) < count:
        turn, place = divmod(start + len(rows), length)
        order = _kept_permutation(length, *numbers, turn)
        rows += order[place : place + count - len(rows)].tolist()
    return rows


class KeyedSampler(Sampler[int]):
    """Rows in an order that follows from seed and epoch alone.

    Args:
        num_samples: how many rows there are.
        seed: of the run.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        self.num_samples, self.seed, self.epoch = int(num_samples), int(seed), 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next order is for."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        order = keyed_permutation(self.num_samples, ORDER, self.seed, self.epoch)
        return iter(order.tolist())


class DomainBalancedSampler(Sampler[int]):
    """Rows in such an order that every batch holds equally many of each domain.

    An epoch has as many batches as before, all of them full. Each domain is gone through in one
    random order after another over the epochs: rows of small domains recur within an epoch, those
    of large ones may wait for the next.

    Args:
        domains: the domain index of each row.
        batch_size: rows of a batch; a multiple of the number of domains.
        seed: of the run.

    Raises:
        ConfigError: fewer than two domains, or they do not divide the batch.
    """

    def __init__(
        self, domains: NDArray[np.int64] | Sequence[int], batch_size: int, seed: int
    ) -> None:
        index = np.asarray(domains, dtype=np.int64)
        self.rows = [np.flatnonzero(index == domain) for domain in np.unique(index)]
        if len(self.rows) < 2:
            raise ConfigError("balanced batches need at least two domains in the training data")
        if batch_size % len(self.rows):
            several = -(-batch_size // len(self.rows)) * len(self.rows)
            raise ConfigError(
                f"option batch_size: {batch_size} samples cannot hold equally many of "
                f"{len(self.rows)} domains; take {several}"
            )
        self.batch_size, self.seed, self.epoch = int(batch_size), int(seed), 0
        self.num_batches = -(-len(index) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next order is for."""
        self.epoch = int(epoch)

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        each = self.batch_size // len(self.rows)
        count = self.num_batches * each
        drawn = [
            rows[endless_rows(len(rows), self.epoch * count, count, DOMAIN, self.seed, domain)]
            for domain, rows in enumerate(self.rows)
        ]
        batches = np.stack([rows.reshape(self.num_batches, each) for rows in drawn], axis=1)
        return iter(batches.ravel().tolist())
