"""Suspects as people read them: reasons in words, similar samples, rows of ``suspects.csv``."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tether.files import replaced_file
from tether.labels.review.suspects import COLUMNS, Suspect
from tether.labels.score import Scores
from tether.labels.signals import Signals, log_shares
from tether.words import printable

#: Neighbours that a row names, and rows that name some.
NAMED, SHOWN = 5, 5000
#: A loss counts as large when so few of its class have a larger one.
_LARGE = 0.05
_SURE = 0.5


class Reasons:
    """Says in words why a sample is suspected.

    Args:
        signals: of the training samples.
        scores: of the same samples.
        names: of the classes.
    """

    def __init__(self, signals: Signals, scores: Scores, names: Sequence[str]) -> None:
        self.signals, self.scores = signals, scores
        self.names = [printable(name, 40).replace("|", "/") for name in names]  # | parts reasons
        self._shares = {
            name: _probabilities(logs, signals.several) for name, logs in signals.opinions.items()
            if name.startswith(("classifier", "predicted"))
        }  # fmt: skip
        self._record = _Trajectory(signals) if signals.record is not None else None

    def __call__(self, row: int) -> list[str]:
        """The reasons of a sample, the strongest kinds first; may be none."""
        if self.signals.several:
            return self._of_labels(row)
        given, other = int(self.signals.given[row]), int(self.scores.suggested[row])
        told = []
        for name, shares in self._shares.items():
            best = int(shares[row].argmax())
            if best != given:
                told.append(f"{_SAYS.get(name, name)}: '{self.names[best]}' {shares[row, best]:.0%}"
                            f", '{self.names[given]}' {shares[row, given]:.0%}")  # fmt: skip
        if self.signals.near is not None:
            labels = self.signals.given[self.signals.near.rows[row]]
            mine, theirs = int((labels == given).sum()), int((labels == other).sum())
            if theirs > mine:
                told.append(f"of its {len(labels)} nearest samples {theirs} are "
                            f"'{self.names[other]}', {mine} '{self.names[given]}'")  # fmt: skip
        if self._record is not None:
            told += self._record.reasons(row, self.names)
        return told

    def _of_labels(self, row: int) -> list[str]:
        given, parts = self.signals.given[row], self.scores.label_wrong
        assert parts is not None
        told = []
        for label in np.flatnonzero(self.scores.suggested[row] != given):
            name = self.names[label]
            what = f"'{name}' is given" if given[label] else f"'{name}' is not given"
            told.append(f"{what}, wrong with {parts[row, label]:.0%}")
            for source, shares in self._shares.items():
                if (shares[row, label] > _SURE) != bool(given[label]):
                    told.append(f"{_SAYS.get(source, source)}: '{name}' {shares[row, label]:.0%}")
        return told


_SAYS = {
    "classifier on pretrained features": "a classifier on the pretrained features that never saw "
    "its label",
    "classifier on tuned features": "a classifier on the tuned features that never saw its label",
    "predicted": "predicted out of fold",
}


class _Trajectory:
    """What the record says of a sample with one label."""

    def __init__(self, signals: Signals) -> None:
        record = signals.record
        assert record is not None
        self.given = signals.given
        loss = record.column("loss")
        self.seen = np.isfinite(loss)
        self.predicted, self.target = record.column("predicted"), record.column("target")
        with np.errstate(invalid="ignore"):
            count = np.maximum(self.seen.sum(0), 1)
            self.mean = np.where(self.seen, loss, 0.0).sum(0) / count
        self.rank = np.ones(len(self.mean))
        for label in np.unique(self.given) if not signals.several else ():
            mine = np.flatnonzero(self.given == label)
            places = np.argsort(np.argsort(-self.mean[mine], kind="stable"), kind="stable")
            self.rank[mine] = (places + 1) / len(mine)

    def reasons(self, row: int, names: Sequence[str]) -> list[str]:
        seen = np.flatnonzero(self.seen[:, row])
        if not len(seen):
            return ["it was never trained on"]
        given, predicted = int(self.given[row]), self.predicted[seen, row]
        told = []
        others = predicted[predicted != given]
        if len(others) * 2 > len(seen):
            best = int(np.bincount(others).argmax())
            told.append(f"training took it for '{names[best]}' in {int((others == best).sum())} of "
                        f"{len(seen)} epochs")  # fmt: skip
        if self.rank[row] <= _LARGE and len(self.given) >= 1 / _LARGE:
            told.append(f"its mean loss {self.mean[row]:.2f} is among the largest "
                        f"{max(self.rank[row], 0.01):.0%} of its label")  # fmt: skip
        right = predicted == given
        forgotten = int((right[:-1] & ~right[1:]).sum())
        if forgotten > 1:
            told.append(f"it was learnt and forgotten {forgotten} times")
        target = int(self.target[seen[-1], row])
        if target != given:
            told.append(f"a method had corrected it to '{names[target]}'")
        return told


def _probabilities(logs: NDArray[np.float64], several: bool) -> NDArray[np.float64]:
    if several:
        return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logs)))
    return np.exp(log_shares(logs))


def rows_of(
    signals: Signals, scores: Scores, names: Sequence[str], ids: Sequence[str], *,
    split: str = "train", separator: str = ";", duplicates: Callable[[int], Sequence[str]],
    top: int | None = None,
) -> list[tuple[int, Suspect]]:  # fmt: skip
    """(row, suspect) of the samples, the most suspicious first; equal scores by their row.

    Args:
        signals: of the samples.
        scores: of the samples.
        names: of the classes.
        ids: of the samples.
        split: where they are.
        separator: between several labels.
        duplicates: row -> ids of samples with the same content.
        top: how many; None: all.
    """
    reasons, similar = Reasons(signals, scores, names), Similar(signals, ids)
    unlabelled = (signals.given < 0) if not signals.several else np.zeros(len(ids), dtype=bool)
    order = np.argsort(-scores.wrong, kind="stable")
    found = []
    for place, row in enumerate(order[~unlabelled[order]][:top].tolist()):
        given, other = signals.given[row], scores.suggested[row]
        shown = [similar(row, label) if place < SHOWN else () for label in (given, other)]
        found.append((row, Suspect(
            ids[row], split, _label(given, names, separator), _label(other, names, separator),
            float(scores.wrong[row]), float(scores.confidence[row]), tuple(reasons(row)),
            shown[0], shown[1], tuple(duplicates(row)[:NAMED]),
        )))  # fmt: skip
    return found


def _label(label: Any, names: Sequence[str], separator: str) -> str:
    if np.ndim(label):
        return separator.join(names[int(k)] for k in np.flatnonzero(label))
    return names[int(label)]


class Similar:
    """Ids of the samples of a label that are most like a sample.

    Args:
        signals: of the samples.
        ids: of the samples.
    """

    def __init__(self, signals: Signals, ids: Sequence[str]) -> None:
        self.signals, self.ids = signals, ids
        self._rows: dict[Any, NDArray[np.int64]] = {}

    def __call__(self, row: int, label: Any) -> tuple[str, ...]:
        """At most ``NAMED`` ids, the most similar first; none without features."""
        if self.signals.units is None:
            return ()
        rows = self._of(label)
        rows = rows[rows != row]
        cosines = (self.signals.units[rows] @ self.signals.units[row]).numpy()
        return tuple(self.ids[one] for one in rows[np.argsort(-cosines, kind="stable")[:NAMED]])

    def _of(self, label: Any) -> NDArray[np.int64]:
        """Rows with this label, or with exactly these labels."""
        key = tuple(label.tolist()) if np.ndim(label) else int(label)
        if key not in self._rows:
            same = self.signals.given == label
            self._rows[key] = np.flatnonzero(same.all(1) if same.ndim == 2 else same)
        return self._rows[key]


def write_suspects(path: Path, found: Sequence[tuple[int, Suspect]]) -> None:
    """Write ``suspects.csv`` whole or not at all.

    Args:
        path: the file.
        found: (row, suspect), in order.
    """
    with replaced_file(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(COLUMNS)
        for row, one in found:
            several = (one.reasons, one.neighbours_given, one.neighbours_suggested,
                       one.duplicate_of)  # fmt: skip
            out.writerow([
                one.id, one.split, row, one.given, one.suggested, f"{one.score:.6g}",
                f"{one.confidence:.6g}", *("|".join(parts) for parts in several),
            ])  # fmt: skip
