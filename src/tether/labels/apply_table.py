"""Tables anew, with some labels changed in their column or beside it."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.data.files import SUFFIXES, delimiter_of, read_csv, read_text
from tether.data.labels import as_whole
from tether.data.raw import RawData
from tether.errors import ConfigError
from tether.files import replaced_file, replaced_folder
from tether.labels.apply_folder import all_files, link_or_copy
from tether.labels.review.suspects import split_label
from tether.optional import require
from tether.words import listed

_TRUTH = {"0": "1", "1": "0", "false": "true", "true": "false"}


@dataclass(frozen=True)
class Edit:
    """How tables are changed.

    Attributes:
        labels: id -> new label, of the samples that get one.
        label_columns: the columns that hold labels.
        separator: between several labels of a cell; "" where a sample has one.
        column: a new column for all labels, old and new; "": in place of the old ones.
        paths: id -> how the file of an image is named from the new place; empty where that stays.
        image_column: the column of those.
    """

    labels: Mapping[str, str]
    label_columns: Sequence[str]
    separator: str
    column: str = ""
    paths: Mapping[str, str] | None = None
    image_column: str = ""


def tables_of(data: Path, raw: RawData) -> list[Path]:
    """The files that the samples come from.

    Raises:
        ConfigError: they are not tables that can be written.
    """
    folder = data if data.is_dir() else data.parent
    names = {name.rpartition(":")[0] for split in raw.splits.values() for name in split.ids}
    files = [folder / name for name in sorted(names)]
    if not all(path.suffix.lower() in SUFFIXES and path.is_file() for path in files):
        raise ConfigError(
            f"data {data}: only image folders and tables ({', '.join(SUFFIXES)}, .npz) can be "
            "written anew; save the data as one of them first"
        )
    return files


def write_file(source: Path, edit: Edit, output: Path) -> None:
    """One table, written whole or not at all.

    Raises:
        ConfigError: the new file is of another kind, or its column is there already.
    """
    if output.suffix.lower() != source.suffix.lower():
        raise ConfigError(
            f"output {output}: the data are a {source.suffix} file; name a file that ends so"
        )
    with replaced_file(output) as fresh:
        _write(source, edit, fresh)


def write_tables(data: Path, files: Sequence[Path], edit: Edit, output: Path) -> None:
    """A folder of tables, written whole or not at all; what else is in it is linked."""
    with replaced_folder(output) as fresh:
        for path in all_files(data):
            target = fresh / path.relative_to(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path not in files:
                link_or_copy(path, target)
            elif any(name.startswith(f"{path.name}:") for name in edit.labels) or edit.column:
                _write(path, edit, target)
            else:
                shutil.copy2(path, target)


def moved_paths(raw: RawData, output: Path) -> dict[str, str]:
    """Id -> the file of an image as seen from the folder of the new table."""
    base = output.absolute().parent
    return {
        name: Path(os.path.relpath(value, base)).as_posix()
        for split in raw.splits.values()
        for name, value in zip(split.ids, split.inputs, strict=True)
        if isinstance(value, Path)
    }


# -- cells -----------------------------------------------------------------------------------------

Get = Callable[[str], Sequence[Any]]


def _edited(edit: Edit, names: Sequence[str], ids: Sequence[str], get: Get) -> dict[str, list[Any]]:
    """Column -> its values, of those columns that change."""
    here = [name for name in edit.label_columns if name in names]
    changed: dict[str, list[Any]] = {}
    if edit.column:
        if edit.column in names:
            raise ConfigError(f"option column: there is a column {edit.column!r} already")
        if len(edit.label_columns) > 1:
            raise ConfigError("option column: the labels stand in several columns")
        if not here:
            return {}
        changed[edit.column] = [
            edit.labels.get(name, value) for name, value in zip(ids, get(here[0]), strict=True)
        ]
    elif len(edit.label_columns) > 1:
        for column in here:
            changed[column] = [
                _truth(value, column in split_label(edit.labels[name], edit.separator))
                if name in edit.labels else value
                for name, value in zip(ids, get(column), strict=True)
            ]  # fmt: skip
    elif here:
        changed[here[0]] = [
            edit.labels.get(name, value) for name, value in zip(ids, get(here[0]), strict=True)
        ]
    if edit.paths and edit.image_column in names:
        changed[edit.image_column] = [
            value if Path(str(value)).is_absolute() else edit.paths.get(name, value)
            for name, value in zip(ids, get(edit.image_column), strict=True)
        ]
    return changed


def _truth(value: Any, wanted: bool) -> Any:
    """0 or 1, as the column writes it."""
    text = as_whole(str(value).strip())
    truth = text.lower() in ("1", "true")
    if truth == wanted:
        return value
    if not isinstance(value, str):
        return type(value)(wanted)
    other = _TRUTH[text.lower()]
    return other.capitalize() if text[:1].isupper() else other


# -- files -----------------------------------------------------------------------------------------


def _write(source: Path, edit: Edit, target: Path) -> None:
    (_write_parquet if source.suffix.lower() == ".parquet" else _write_csv)(source, edit, target)


def _write_csv(source: Path, edit: Edit, target: Path) -> None:
    columns = read_csv(source)
    changed = _edited(edit, columns.names, columns.ids, columns.get)
    names = [*columns.names, *(name for name in changed if name not in columns.names)]
    values = [changed[name] if name in changed else columns.get(name) for name in names]
    text = read_text(source)
    # a carriage return inside a field is put in quotes only where lines end in one
    end = "\r\n" if "\r" in text else "\n"
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter_of(source, text), lineterminator=end)
        writer.writerow(names)
        writer.writerows(zip(*values, strict=True))


def _write_parquet(source: Path, edit: Edit, target: Path) -> None:
    arrow, parquet = require("pyarrow", "text"), require("pyarrow.parquet", "text")
    table = parquet.read_table(source)
    ids = [f"{source.name}:{row}" for row in range(table.num_rows)]
    names = table.schema.names
    changed = _edited(edit, names, ids, lambda name: table.column(name).to_pylist())
    for name, values in changed.items():
        old = name if name in names else next(n for n in edit.label_columns if n in names)
        kind = table.schema.field(old).type
        try:
            column = arrow.array([_typed(value, kind, edit, arrow) for value in values], type=kind)
        except (arrow.ArrowException, ValueError) as error:
            raise ConfigError(f"{source}: column {old!r} cannot hold the labels: {error}") from None
        if name in names:
            place = names.index(name)
            table = table.set_column(place, table.schema.field(place), column)
        else:
            table = table.append_column(name, column)
    parquet.write_table(table, target)


def _typed(value: Any, kind: Any, edit: Edit, arrow: Any) -> Any:
    """A new label, which is a text, as the column holds labels; old ones are as they should be."""
    if not isinstance(value, str):
        return value
    if arrow.types.is_list(kind) or arrow.types.is_large_list(kind):
        parts = split_label(value, edit.separator)
        return [_typed(part, kind.value_type, edit, arrow) for part in parts]
    if arrow.types.is_boolean(kind):
        return value in ("1", "true")
    if arrow.types.is_integer(kind):
        return int(value)
    if arrow.types.is_floating(kind):
        return float(value)
    return value


def check_columns(edit: Edit, files: Sequence[Path]) -> None:
    """Refuse early what cannot be written.

    Raises:
        ConfigError: there is no label column to change.
    """
    if not edit.label_columns:
        raise ConfigError(f"{listed(files)}: no column holds labels; name it with --label-column")
