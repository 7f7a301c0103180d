"""Data between their files and their tables: inputs, labels still as texts, splits by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tether.data.table import Notice
from tether.errors import ConfigError

#: A label as text; several of them where the data hold lists; "" where there is none.
Cell = str | tuple[str, ...]

ALIASES = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True)
class RawSplit:
    """Samples of one split as they were read.

    Attributes:
        inputs: as in :class:`tether.data.table.Table`.
        ids: as there, and unique over all splits.
        cells: for each sample the cells of its label columns; None where the split has none.
        domains: for each sample where it comes from, or None.
        true: for each sample the label that is known to be right, or None.
    """

    inputs: list[Any]
    ids: list[str]
    cells: list[tuple[Cell, ...]] | None
    domains: list[str] | None = None
    true: list[Cell] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Iterable[int]) -> RawSplit:
        """The samples of these rows, in this order."""
        at = list(rows)
        return replace(
            self,
            inputs=[self.inputs[i] for i in at],
            ids=[self.ids[i] for i in at],
            cells=None if self.cells is None else [self.cells[i] for i in at],
            domains=None if self.domains is None else [self.domains[i] for i in at],
            true=None if self.true is None else [self.true[i] for i in at],
        )


@dataclass
class RawData:
    """What one source holds before anything was decided about it.

    Attributes:
        kind: ``"image"``, ``"text"`` or ``"vector"``.
        splits: split -> its samples; ``train`` is always there.
        label_names: names of the label columns.
        classes: names of the classes in order of their index, where the source itself says so.
        folder: whether a sample's class is the name of its folder.
        notices: what was noticed while reading.
    """

    kind: str
    splits: dict[str, RawSplit]
    label_names: list[str]
    classes: list[str] | None = None
    folder: bool = False
    notices: list[Notice] = field(default_factory=list)


def split_of(name: str) -> str | None:
    """The split that a folder of this name holds, or a table file without its ending; or None."""
    stem, dot, ending = name.lower().rpartition(".")
    return ALIASES.get(stem if dot and ending in ("csv", "tsv", "parquet") else name.lower())


def by_split(names: Sequence[str], where: str) -> dict[str, str]:
    """Split -> the one of the names that stands for it.

    Raises:
        ConfigError: two names stand for the same split.
    """
    found: dict[str, str] = {}
    for name in names:
        split = split_of(name)
        if split is None:
            continue
        if split in found:
            raise ConfigError(
                f"{where} has both {found[split]!r} and {name!r}: which one is the {split} split? "
                "Move the other one away"
            )
        found[split] = name
    return found
