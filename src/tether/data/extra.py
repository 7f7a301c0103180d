"""Data beside the labelled ones: inputs without labels, and preference pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tether.data.checks import Problem, apply_policy, examine_inputs
from tether.data.columns import choose, take
from tether.data.files import SUFFIXES, Columns, read_table, read_text
from tether.data.folder import read_images
from tether.data.raw import RawSplit
from tether.data.table import Notice, Table
from tether.errors import ConfigError
from tether.optional import require
from tether.words import listed, nearest

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

_WORDS = {"image": "images", "text": "texts", "vector": "rows of numbers"}


def load_inputs(
    path: str, config: TuneConfig, *, kind: str, split: str = "unlabelled"
) -> tuple[Table, list[Notice]]:
    """Inputs without labels: to predict, or for methods that learn from them.

    Args:
        path: a folder of images (to any depth); a CSV, TSV or parquet file of texts or image
            paths, label columns are not needed; a ``.txt`` file with a text a line; a folder that
            the datasets library wrote; one image.
        config: its column options and ``on_bad_sample`` are read.
        kind: what the model reads, ``"image"`` or ``"text"``.
        split: what to call them in messages.

    Raises:
        ConfigError: nothing is there, it cannot be read, or it is of another kind.
    """
    if path.startswith("demo:"):
        return _demo(path, config, kind), []
    place = Path(path).expanduser().absolute()
    if not place.exists():
        near = nearest(place.name, _beside(place))
        raise ConfigError(f"{split}: there is no file or folder {path!r}{near}")
    raw, found = _read(place, config)
    if found != kind:
        raise ConfigError(f"{split}: {path} holds {_WORDS[found]}, but {_WORDS[kind]} are expected")
    _, problems = examine_inputs(kind, raw.inputs)
    rows, notices = apply_policy(split, raw.ids, problems, config.on_bad_sample)
    if not rows:
        raise ConfigError(f"{split}: {path} holds nothing that can be used")
    return Table([raw.inputs[i] for i in rows], None, [raw.ids[i] for i in rows]), notices


def _demo(path: str, config: TuneConfig, kind: str) -> Table:
    from tether.data.demo import load_demo

    if kind != "vector":
        raise ConfigError(f"{path} holds {_WORDS['vector']}, but {_WORDS[kind]} are expected")
    table = load_demo(path.removeprefix("demo:"), config.seed).tables["test"]
    return replace(table, labels=None)


def _read(place: Path, config: TuneConfig) -> tuple[RawSplit, str]:
    from tether.data.hub import as_columns, is_saved

    if place.is_dir() and is_saved(place):
        datasets = require("datasets", "text")
        data = datasets.load_from_disk(str(place))
        split = next(iter(data)) if hasattr(data, "keys") else ""
        return _inputs(as_columns(data[split] if split else data, str(place), split), config)
    if place.is_dir():
        return read_images(place), "image"
    suffix = place.suffix.lower()
    if suffix in SUFFIXES:
        return _inputs(read_table(place), config)
    if suffix in (".txt", ""):
        # not str.splitlines: a text may hold form feeds, U+2028 and other ends of lines
        whole = enumerate(read_text(place).split("\n"), start=1)
        lines = [(number, line.removesuffix("\r")) for number, line in whole]
        kept = [(number, line) for number, line in lines if line.strip()]
        ids = [f"{place.name}:{number}" for number, _ in kept]
        return RawSplit([line for _, line in kept], ids, None), "text"
    from tether.data.images import is_image_name

    if is_image_name(place.name):
        return RawSplit([place], [place.name], None), "image"
    raise ConfigError(f"{place}: not an image, nor a file that ends in .txt, {', '.join(SUFFIXES)}")


def _inputs(columns: Columns, config: TuneConfig) -> tuple[RawSplit, str]:
    choice = choose(columns, replace(config, domain_column="", label_column=""), labels=False)
    return take(columns, choice, labelled=False), choice.kind


def load_pairs(path: str, policy: str) -> tuple[list[tuple[str, str, str]], list[Notice]]:
    """Preference pairs: (prompt or "", chosen, rejected).

    Args:
        path: a CSV, TSV or parquet file with the columns chosen and rejected, and prompt perhaps.
        policy: what to do about empty texts, ``"skip"`` or ``"fail"``.

    Raises:
        ConfigError: the file or a column is not there, or nothing is left.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        near = nearest(place.name, _beside(place))
        raise ConfigError(f"option pairs: there is no file {path!r}{near}")
    columns = read_table(place)
    for name in ("chosen", "rejected"):
        if name not in columns.names:
            raise ConfigError(
                f"option pairs: {path} has no column {name!r}; it has "
                f"{listed(columns.names, most=40)}"
            )

    def texts(name: str) -> list[str]:
        return ["" if value is None else str(value) for value in columns.get(name)]

    chosen, rejected = texts("chosen"), texts("rejected")
    prompts = texts("prompt") if "prompt" in columns.names else [""] * len(columns)
    problems = [
        Problem("empty_text", row, "one of the two texts is empty")
        for row in range(len(columns))
        if not chosen[row].strip() or not rejected[row].strip()
    ]
    rows, notices = apply_policy("pairs", columns.ids, problems, policy)
    if not rows:
        raise ConfigError(f"option pairs: {path} holds no pairs")
    return [(prompts[row], chosen[row], rejected[row]) for row in rows], notices


def _beside(place: Path) -> list[str]:
    return [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
