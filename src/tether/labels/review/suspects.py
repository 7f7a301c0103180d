"""The suspects of a run, as ``tether labels find`` left them, and the data that they are of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.data.files import read_csv
from tether.data.load import load_data, read_source
from tether.data.table import DataSource, Table
from tether.errors import ConfigError
from tether.files import read_json
from tether.labels.review.samples import Samples
from tether.words import listed

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

LABELS_FOLDER, SUSPECTS_FILE, SUMMARY_FILE = "labels", "suspects.csv", "summary.json"
COLUMNS = (
    "id", "split", "row", "given", "suggested", "score", "confidence", "reasons",
    "neighbours_given", "neighbours_suggested", "duplicate_of",
)  # fmt: skip
_MOST_NEIGHBOURS = 5


@dataclass(frozen=True)
class Suspect:
    """A sample whose label looks wrong.

    Attributes:
        id: of the sample.
        split: where it is.
        given: its label.
        suggested: the label that it seems to be.
        score: how suspicious it is; the list is sorted by it.
        confidence: how sure the model is, or None.
        reasons: why it is on the list, in words.
        neighbours_given: ids of the most similar samples with the given label.
        neighbours_suggested: ids of the most similar samples with the suggested label.
        duplicate_of: ids of samples with the same content.
    """

    id: str
    split: str
    given: str
    suggested: str
    score: float | None = None
    confidence: float | None = None
    reasons: tuple[str, ...] = ()
    neighbours_given: tuple[str, ...] = ()
    neighbours_suggested: tuple[str, ...] = ()
    duplicate_of: tuple[str, ...] = ()


@dataclass
class Review:
    """What there is to review.

    Attributes:
        run: the run folder.
        data: how the data were called for.
        task: ``"single_label"`` or ``"multi_label"``.
        class_names: the labels that there are.
        separator: between several labels of one sample.
        suspects: in the order in which they should be looked at.
        samples: inputs of the suspects and of their neighbours.
        warnings: what the reviewer should know about the data.
        likely: how many of them are probably wrong; the list may go on after them.
    """

    run: Path
    data: str
    task: str
    class_names: list[str]
    separator: str
    suspects: list[Suspect]
    samples: Samples
    warnings: list[str] = field(default_factory=list)
    likely: int | None = None

    @property
    def folder(self) -> Path:
        """Where the run keeps what is about its labels."""
        return self.run / LABELS_FOLDER

    @property
    def name(self) -> str:
        """What tells this list of suspects from another one."""
        rows = [[s.id, s.given, s.suggested] for s in self.suspects]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    def label_names(self, label: str) -> list[str]:
        """The classes that a label of a suspect stands for."""
        return split_label(label, self.separator if self.task == "multi_label" else "")

    def check_label(self, label: str) -> None:
        """Refuse a label that the data do not have.

        Raises:
            ConfigError: there is no such class.
        """
        names = self.label_names(label)
        unknown = [name for name in names if name not in self.class_names]
        if unknown or (not names and self.task != "multi_label"):
            raise ConfigError(f"there is no label {listed(unknown or [label])} in {self.data}")


def split_label(label: str, separator: str) -> list[str]:
    """The names that a label is made of; without a separator it is one name.

    Example:
        >>> split_label("drama;comedy", ";"), split_label("a;b", ""), split_label("", ";")
        (['drama', 'comedy'], ['a;b'], [])
    """
    parts = label.split(separator) if separator else [label]
    return [part for part in (part.strip() for part in parts) if part]


def read_suspects(path: Path) -> list[Suspect]:
    """The rows of a ``suspects.csv``.

    Raises:
        ConfigError: there is no such file, it lacks a column, or an entry is no number.
    """
    if not path.is_file():
        raise ConfigError(
            f"there is no {path}: find the suspects first, with tether labels find "
            f"{path.parent.parent}"
        )
    columns = read_csv(path)
    missing = [name for name in COLUMNS[:5] if name not in columns.names and name != "row"]
    if missing:
        raise ConfigError(f"{path} is no list of suspects: it has no column {listed(missing)}")
    rows = {name: columns.get(name) for name in COLUMNS if name in columns.names}
    suspects = [
        _suspect({name: values[row] for name, values in rows.items()}, f"{path}, row {row + 1}")
        for row in range(len(columns))
    ]
    if not suspects:
        raise ConfigError(f"{path} lists no suspects: there is nothing to review")
    return suspects


def _suspect(row: Mapping[str, str], where: str) -> Suspect:
    def several(name: str) -> tuple[str, ...]:
        return tuple(part for part in row.get(name, "").split("|") if part)

    return Suspect(
        row["id"], row["split"], row["given"], row["suggested"],
        _number(row.get("score", ""), where), _number(row.get("confidence", ""), where),
        tuple(part.strip() for part in several("reasons")),
        several("neighbours_given")[:_MOST_NEIGHBOURS],
        several("neighbours_suggested")[:_MOST_NEIGHBOURS],
        several("duplicate_of")[:_MOST_NEIGHBOURS],
    )  # fmt: skip


def _number(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(f"{where}: '{text}' is not a number") from None
    return value if float("-inf") < value < float("inf") else None


# -- a run and its data ----------------------------------------------------------------------------


def open_review(run: str | Path, *, data: str = "") -> Review:
    """Read the suspects of a run and look up their samples.

    Args:
        run: the run folder.
        data: where the data are now, if they have moved.

    Raises:
        ConfigError: no run, no suspects, or the data have gone or are other ones.
    """
    from tether.tuning.opened import open_run

    opened = open_run(run)
    folder = opened.path / LABELS_FOLDER
    suspects = read_suspects(folder / SUSPECTS_FILE)
    config = opened.stage
    if data:
        config = replace(config, data=data)
    # One sample that went bad since must not stand in the way of all the others.
    source = load_data(replace(config, on_bad_sample="skip"))
    if source.task == "regression":
        raise ConfigError(f"{run}: the labels are numbers; only classes can be reviewed")
    summary = read_json(folder / SUMMARY_FILE) if (folder / SUMMARY_FILE).is_file() else {}
    before = summary.get("fingerprints")
    before = before if isinstance(before, dict) else opened.fingerprints
    wanted = _wanted(suspects)
    inputs = _inputs(config, source, wanted)
    separator = config.label_separator or ";"
    warnings = _changes(suspects, source, inputs, separator, before)
    review = Review(
        opened.path, source.name, source.task, source.class_names, separator, suspects,
        Samples(source.kind, wanted, inputs), warnings, _likely(summary, len(suspects)),
    )  # fmt: skip
    for label in {label for s in suspects for label in (s.given, s.suggested)}:
        review.check_label(label)
    return review


def _likely(summary: Mapping[str, Any], listed_here: int) -> int | None:
    number = summary.get("suspects")
    return number if type(number) is int and 0 < number < listed_here else None


def _wanted(suspects: Iterable[Suspect]) -> list[str]:
    names: dict[str, None] = {}
    for s in suspects:
        names.update(dict.fromkeys((s.id, *s.neighbours_given, *s.neighbours_suggested)))
    return list(names)


def _inputs(config: TuneConfig, source: DataSource, wanted: list[str]) -> dict[str, Any]:
    """Id -> input, also of samples that can no longer be read."""
    found: dict[str, Any] = {}
    for table in source.tables.values():
        found.update(zip(table.ids, table.inputs, strict=True))
    if any(name not in found for name in wanted) and not config.data.startswith("demo:"):
        for split in read_source(config, labels=False).splits.values():
            found = {**dict(zip(split.ids, split.inputs, strict=True)), **found}
    return found


def _changes(
    suspects: list[Suspect], source: DataSource, inputs: Mapping[str, Any], separator: str,
    before: Mapping[str, Any],
) -> list[str]:  # fmt: skip
    """What is different from when the suspects were found.

    Raises:
        ConfigError: these are other data, or other labels.
    """
    again = "find the suspects again, with tether labels find"
    gone = [s.id for s in suspects if s.id not in inputs]
    if len(gone) == len(suspects):
        raise ConfigError(
            f"data {source.name}: none of the suspects is in them, for instance {listed(gone, 2)}; "
            f"bring the data back, say where they are with --data, or {again}"
        )
    given = {split: _given(table, source) for split, table in source.tables.items()}
    labels = {name: label for names in given.values() for name, label in names.items()}
    between = separator if source.task == "multi_label" else ""
    other = [
        s.id for s in suspects
        if s.id in labels and labels[s.id] != set(split_label(s.given, between))
    ]  # fmt: skip
    if other:
        raise ConfigError(
            f"data {source.name}: the labels of {len(other)} of {len(suspects)} suspects have "
            f"changed since they were found, for instance of {listed(other, 2)}; {again}"
        )
    warnings = []
    if gone:
        warnings.append(f"{len(gone)} suspects are no longer in the data: {listed(gone, 3)}")
    changed = [n for n, now in source.fingerprints.items() if n in before and before[n] != now]
    if changed:
        warnings.append(f"the data have changed in {listed(changed)} since the suspects were found")
    return warnings


def _given(table: Table, source: DataSource) -> dict[str, set[str]]:
    """Id -> names of its labels."""
    if table.labels is None:
        return {}
    names = source.class_names
    if source.task == "multi_label":
        rows = [{names[k] for k in row.nonzero()[0]} for row in table.labels]
    else:
        rows = [{names[label]} for label in table.labels]
    return dict(zip(table.ids, rows, strict=True))
