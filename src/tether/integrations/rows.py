"""The rows of the data set travel through a loader as the batch's entry ``sample_index``."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from tether.engine.loader import check_rows, iterating
from tether.errors import TetherError

SAMPLE_INDEX = "sample_index"


class _Numbered(NamedTuple):
    item: Any
    row: int


class _NumberedData(Dataset[_Numbered]):
    """A data set whose items know their row; else it looks like the one inside."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, row: int) -> _Numbered:
        return _Numbered(self.inner[row], row)

    def __getitems__(self, rows: Sequence[int]) -> list[_Numbered]:
        together = getattr(self.inner, "__getitems__", None)
        items = together(rows) if callable(together) else [self.inner[row] for row in rows]
        return [_Numbered(item, row) for item, row in zip(items, rows, strict=True)]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)


class _NumberedCollator:
    """Takes the rows off the items and puts them into the batch."""

    def __init__(self, inner: Callable[[list[Any]], Any]) -> None:
        self.inner = inner

    def __call__(self, numbered: list[_Numbered]) -> Any:
        batch = self.inner([each.item for each in numbered])
        if not isinstance(batch, MutableMapping):
            raise TetherError(
                f"the collator makes a {type(batch).__name__}: the rows of the samples travel in "
                "dict batches, so let it make a dict"
            )
        batch[SAMPLE_INDEX] = torch.tensor([each.row for each in numbered])
        return batch


def carry_rows(loader: Any, num_samples: int | None = None) -> None:
    """Let a loader's dict batches hold their rows as ``sample_index``.

    Data set and collator are wrapped where the loader draws from them: past what removes columns,
    and in worker processes as well. It must not iterate yet.

    Raises:
        TetherError: iterable data, or another data set than the one with ``num_samples`` rows.
    """
    inner = iterating(loader)
    if isinstance(inner.dataset, _NumberedData):
        return
    check_rows(loader, num_samples)
    inner.__dict__["dataset"] = _NumberedData(inner.dataset)  # past DataLoader's guard
    inner.collate_fn = _NumberedCollator(inner.collate_fn)
