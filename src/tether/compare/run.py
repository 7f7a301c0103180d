"""One job of a comparison, from its description to its row: what every worker calls.

A job is plain data (JSON), so that it may travel to another process or machine; so is the row.
``JOBS`` holds a function for each kind of job: another kind is another entry.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.compare.fingerprints import located
from tether.compare.memory import Peak
from tether.compare.suggest import should_prune, tenths
from tether.errors import Interrupted, TetherError
from tether.files import read_json, write_json

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

Job = Mapping[str, Any]
Row = dict[str, Any]
CLASSES_FILE = "classes.json"
#: How long a run folder may still be held by a worker that is being ended.
PATIENCE = 60.0


class Pruned(Exception):
    """A trial does worse than the median and is broken off."""


def run_job(job: Job) -> Row:
    """Do one job; whatever goes wrong in it becomes a row, too.

    Args:
        job: ``id``, ``job`` (a key of ``JOBS``), ``folder``, ``threads``, ``row`` (what the row
            begins with), and what its kind needs.

    Returns:
        the row of the run.

    Raises:
        Interrupted: a signal came; the run goes on from its folder another time.
    """
    peak, began = Peak(), time.perf_counter()
    row: Row = {
        **job["row"], "status": "done", "error": "", "validation": {}, "test": {},
        "best_epoch": 0.0, "curve": [], "per_class": {}, "seconds": 0.0,
    }  # fmt: skip
    try:
        with threads_set(int(job["threads"])):
            row |= JOBS[job.get("job", "tune")](job)
    except (Interrupted, KeyboardInterrupt):
        raise
    except Pruned:
        row |= {"status": "pruned", "curve": read_curve(job)}
    except Exception as error:
        row |= {"status": "failed", "error": error_text(error)}
    row["wall_seconds"] = round(time.perf_counter() - began, 3)  # with loading and scoring
    row["seconds"] = row["seconds"] or row["wall_seconds"]
    row["memory_mib"] = peak.mib()
    return row


@contextlib.contextmanager
def threads_set(threads: int) -> Iterator[None]:
    """Torch computes with so many threads inside: sums depend on it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def error_text(error: Exception) -> str:
    """One line that says what went wrong."""
    first = str(error).strip().partition("\n")[0]
    return first if isinstance(error, TetherError) else f"{type(error).__name__}: {first}"


# -- fine-tuning -----------------------------------------------------------------------------------


def run_tune(job: Job) -> Row:
    """A ``tether.tune`` in the job's folder; goes on where a run that was killed had come to."""
    from tether.tuning.job import fine_tune

    folder, which = Path(job["folder"]), str(job["row"]["which"])
    config = prepared(job, output_dir=str(folder), eval_metric=job["metric"])
    make_ready(folder, config)
    final = job["row"]["kind"] == "final"

    def seen(source: Any, logits: Mapping[str, Mapping[str, Any]]) -> None:
        table = source.tables.get("test")
        if final and source.task == "single_label" and table is not None:
            right = class_accuracies(logits[which]["test"], table.labels, source.class_names)
            write_json(folder / CLASSES_FILE, right)

    callbacks = [] if final else [pruning(job)]
    result = fine_tune(config, resume=True, callbacks=callbacks, test=final, seen=seen)
    scores = result.last if which == "last" else result.best
    metric = str(job["row"]["metric"] or result.metric)
    row: Row = {
        "metric": metric,
        "validation": scores["validation"],
        "best_epoch": result.best_epoch,
        "curve": points(result.history, metric),
        "seconds": result.seconds,
    }
    value = scores["validation"].get(metric, math.nan)
    if not math.isfinite(value):
        raise TetherError(f"the validation {metric} is {value}: training diverged")
    if final:
        row["test"] = scores["test"]
        if (folder / CLASSES_FILE).is_file():
            row["per_class"] = read_json(folder / CLASSES_FILE)
    return row


def prepared(job: Job, **more: Any) -> TuneConfig:
    """The options of a job, its data read from what the study's runs share."""
    from tether.compare.caches import shared_data
    from tether.tuning.config import load_config

    config = load_config({**located(job["config"]), **more})
    return shared_data(
        config, job.get("features_of", {}), job.get("prints", {}), job.get("data_kind", ""),
        Path(job["cache"]),
    )  # fmt: skip


def run_few_shot(job: Job) -> Row:
    """Few-shot episodes: those of the tuning classes for a trial, else of the classes to judge."""
    from tether.compare.episode_spec import Episodes
    from tether.compare.episodes import run_episodes
    from tether.data import load_data

    config = prepared(job)
    final = job["row"]["kind"] == "final"
    if job["row"]["metric"] != "accuracy":
        raise TetherError(f"episodes are scored by accuracy, not by {job['row']['metric']}")
    found = run_episodes(
        config, load_data(config), Episodes(**job["episodes"]), final=final, seed=config.seed
    )
    return {"test" if final else "validation": found, "best_epoch": config.epochs}


def make_ready(folder: Path, config: TuneConfig) -> None:
    """Wait for a worker that is being ended; remove what no run can go on from."""
    from tether.tuning.config import CONFIG_NAME, differences, load_config
    from tether.tuning.run_folder import LOCK_FILE, in_use

    end = time.monotonic() + PATIENCE
    while in_use(folder) and time.monotonic() < end:
        time.sleep(0.1)
    if not folder.exists():
        return
    usable = (folder / CONFIG_NAME).is_file() and (folder / LOCK_FILE).is_file()
    if usable:
        with contextlib.suppress(TetherError):
            usable = not differences(load_config(folder), config)
    if not usable and not in_use(folder):
        shutil.rmtree(folder)


def class_accuracies(logits: Any, labels: Any, names: Sequence[str]) -> dict[str, float]:
    """Share of the samples of each class that are told right; classes without samples left out."""
    import numpy as np

    right = np.asarray(logits).argmax(1) == np.asarray(labels)
    return {
        name: float(right[labels == i].mean())
        for i, name in enumerate(names)
        if (labels == i).any()
    }


def points(history: Sequence[Mapping[str, Any]], metric: str) -> list[list[float]]:
    """(epoch, validation metric) of every evaluation."""
    name = f"validation_{metric}"
    return [[float(row["epoch"]), float(row[name])] for row in history if name in row]


def read_curve(job: Job) -> list[list[float]]:
    """The same from the folder of a run that was broken off."""
    from tether.files import read_rows
    from tether.tuning.stage import METRICS_FILE

    return points(read_rows(Path(job["folder"]) / METRICS_FILE), str(job["row"]["metric"]))


def pruning(job: Job) -> Any:
    """A callback of the Trainer that breaks a trial off where it does worse than the median."""
    from transformers import TrainerCallback

    past = [{int(step): value for step, value in one.items()} for one in job.get("past", ())]
    name, higher = f"eval_{job['row']['metric']}", bool(job["row"]["higher_is_better"])

    class Prune(TrainerCallback):
        """Decides from the Trainer's own history, which a resumed run has, too."""

        def on_evaluate(self, args: Any, state: Any, control: Any, **now: Any) -> None:
            done = [
                (row["step"] / state.max_steps, row[name])
                for row in state.log_history
                if name in row
            ]
            if past and done and done[-1][0] < 1 and should_prune(tenths(done), past, higher):
                raise Pruned

    return Prune()


JOBS: dict[str, Callable[[Job], Row]] = {"tune": run_tune, "episodes": run_few_shot}
