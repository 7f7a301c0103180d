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
from tether.labels.duplicates import (
    Duplicate,
    counts,
    find_duplicates,
    of_training,
    write_duplicates,
)
from tether.labels.first_weights import first_weights
from tether.labels.neighbours import unit_rows
from tether.labels.noise_rate import NoiseEstimate
from tether.labels.pred_probs import read_pred_probs, signals_of
from tether.labels.record import FOLDER, Record, read_record
from tether.labels.review.suspects import LABELS_FOLDER, SUMMARY_FILE, SUSPECTS_FILE, Suspect
from tether.labels.score import Scores, score_classes, score_labels
from tether.labels.signals import Signals, gather
from tether.labels.suspects import rows_of, write_suspects
from tether.models.features import features_of
from tether.tuning.opened import OpenedRun, open_run

#: From this probability of a wrong label on a sample counts as a suspect.
SUSPECT = 0.5
DUPLICATES_FILE = "duplicates.csv"


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
    folds: int | None = None, top: int | None = None, seed: int = 0, batch_size: int = 64,
) -> Found:  # fmt: skip
    """Rank the training samples of a run by the probability that their label is wrong.

    Writes the list, ``RUN/labels/summary.json`` (noise rate, transition matrix, counts) and
    ``RUN/labels/duplicates.csv``. Nothing is trained but linear classifiers on features; every
    sample goes twice through the network, in evaluation mode.

    Args:
        run: a finished run of ``tether tune``.
        output: the list; by default ``RUN/labels/suspects.csv``.
        pred_probs: out-of-fold probabilities of any classifier, in the order of the training
            samples (:func:`tether.labels.pred_probs.read_pred_probs`): then only these count.
        folds: cross-validate classifiers on the pretrained features in so many folds, and let only
            these and the neighbours by these features count: no record of training is needed. By
            default all signals count, and there are 5 folds.
        top: write so many suspects; None: all training samples.
        seed: of folds and bootstrap.
        batch_size: samples of a forward.

    Returns:
        what was written.

    Raises:
        ConfigError: no finished run, no record and neither probabilities nor folds, data that have
            changed, or labels that are numbers.

    Example:
        >>> import tempfile
        >>> from tether.tuning.job import tune
        >>> folder = tempfile.TemporaryDirectory()
        >>> _ = tune({
        ...     "model": "demo:digits", "data": "demo:digits", "epochs": 4, "lr": 0.01,
        ...     "output_dir": folder.name + "/run",
        ... })
        >>> found = find(folder.name + "/run", top=10)
        >>> len(found.suspects), 0.2 < found.summary["noise_rate"] < 0.5
        (10, True)
        >>> folder.cleanup()
    """
    if pred_probs is not None and folds is not None:
        raise ConfigError("give --pred-probs or --folds: each of them says what counts")
    if folds is not None and folds < 2:
        raise ConfigError(f"folds must be at least 2, got {folds}")
    opened = open_run(run)
    source = opened.assembly.source
    given, table = labels_of(source), source.tables["train"]
    if folds is not None and folds > len(given):
        raise ConfigError(f"{folds} folds of {len(given)} training samples: give fewer")
    shares = record = None
    if pred_probs is not None:
        shares = read_pred_probs(
            Path(pred_probs), len(given), len(source.class_names), several=given.ndim == 2
        )
    elif folds is None:
        record = check_record(opened, source, given)
    with first_weights(opened) as loaded:
        pretrained = {
            split: features_of(loaded, each, batch_size, tokens="mean")
            for split, each in source.tables.items()
        }
    features = {"pretrained": pretrained["train"]}
    if shares is None and folds is None:
        loaded = opened.assembly.loaded
        features["tuned"] = features_of(loaded, table, batch_size, tokens="mean")
    classes = len(source.class_names)
    if shares is not None:
        signals = signals_of(shares, given)
        signals.units = unit_rows(features["pretrained"])
    else:
        signals = gather(given, classes, features, record, folds=folds or 5, seed=seed)
    scores = score(signals, seed=seed)
    alike = find_duplicates(pretrained, source.tables, seed=seed)
    twins = of_training(alike)
    suspects = rows_of(
        signals, scores, source.class_names, table.ids, top=top,
        duplicates=lambda row: twins.get(table.ids[row], ()),
        separator=opened.stage.label_separator or ";",
    )  # fmt: skip
    summary = {
        "run": str(opened.path), "data": source.name, "task": source.task,
        "fingerprints": dict(source.fingerprints), "samples": len(table),
        "signals": list(signals.opinions), "suspects": int((scores.wrong >= SUSPECT).sum()),
        "duplicates": counts(alike), **noise_summary(scores.noise, source),
    }  # fmt: skip
    return _write(opened.path / LABELS_FOLDER, output, suspects, summary, alike)


def _write(
    folder: Path, output: str | Path | None, suspects: list[tuple[int, Suspect]],
    summary: dict[str, Any], alike: list[Duplicate],
) -> Found:  # fmt: skip
    path = Path(output) if output is not None else folder / SUSPECTS_FILE
    if path.is_dir():
        raise ConfigError(f"output {path} is a folder: give the name of a CSV file")
    write_duplicates(folder / DUPLICATES_FILE, alike)
    write_json(folder / SUMMARY_FILE, summary)
    write_suspects(path, suspects)
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


def check_record(opened: OpenedRun, source: DataSource, given: NDArray[np.int64]) -> Record:
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
