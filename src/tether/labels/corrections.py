"""Corrections that were decided, held against the data that they are of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tether.data.files import read_csv
from tether.data.labels import Encoded, encode_labels
from tether.data.raw import RawData
from tether.errors import ConfigError
from tether.labels.journal import COLUMNS, fold, read_journal
from tether.labels.review.suspects import split_label
from tether.words import listed, nearest, printable

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

PROTECTED = ("validation", "test")


@dataclass(frozen=True)
class Correction:
    """What was decided about one sample.

    Attributes:
        id: of the sample.
        split: where the decision saw it, or "".
        given: its label then, or None where the file does not tell.
        decision: ``"accept"``, ``"keep"``, ``"other"`` or ``"skip"``.
        label: what it should be; "" for ``"skip"``.
    """

    id: str
    split: str
    given: str | None
    decision: str
    label: str


@dataclass(frozen=True)
class Change:
    """A label that becomes another.

    Attributes:
        id: of the sample.
        split: of the data that it is in; ``"validation"`` also where the run took it from the
            training data.
        before: the label in the data.
        after: the new label.
    """

    id: str
    split: str
    before: str
    after: str


@dataclass
class Planned:
    """What corrections come to.

    Attributes:
        changes: labels that are to be changed.
        protected: changes of validation and test labels that are not made.
        kept: how many labels were found right.
        skipped: how many samples wait for a decision.
    """

    changes: list[Change]
    protected: list[Change]
    kept: int
    skipped: int

    def pairs(self) -> list[tuple[str, str, int]]:
        """(before, after, how many), the most frequent first."""
        counts = Counter((c.before, c.after) for c in self.changes)
        return [(a, b, n) for (a, b), n in counts.most_common()]


def read_corrections(path: Path) -> list[Correction]:
    """The decisions of a journal, or of any CSV file with the columns ``id`` and ``label``.

    In the latter a line without a label changes nothing.

    Raises:
        ConfigError: there is no such file, or it holds neither.
    """
    if not path.is_file():
        near = path.parent / "labels" / path.name
        hint = f"; there is {near}" if near.is_file() else ""
        raise ConfigError(f"there is no file of corrections {path}{hint}")
    first = path.read_bytes()[:4096].decode("utf-8-sig", "replace").partition("\n")[0].strip()
    if first == ",".join(COLUMNS):
        return [
            Correction(e.id, e.split, e.given, e.decision, e.label)
            for e in fold(read_journal(path)).values()
        ]
    columns = read_csv(path)
    if "id" not in columns.names or "label" not in columns.names:
        raise ConfigError(
            f"{path} holds no corrections: it has no columns 'id' and 'label', only "
            f"{listed(columns.names)}"
        )
    ids, labels = columns.get("id"), [str(label).strip() for label in columns.get("label")]
    splits = columns.get("split") if "split" in columns.names else [""] * len(ids)
    twice = [name for name, number in Counter(ids).items() if number > 1]
    if twice:
        raise ConfigError(f"{path} names some samples twice: {listed(twice)}")
    return [
        Correction(name, split, None, "other" if label else "skip", label)
        for name, split, label in zip(ids, splits, labels, strict=True)
    ]


def plan(
    corrections: list[Correction], raw: RawData, config: TuneConfig, *, include_test: bool
) -> Planned:
    """Which labels change, after every correction was held against the data.

    Args:
        corrections: one a sample.
        raw: the data.
        config: its task and label separator are read.
        include_test: change validation and test labels, too.

    Raises:
        ConfigError: a sample is not in the data, had another label when it was decided about, or
            should get a label that the data do not have.
    """
    encoded = encode_labels(raw, config.task, config.label_separator)
    if encoded.task == "regression":
        raise ConfigError(f"data {config.data}: the labels are numbers; only classes are corrected")
    separator = between(encoded, config)
    now = current_labels(raw, encoded, separator)
    _check(corrections, now, encoded, separator, config.data)
    planned = Planned([], [], 0, 0)
    for one in corrections:
        split, label = now[one.id]
        if one.decision == "skip":
            planned.skipped += 1
            continue
        if same(one.label, label, separator):
            planned.kept += 1
            continue
        away = one.split if one.split in PROTECTED else split
        change = Change(one.id, away, label or "", one.label)
        held = away in PROTECTED and not include_test
        (planned.protected if held else planned.changes).append(change)
    return planned


def between(encoded: Encoded, config: TuneConfig) -> str:
    """What separates the labels of a sample; "" where it has one."""
    return (config.label_separator or ";") if encoded.task == "multi_label" else ""


def same(one: str, other: str | None, separator: str) -> bool:
    """Whether two labels are made of the same names."""
    names = None if other is None else set(split_label(other, separator))
    return set(split_label(one, separator)) == names


def current_labels(
    raw: RawData, encoded: Encoded, separator: str
) -> dict[str, tuple[str, str | None]]:
    """Id -> split and label of every sample; None where it has no usable label."""
    names, found = encoded.class_names, {}
    for split, data in raw.splits.items():
        labels = encoded.labels[split]
        bad = {problem.row for problem in encoded.problems[split]}
        for row, name in enumerate(data.ids):
            if labels is None or row in bad:
                label = None
            elif encoded.task == "multi_label":
                label = separator.join(names[k] for k in labels[row].nonzero()[0])
            else:
                label = names[int(labels[row])]
            found[name] = (split, label)
    return found


def _check(
    corrections: list[Correction], now: dict[str, tuple[str, str | None]], encoded: Encoded,
    separator: str, data: str,
) -> None:  # fmt: skip
    unknown = [one.id for one in corrections if one.id not in now]
    if unknown:
        raise ConfigError(
            f"these corrections are of other data: {len(unknown)} of {len(corrections)} samples "
            f"are not in {data}, for instance {listed(unknown, 2)}"
        )
    other = [
        one for one in corrections
        if one.given is not None and now[one.id][1] is not None
        and not same(one.given, now[one.id][1], separator)
    ]  # fmt: skip
    if other:
        one = other[0]
        raise ConfigError(
            f"these corrections are of other labels than those in {data}: {len(other)} of "
            f"{len(corrections)} samples had another one when they were reviewed, for instance "
            f"'{printable(one.id)}': '{printable(one.given)}' then, "
            f"'{printable(now[one.id][1])}' now (a run with --noise learnt from labels that its "
            "data do not have)"
        )
    for one in corrections:
        lost = [n for n in split_label(one.label, separator) if n not in encoded.class_names]
        empty = not one.label and one.decision != "skip" and not separator
        if lost or empty:
            name = lost[0] if lost else ""
            raise ConfigError(
                f"'{printable(one.id)}' should get the label '{printable(name)}', which the "
                f"training data do not have{nearest(name, encoded.class_names)}"
            )
