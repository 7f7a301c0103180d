"""The runs that are averaged: opened, and found to be of one model on one data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from tether.compare.folder import RUNS, STUDY_FILE
from tether.engine.reference import canonical
from tether.errors import ConfigError
from tether.tuning.opened import OpenedRun, open_run

#: Settings that runs must share for their weights to be of one kind and from one start.
SAME = ("model", "weights", "model_args", "image_size", "max_length", "task", "sequence")


def find_runs(given: Iterable[str | Path]) -> list[Path]:
    """The run folders; a study of ``tether compare`` stands for the runs that it kept.

    Raises:
        ConfigError: a study that kept none, or compares on several data sets or models.
    """
    found: list[Path] = []
    for one in given:
        folder = Path(one).expanduser()
        found += _of_study(folder) if (folder / STUDY_FILE).is_file() else [folder]
    twice = [path for path in found if found.count(path) > 1]
    if twice:
        raise ConfigError(f"{twice[0]} is given twice")
    return found


def _of_study(folder: Path) -> list[Path]:
    from tether.compare.session import read_result

    rows = [row for row in read_result(folder).rows if row["kind"] == "final"]
    kept = [row for row in rows if (folder / RUNS / str(row["key"]) / "DONE").is_file()]
    if not kept:
        raise ConfigError(
            f"study {folder} kept no runs: compare with --keep-runs, or give folders of runs"
        )
    cases = sorted({str(row["case_id"]) for row in kept})
    if len(cases) > 1:
        raise ConfigError(
            f"study {folder} compares on {', '.join(cases)}; give the runs of one of them "
            f"({folder / RUNS}/...)"
        )
    return [folder / RUNS / str(row["key"]) for row in kept]


def open_all(paths: Sequence[Path], weights: str) -> list[OpenedRun]:
    """The runs, of which all have one model.

    Raises:
        ConfigError: one is no finished run, or they differ in what their weights are of.
    """
    runs = [open_run(path, weights=weights) for path in paths]
    first = runs[0]
    for other in runs[1:]:
        for name in SAME:
            ours, theirs = getattr(first.stage, name), getattr(other.stage, name)
            if ours != theirs:
                raise ConfigError(
                    f"{other.path} has {name} {theirs!r}, {first.path} {ours!r}: only runs of one "
                    "model from one start can be averaged"
                )
        if other.result.metric != first.result.metric:
            raise ConfigError(
                f"{other.path} was judged by {other.result.metric}, {first.path} by "
                f"{first.result.metric}: give runs with one --eval-metric"
            )
    return runs


def weights_of(run: OpenedRun) -> dict[str, Tensor]:
    """The weights that were asked for, by canonical name.

    Raises:
        ConfigError: the run kept none.
    """
    return {canonical(name): tensor for name, tensor in run.tensors().items()}


def prints_of(run: OpenedRun) -> Mapping[str, str]:
    """Split -> hash of the run's data."""
    return run.fingerprints or run.assembly.source.fingerprints


def shared_splits(runs: Sequence[OpenedRun]) -> tuple[str, ...]:
    """Held-out splits that all runs have and that none of them was trained on.

    Validation samples are made of training samples where there is no split of their own; runs of
    different seeds then trained on one another's.
    """
    prints = [prints_of(run) for run in runs]

    def agree(split: str) -> bool:
        return all(one.get(split) == prints[0].get(split) for one in prints)

    if len(runs) == 1:
        return ("validation", "test")
    found = [split for split in ("validation", "test") if agree(split)]
    if not agree("train") and "validation" in found:
        found.remove("validation")
    return tuple(found)
