"""Data sets of the Hugging Face library: a folder that it wrote, or a name on the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.data.columns import read_columns, separate
from tether.data.files import Columns
from tether.data.raw import RawData, by_split
from tether.data.table import SPLITS, Notice
from tether.errors import ConfigError
from tether.optional import require
from tether.words import listed, printable

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

READABLE = (".json", ".jsonl", ".arrow", ".parquet", ".csv", ".tsv")


class ArrowColumn(Sequence[Any]):
    """A column of a data set, fetched row by row.

    Args:
        data: the data set.
        name: the column.
    """

    def __init__(self, data: Any, name: str) -> None:
        self.data, self.name = data.select_columns([name]), name

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: Any) -> Any:
        return self.data[row][self.name]


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def read_saved(folder: Path, config: TuneConfig, *, labels: bool = True) -> RawData:
    """A folder that ``save_to_disk`` wrote.

    Raises:
        ConfigError: it cannot be read.
    """
    datasets = require("datasets", "text")
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # of several packages below, by what is broken
        raise ConfigError(f"data set {folder} cannot be read: {printable(error, 300)}") from None
    return read_splits(found, str(folder), config, labels=labels)


def read_files(folder: Path, config: TuneConfig, *, labels: bool = True) -> RawData:
    """A folder of files that ``load_dataset`` knows (JSON lines, parquet shards, ...).

    Raises:
        ConfigError: it cannot make a data set of them.
    """
    datasets = require("datasets", "text")
    try:
        found = datasets.load_dataset(str(folder))
    except Exception as error:
        raise ConfigError(
            f"folder {folder} holds no images in class folders and no train.csv (tsv, parquet), "
            f"and the datasets library cannot read it either: {printable(error, 300)}"
        ) from None
    return read_splits(found, str(folder), config, labels=labels)


def read_hub(name: str, config: TuneConfig, *, labels: bool = True) -> RawData:
    """A data set of the hub: ``NAME`` or ``NAME:CONFIGURATION``.

    Raises:
        ConfigError: it is neither downloaded already nor within reach.
    """
    datasets = require("datasets", "text")
    from tether.models.build import hub_access

    known = datasets.config.HF_HUB_OFFLINE
    repository, _, part = name.partition(":")
    try:
        with hub_access() as reached:
            datasets.config.HF_HUB_OFFLINE = not reached  # a copy of the hub's own switch
            found = datasets.load_dataset(repository, part or None)
    except Exception as error:
        raise ConfigError(
            f"data {name!r}: there is no such file or folder here, and no such data set could be "
            f"had from the hub ({printable(error, 200)}). Give a path: an image folder, a CSV, TSV "
            "or parquet file, or a folder written by datasets' save_to_disk()"
        ) from None
    finally:
        datasets.config.HF_HUB_OFFLINE = known
    return read_splits(found, name, config, labels=labels)


def read_splits(found: Any, name: str, config: TuneConfig, *, labels: bool = True) -> RawData:
    """The splits of a data set, or of a dictionary of them.

    Args:
        found: as the datasets library gives it.
        name: for messages.
        config: its column options are read.
        labels: whether labels are wanted; if not, every split is read, whatever its name.
    """
    if not hasattr(found, "keys"):
        tables = separate(as_columns(found, name, "train"))
        return read_columns(tables, config, labels=labels)
    if not labels:
        tables = {split: as_columns(found[split], name, split) for split in found}
        return read_columns(tables, config, labels=False)
    splits = by_split(list(found.keys()), f"data set {name}")
    if "train" not in splits:
        raise ConfigError(f"data set {name} has no split train; it has {listed(list(found))}")
    tables = {
        split: as_columns(found[splits[split]], name, splits[split])
        for split in SPLITS
        if split in splits
    }
    raw = read_columns(tables, config)
    others = [key for key in found if key not in splits.values()]
    if others:
        what = "splits that are neither train, validation nor test were left out"
        raw.notices.append(Notice("ignored_split", "", len(others), what, others[:5]))
    return raw


def _roots(name: str) -> tuple[Path, ...]:
    """A local folder, and where the libraries keep what they downloaded or unpacked of it."""
    datasets, hub = require("datasets", "text"), require("huggingface_hub.constants", "text")
    kept = (datasets.config.HF_DATASETS_CACHE, hub.HF_HUB_CACHE)
    own = [Path(name)] if Path(name).is_dir() else []
    return tuple(Path(os.path.abspath(root)) for root in (*own, *kept))


def as_columns(data: Any, name: str, split: str) -> Columns:
    """One data set as columns; images stay where they are until they are needed."""
    datasets = require("datasets", "text")
    classes: dict[str, list[str]] = {}
    images = set()
    for column, feature in data.features.items():
        inner = getattr(feature, "feature", feature)  # of a list
        if isinstance(inner, datasets.ClassLabel):
            classes[column] = list(inner.names)
        elif isinstance(feature, datasets.Image):
            images.add(column)
            data = data.cast_column(column, datasets.Image(decode=False))

    def get(column: str) -> Sequence[Any]:
        return ArrowColumn(data, column) if column in images else list(data[column])

    ids = [f"{split}[{row}]" for row in range(len(data))]
    return Columns(
        f"data set {name} ({split})", list(data.column_names), get, ids, None, classes,
        frozenset(images), _roots(name),
    )  # fmt: skip
