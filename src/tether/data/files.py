"""CSV, TSV and parquet files as columns; strict about encoding and about ragged rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tether.errors import ConfigError
from tether.optional import require
from tether.words import listed, printable

SUFFIXES = (".csv", ".tsv", ".parquet")
_LONGEST_FIELD = 2**31 - 1  # what a C long holds everywhere


@dataclass(frozen=True)
class Columns:
    """A table as it was read.

    Attributes:
        name: how messages call it.
        names: the columns in their order.
        get: column -> its values.
        ids: a name for each row.
        base: the folder that paths in it start from.
        classes: column -> names of the classes its numbers stand for.
        images: columns that hold images themselves.
        roots: folders in which such an image may name a file instead.
    """

    name: str
    names: list[str]
    get: Callable[[str], Sequence[Any]]
    ids: list[str]
    base: Path | None = None
    classes: Mapping[str, list[str]] = field(default_factory=dict)
    images: frozenset[str] = frozenset()
    roots: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, rows: Sequence[int]) -> Columns:
        """Some of the rows."""
        return replace(
            self, ids=[self.ids[i] for i in rows], get=lambda name: _at(self.get(name), rows)
        )


def _at(values: Sequence[Any], rows: Sequence[int]) -> list[Any]:
    return [values[i] for i in rows]


def read_table(path: Path) -> Columns:
    """A CSV, TSV or parquet file.

    Raises:
        ConfigError: another kind of file, or one that cannot be read; says where it breaks.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"{path}: a table ends in {', '.join(SUFFIXES)}, not in {suffix or 'nothing'!r}"
        )
    try:
        return read_parquet(path) if suffix == ".parquet" else read_csv(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file; a byte-order mark is dropped.

    Raises:
        ConfigError: it is not UTF-8; names the line.
    """
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ConfigError(f"{path} is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # the error counts from behind a byte-order mark, which holds no line end
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        line = data.count(b"\n", 0, at) + 1
        raise ConfigError(
            f"{path}, line {line}: byte 0x{data[at]:02x} is not UTF-8; save the file as UTF-8 "
            "(for instance with: iconv -f cp1252 -t utf-8)"
        ) from None


def read_csv(path: Path) -> Columns:
    """A CSV or TSV file with a header.

    Raises:
        ConfigError: no header, columns of the same name, a row of another length, bad quotes.
    """
    text = read_text(path)
    delimiter = delimiter_of(path, text)
    try:
        rows = list(_records(text, delimiter))
    except csv.Error as error:
        if delimiter != "\t":
            raise ConfigError(f"{path}, {error}") from None
        rows = list(_records(text, delimiter, quotes=False))  # quotes are signs like any other
    if not rows:
        raise ConfigError(f"{path} is empty: a header line with the columns' names is expected")
    names = [name.strip() for name in rows[0][1]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{path}: several columns are called {listed(twice)}; rename them")
    ragged = [(line, len(row)) for line, row in rows[1:] if len(row) != len(names)]
    if ragged:
        line, found = ragged[0]
        more = f" (and so {len(ragged) - 1} further rows)" if len(ragged) > 1 else ""
        raise ConfigError(
            f"{path}, line {line}: {found} fields, but the header has {len(names)}{more}; a field "
            "that holds the separator must stand in quotes"
        )
    values = {name: [row[i] for _, row in rows[1:]] for i, name in enumerate(names)}
    ids = [f"{path.name}:{line}" for line, _ in rows[1:]]
    return Columns(str(path), names, values.__getitem__, ids, path.parent.absolute())


def delimiter_of(path: Path, text: str) -> str:
    """What separates the cells of a table: by its name, or else by its first lines."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    header = text.partition("\n")[0]
    if "," in header:
        return ","
    return next((sign for sign in "\t;" if sign in header), ",")


def _records(text: str, delimiter: str, *, quotes: bool = True) -> Iterator[tuple[int, list[str]]]:
    """(Line on which it begins, fields) of every row that is not blank."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        lines = io.StringIO(text, newline="")
        if quotes:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
        else:
            reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        start = 1
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise csv.Error(f"line {start}: {error}") from None
            if row is None:
                return
            if row:
                yield start, row
            start = reader.line_num + 1
    finally:
        csv.field_size_limit(before)


def read_parquet(path: Path) -> Columns:
    """A parquet file; columns are read when they are asked for.

    Raises:
        ConfigError: it is no parquet file, or pyarrow is not installed.
    """
    parquet = require("pyarrow.parquet", "text")
    arrow = require("pyarrow", "text")
    try:
        file = parquet.ParquetFile(path)
    except arrow.ArrowException as error:
        raise ConfigError(f"{path} is not a parquet file: {printable(error)}") from None
    schema = file.schema_arrow

    def get(name: str) -> list[Any]:
        values: list[Any] = file.read(columns=[name]).column(name).to_pylist()
        return values

    def holds_images(kind: Any) -> bool:
        if arrow.types.is_struct(kind):  # as the datasets library writes them
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))

    images = frozenset(f.name for f in schema if holds_images(f.type))
    ids = [f"{path.name}:{row}" for row in range(file.metadata.num_rows)]
    base = path.parent.absolute()
    return Columns(str(path), list(schema.names), get, ids, base, images=images, roots=(base,))
