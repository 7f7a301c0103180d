"""From corrections to a new data set: ``tether labels apply``. Nothing is changed in place."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.data.columns import choose
from tether.data.files import read_table
from tether.data.labels import encode_labels
from tether.data.load import read_source
from tether.data.raw import RawData
from tether.errors import ConfigError
from tether.labels.apply_arrays import SUFFIX, write_arrays
from tether.labels.apply_folder import write_folder
from tether.labels.apply_table import Edit, moved_paths, tables_of, write_file, write_tables
from tether.labels.corrections import (
    PROTECTED,
    Change,
    Planned,
    between,
    plan,
    read_corrections,
    same,
)

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig


@dataclass
class Applied:
    """What became of corrections.

    Attributes:
        path: the new data.
        run: the run that they came from, where it is known.
        planned: which labels were changed, and which were not.
        copied: how many files were copied, because no hard link could be made.
        scores: split -> the run's accuracy with the labels before, and with those after; of
            validation and test where their labels were changed.
    """

    path: Path
    run: Path | None
    planned: Planned
    copied: int = 0
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)


def apply_corrections(
    corrections: str | Path, data: str | Path, output: str | Path, *,
    run: str | Path | None = None, include_test: bool = False, column: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> Applied:  # fmt: skip
    """Write data with corrected labels.

    An image folder becomes a new folder in which each corrected image lies in another class
    folder; files are hard links, or copies where the file system gives none. Tables (CSV, TSV,
    parquet, ``.npz``, or a folder of tables) are copied with their labels changed, or with a new
    column.

    Args:
        corrections: the journal of a review, or a CSV file with the columns ``id`` and ``label``.
        data: the data that were reviewed.
        output: the new folder or file; it must not be there yet, or be empty.
        run: the run that was reviewed, whose column options hold; by default the one that
            ``corrections`` lies in.
        include_test: change validation and test labels, too.
        column: tables: write labels to a new column of this name, not over the old ones.
        overrides: options that differ from the run's, such as ``label_column``.

    Raises:
        ConfigError: the corrections are of other data, change nothing, or name labels that do not
            exist; the output is there already; the data cannot be written anew.
    """
    path, source, target = Path(corrections), Path(data).expanduser(), Path(output).expanduser()
    decided = read_corrections(path)
    home = _run_of(path) if run is None else Path(run)
    config = _config(home, str(data), overrides or {})
    if not source.exists():
        raise ConfigError(
            f"data {data}: there is no such folder or file; corrections are applied to an image "
            "folder or a table on this machine"
        )
    _check_output(source, target)
    raw = read_source(config)
    planned = plan(decided, raw, config, include_test=include_test)
    if not planned.changes:
        left = f"; {len(planned.protected)} are of validation or test data" * bool(
            planned.protected
        )
        raise ConfigError(f"{path}: there is no label to change in the training data{left}")
    scores = _scores(home, planned.changes, raw, config) if include_test else {}
    copied = _write(source, raw, planned.changes, target, column, config)
    return Applied(target, home, planned, copied, scores)


def _run_of(corrections: Path) -> Path | None:
    """The run whose ``labels/`` the file lies in."""
    run = corrections.absolute().parent.parent
    inside = corrections.absolute().parent.name == "labels" and (run / "config.yaml").is_file()
    return run if inside else None


def _config(run: Path | None, data: str, overrides: Mapping[str, Any]) -> TuneConfig:
    from tether.tuning.config import load_config
    from tether.tuning.stage_spec import stage_configs

    if run is None:
        return load_config(None, overrides={**overrides, "data": data})
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"{run} holds no run: it has no config.yaml")
    last = stage_configs(load_config(run / "config.yaml"))[-1].config
    return load_config(replace(last, noise=""), overrides={**overrides, "data": data})


def _check_output(data: Path, output: Path) -> None:
    here, there = Path(os.path.realpath(data)), Path(os.path.realpath(output))
    if here == there:
        raise ConfigError(
            f"output {output} is the data: name a new place, nothing is changed there"
        )
    if here.is_dir() and there.is_relative_to(here):
        raise ConfigError(f"output {output} lies in the data {data}: name a place outside")
    if here.is_relative_to(there):
        raise ConfigError(f"the data {data} lie in the output {output}: name another place")
    if output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"output folder {output} is not empty: name a new one")
    if output.is_file() and output.stat().st_size:
        raise ConfigError(f"output {output} is there already: name a new file")
    if output.is_dir() != data.is_dir() and output.exists():
        kinds = ("file", "folder")
        raise ConfigError(
            f"output {output} is a {kinds[output.is_dir()]}; the data are a {kinds[data.is_dir()]}"
        )


def _write(
    data: Path, raw: RawData, changes: Sequence[Change], output: Path, column: str,
    config: TuneConfig,
) -> int:  # fmt: skip
    try:
        if raw.folder:
            if column:
                raise ConfigError("option column: an image folder has no columns")
            return write_folder(data, raw, changes, output)
        if data.suffix.lower() == SUFFIX:
            labels = {change.id: change.after for change in changes}
            write_arrays(data, raw, labels, output, column, config)
            return 0
        files = tables_of(data, raw)
        edit = _edit(files, raw, changes, output, column, config, alone=data.is_file())
        if data.is_file():
            write_file(data, edit, output)
        else:
            write_tables(data, files, edit, output)
        return 0
    except PermissionError as error:
        raise ConfigError(
            f"{error.filename or output} cannot be written: {error.strerror}"
        ) from None


def _edit(
    files: Sequence[Path], raw: RawData, changes: Sequence[Change], output: Path, column: str,
    config: TuneConfig, *, alone: bool,
) -> Edit:  # fmt: skip
    encoded = encode_labels(raw, config.task, config.label_separator)
    labels = {change.id: change.after for change in changes}
    edit = Edit(labels, raw.label_names, between(encoded, config), column)
    elsewhere = os.path.realpath(output.parent) != os.path.realpath(files[0].parent)
    if raw.kind != "image" or not alone or not elsewhere:
        return edit
    image = choose(read_table(files[0]), config).inputs[0]
    return replace(edit, paths=moved_paths(raw, output), image_column=image)


# -- validation and test ---------------------------------------------------------------------------


def _scores(
    run: Path | None, changes: Sequence[Change], raw: RawData, config: TuneConfig
) -> dict[str, tuple[float, float]]:
    """Accuracy of the run's predictions by the old labels, and by the new ones."""
    separator = between(encode_labels(raw, config.task, config.label_separator), config)
    found = {}
    for split in PROTECTED:
        after = {change.id: change.after for change in changes if change.split == split}
        if not after:
            continue
        path = run / f"predictions-{split}.csv" if run is not None else None
        if path is None or not path.is_file():
            raise ConfigError(
                f"{len(after)} labels of {split} are to be changed, so both scores must be told: "
                f"name the run with --run RUN ({path or f'predictions-{split}.csv'} is not there)"
            )
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or not {"id", "label", "predicted"} <= set(rows[0]):
            raise ConfigError(f"{path} holds no predictions with labels")
        before = [same(row["predicted"], row["label"], separator) for row in rows]
        now = [
            same(row["predicted"], after.get(row["id"], row["label"]), separator) for row in rows
        ]
        found[split] = (sum(before) / len(rows), sum(now) / len(rows))
    return found
