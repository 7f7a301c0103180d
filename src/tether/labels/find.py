"""``tether labels find``: from a run, or from anybody's probabilities, to a list of suspects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tether.data.table import DataSource
from tether.errors import ConfigError
from tether.files import write_json
from tether.labels.features import features_of, first_weights
from tether.labels.noise_rate import NoiseEstimate
from tether.labels.record import FOLDER, Record, read_record
from tether.labels.review.suspects import LABELS_FOLDER, SUMMARY_FILE, SUSPECTS_FILE, Suspect
from tether.labels.score import Scores, score_classes, score_labels
from tether.labels.signals import Signals, gather
from tether.labels.suspects import rows_of, write_suspects
from tether.tuning.opened import OpenedRun, open_run

#: From this probability of a wrong label on a sample counts as a suspect.
SUSPECT = 0.5


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        path: the list that was written.
        suspects: (row, suspect), the most suspicious first.
        summary: what ``labels/summary.json`` holds.
    """

    path: Path
    suspects: list[tuple[int, Suspect]]
    summary: dict[str, Any]


def find(
    run: str | Path, *, output: str | Path | None = None, pred_probs: str | Path | None = None,
    folds: int = 5, top: int | None = None, seed: int = 0, batch_size: int = 64,
) -> Found:  # fmt: skip
    """Rank the training samples of a run by the probability that their label is wrong.

    Args:
        run: a finished run of ``tether tune``.
        output: the list; by default ``RUN/labels/suspects.csv``.
        pred_probs: out-of-fold probabilities of any classifier, in the order of the training
            samples (:func:`tether.labels.pred_probs.read_pred_probs`): then only these count.
        folds: of the classifiers on features.
        top: write so many suspects; None: all training samples.
        seed: of folds and bootstrap.
        batch_size: samples of a forward.

    Raises:
        ConfigError: no finished run, no record and no probabilities, data that have changed, or
            labels that are numbers.
    """
    opened = open_run(run)
    source = _source(opened)
    given = labels_of(source)
    record: Record | None = None
    if pred_probs is not None:
        from tether.labels.pred_probs import read_pred_probs, signals_of

        shares = read_pred_probs(Path(pred_probs), len(given), len(source.class_names),
                                 several=given.ndim == 2)  # fmt: skip
        signals = signals_of(shares, given)
    else:
        record = _record(opened, source, given)
        features = _features(opened, batch_size)
        signals = gather(given, len(source.class_names), features, record, folds=folds, seed=seed)
    scores = score(signals, seed=seed)
    folder = opened.path / LABELS_FOLDER
    table = source.tables["train"]
    suspects = rows_of(
        signals, scores, source.class_names, table.ids, top=top, duplicates=lambda row: (),
        separator=opened.stage.label_separator or ";",
    )  # fmt: skip
    path = Path(output) if output is not None else folder / SUSPECTS_FILE
    summary = {
        "run": str(opened.path), "data": source.name, "task": source.task,
        "fingerprints": dict(source.fingerprints), "samples": len(table),
        "signals": list(signals.opinions), "suspects": int((scores.wrong >= SUSPECT).sum()),
        **noise_summary(scores.noise, source),
    }  # fmt: skip
    write_suspects(path, suspects)
    write_json(folder / SUMMARY_FILE, summary)
    return Found(path, suspects, summary)


def score(signals: Signals, *, seed: int = 0) -> Scores:
    """Scores of samples from their signals."""
    function = score_labels if signals.several else score_classes
    return function(signals.together(), signals.given, signals.unlearnt(), seed=seed)


def labels_of(source: DataSource) -> NDArray[np.int64]:
    """The given labels of the training samples.

    Raises:
        ConfigError: they are numbers.
    """
    labels = source.tables["train"].labels
    if source.task == "regression" or labels is None:
        raise ConfigError(
            f"data {source.name}: the labels are numbers, and only classes can be taken for one "
            "another"
        )
    return labels.astype(np.int64)


def _source(opened: OpenedRun) -> DataSource:
    return opened.assembly.source


def _record(opened: OpenedRun, source: DataSource, given: NDArray[np.int64]) -> Record:
    """The run's record, which must be of these samples and labels.

    Raises:
        ConfigError: there is none, or it is of other samples.
    """
    record = read_record(opened.path / FOLDER)
    before, now = record.about.get("fingerprints", {}), source.fingerprints
    there = record.given if record.given.ndim == 2 else np.where(record.given < 0, given,
                                                                 record.given)  # fmt: skip
    if before.get("train") != now.get("train") or there.shape != given.shape:
        raise ConfigError(
            f"run {opened.path}: the record is of other training data than {source.name} now; "
            "bring the data back, or train again"
        )
    unseen = (there < 0) if there.ndim == 2 else np.zeros(len(there), dtype=bool)
    other = int(((there != given) & ~unseen).reshape(len(given), -1).any(1).sum())
    if other:
        raise ConfigError(
            f"run {opened.path}: {other} labels of the training data have changed since it was "
            "trained; bring them back, or train again"
        )
    return record


def _features(opened: OpenedRun, batch_size: int) -> dict[str, NDArray[Any]]:
    """What the head sees of the training samples: with the run's weights, and its first ones."""
    made = opened.assembly
    table = made.source.tables["train"]
    tuned = features_of(made.loaded, table, batch_size=batch_size)
    with first_weights(opened) as loaded:
        pretrained = features_of(loaded, table, batch_size=batch_size)
    return {"pretrained": pretrained, "tuned": tuned}


def noise_summary(noise: Sequence[NoiseEstimate], source: DataSource) -> dict[str, Any]:
    """The estimate in plain values: of the classes, or of each label where there are several."""

    def plain(one: NoiseEstimate) -> dict[str, Any]:
        return {
            "noise_rate": one.rate, "noise_rate_interval": list(one.interval),
            "noise_rate_upper": one.upper,
            "level": one.level, "transition": one.transition.tolist(),
            "transition_low": one.low.tolist(), "transition_high": one.high.tolist(),
        }  # fmt: skip

    if source.task != "multi_label":
        return {"class_names": source.class_names, **plain(noise[0])}
    rates = [one.rate for one in noise]
    return {
        "class_names": source.class_names, "noise_rate": float(np.mean(rates)),
        "labels": {
            name: plain(one) for name, one in zip(source.class_names, noise, strict=True)
        },
    }  # fmt: skip
