"""Read what is to be predicted; labels may be missing, or be of classes the model never saw."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tether.data.checks import apply_policy, examine_inputs
from tether.data.columns import cell, choose, label_columns
from tether.data.extra import load_inputs
from tether.data.files import SUFFIXES, Columns, read_table
from tether.data.load import read_source
from tether.data.raw import split_of
from tether.data.table import Notice, Table
from tether.errors import ConfigError
from tether.words import nearest

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig


def read_inputs(
    path: str | Path, kind: str, config: TuneConfig, *, class_names: Collection[str] = ()
) -> tuple[Table, list[str] | None, list[Notice]]:
    """Inputs of a file or a folder, in a fixed order.

    Images: one file, a folder at any depth, or a table with a column of paths. Texts: a ``.txt``
    file with a text on each line (blank lines are left out), or a table with a column of texts,
    or two of pairs. Rows of numbers: a ``.npy`` file. Tables are CSV, TSV or parquet files.

    Args:
        path: an existing file or folder.
        kind: ``"image"``, ``"text"`` or ``"vector"``: what the model reads.
        config: the column options and ``on_bad_sample`` are read. A label column that is not
            there is no error.
        class_names: classes of the model; folders are taken for labels if any bears such a name.

    Returns:
        the table, without labels; the labels as they are written there, "" where one is missing,
        None without any; and what was noticed.

    Raises:
        ConfigError: nothing to read, an unknown column, text that is not UTF-8, or an unreadable
            sample (unless ``on_bad_sample`` is ``"skip"``).
    """
    place = Path(path).expanduser()
    if kind == "vector":
        return _rows(place), None, []
    told = config
    if place.suffix.lower() in SUFFIXES and place.is_file():
        columns = read_table(place)
        told = replace(config, **_inputs(columns, kind, config))
        given = dict(zip(columns.ids, _labels(columns, told), strict=False))
    table, notices = load_inputs(str(place), told, kind=kind, split="data to predict")
    if place.is_dir():
        given = _folders(table.ids, class_names)
    elif place.suffix.lower() not in SUFFIXES:
        given = {}
    return table, [given[name] for name in table.ids] if given else None, notices


def read_all_splits(
    config: TuneConfig,
) -> tuple[str, Table, list[str] | None, list[Notice]]:
    """Every sample of every split of a data set, which may lack labels, or a split ``train``.

    Args:
        config: ``data``, the column options and ``on_bad_sample`` are read.

    Returns:
        ``"image"`` or ``"text"``, and what :func:`read_inputs` returns.

    Raises:
        ConfigError: as there, or no such data.
    """
    try:
        raw = read_source(config, labels=False)
    except OSError as error:
        raise ConfigError(f"data {config.data!r} cannot be read: {error.strerror}") from error
    inputs: list[Any] = []
    ids: list[str] = []
    given: list[str] = []
    notices: list[Notice] = []
    for split, data in raw.splits.items():
        _, problems = examine_inputs(raw.kind, data.inputs)
        rows, found = apply_policy(split, data.ids, problems, config.on_bad_sample)
        notices += found
        inputs += [data.inputs[row] for row in rows]
        ids += [f"{split}/{data.ids[row]}" for row in rows]
        cells = data.cells
        given += [_written(cells[row], config) if cells is not None else "" for row in rows]
    if not inputs:
        raise ConfigError(f"data {config.data!r} hold nothing that can be used")
    return raw.kind, Table(inputs, None, ids), given if any(given) else None, notices


def _written(cells: Sequence[str | Sequence[str]], config: TuneConfig) -> str:
    return config.label_separator.join(_flat(each, config) for each in cells)


def _rows(place: Path) -> Table:
    if place.suffix.lower() != ".npy" or not place.is_file():
        raise ConfigError(f"{place}: a model of rows of numbers reads an existing .npy file")
    try:
        rows = np.load(place, allow_pickle=False).astype(np.float32)
    except (ValueError, OSError, EOFError) as error:
        raise ConfigError(f"{place} holds no array of numbers: {error}") from error
    if rows.size == 0:
        raise ConfigError(f"{place} holds no numbers")
    rows = rows.reshape(len(rows), -1)
    return Table(list(rows), None, [f"{place.name}:{row}" for row in range(len(rows))])


def _inputs(columns: Columns, kind: str, config: TuneConfig) -> dict[str, Any]:
    """Changed options: the columns that hold the inputs, guessed beside the labels."""
    option = "image_column" if kind == "image" else "text_column"
    if getattr(config, option):
        return {}
    labels = ",".join(label_columns(columns, (), config)) if config.label_column else ""
    choice = choose(columns, replace(config, label_column=labels, domain_column=""), labels=False)
    if choice.kind != kind:
        raise ConfigError(
            f"{columns.name} holds {choice.kind}s ({choice.inputs[0]!r}), but the model reads "
            f"{kind}s; name their column with --{kind}-column{nearest(kind, columns.names)}"
        )
    return {option: ",".join(choice.inputs)}


def _labels(columns: Columns, config: TuneConfig) -> list[str]:
    inputs = [n.strip() for n in f"{config.text_column},{config.image_column}".split(",")]
    names = label_columns(columns, inputs, config)
    cells = [[cell(v, columns.classes.get(n)) for v in columns.get(n)] for n in names]
    return [_written(row, config) for row in zip(*cells, strict=True)]


def _flat(value: str | Sequence[str], config: TuneConfig) -> str:
    return value if isinstance(value, str) else config.label_separator.join(value)


def _folders(ids: Sequence[str], class_names: Collection[str]) -> dict[str, str]:
    """The class folder of every image, where there are such folders."""
    given = {}
    for name in ids:
        above = name.split("/")[:-1]
        if above and split_of(above[0]) is not None and above[0] not in class_names:
            above = above[1:]
        given[name] = above[0] if above else ""
    return given if set(given.values()) & set(class_names) else {}
