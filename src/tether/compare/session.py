"""A comparison from its study to its report: check, go on, run, write down."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tether.compare.arm import Arm
from tether.compare.changes import check_unchanged, read_stored
from tether.compare.execute import RESUME, Engine
from tether.compare.fingerprints import Checked, check_data
from tether.compare.folder import CACHE, DATABASE, LOGS, RUNS, StudyFolder
from tether.compare.optuna_studies import OptunaStudies
from tether.compare.outcome import Executor, InProcess
from tether.compare.plan import Case, Run, check_plan
from tether.compare.run import threads_set
from tether.compare.space import describe_range
from tether.compare.storage import Storage, Stored, patiently, sqlite_url
from tether.compare.study import Study, dump_study, load_study
from tether.errors import ConfigError, Interrupted


@dataclass(frozen=True)
class StudyResult:
    """What a comparison came to.

    Attributes:
        folder: the study's folder.
        rows: one for every run that ended, in the order of the plan.
        meta: what goes with them: methods, cases, ranges, fingerprints, machine.
        failed: how many runs failed.
    """

    folder: Path
    rows: list[dict[str, Any]]
    meta: dict[str, Any]
    failed: int


@dataclass(frozen=True)
class How:
    """How runs are done; nothing here bears on what they come to.

    Attributes:
        workers: processes; 0: in this one; None: as many as cores allow.
        ray: address of a Ray cluster, ``"local"`` for one on this machine; None: no Ray.
        storage: URL of a database, ``""``: SQLite in the study's folder.
        keep_runs: leave the run folders.
        new: remove the runs of another study that are there.
        extend: seeds, trials, methods and cases may be added to a study that has runs.
        retry_failed: do failed runs again.
        markdown: write the tables of the report as Markdown, too.
        latex: write them as LaTeX, too.
    """

    workers: int | None = None
    ray: str | None = None
    storage: str = ""
    keep_runs: bool = False
    new: bool = False
    extend: bool = False
    retry_failed: bool = False
    markdown: bool = False
    latex: bool = False


def run_study(
    study: Study | Mapping[str, Any] | str | Path,
    output: str | Path,
    *,
    tell: Callable[[str], None] = lambda line: None,
    **how: Any,
) -> StudyResult:
    """Compare methods: tune each with equally many trials, then score each on every seed.

    Args:
        study: what is compared: a file, a mapping or an object, see :class:`Study`.
        output: folder of the study; where it holds an unfinished one of the same settings, that
            goes on.
        tell: is told a line for every run that ends.
        **how: see :class:`How`.

    Returns:
        the rows of all runs; ``STUDY/report.html`` shows them.

    Raises:
        ConfigError: the study cannot be followed, or another one has runs there.
        TetherError: the storage went away, or there is no room.
        Interrupted: SIGTERM or SIGINT came; the same call goes on.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> done = run_study(
        ...     {"models": "demo:digits", "data": "demo:digits-few", "methods": "plain, l2_sp",
        ...      "seeds": 2, "trials": 1, "settings": {"epochs": 1, "lr": 0.01, "device": "cpu"}},
        ...     folder.name + "/study", workers=0,
        ... )
        >>> [row["kind"] for row in done.rows if row["method"] == "plain"]
        ['trial', 'final', 'final']
        >>> folder.cleanup()
    """
    study = load_study(study, name=Path(output).absolute().name)
    ways = How(**how)
    found = check_plan(study)
    folder = StudyFolder(Path(output))
    with folder.taken(), threads_set(study.threads):
        checked = {case.case_id: check_data(study, case) for case in found}
        arms = make_arms(study, found, checked)
        storage = Storage(
            ways.storage or sqlite_url(folder.path / DATABASE), study.name, alone=not ways.storage
        )
        trials = OptunaStudies(storage)
        try:
            meta = make_meta(study, arms, checked)
            _agree(storage, study, meta, folder, ways)
            if ways.new:
                trials.clear()
            folder.write_study(dump_study(study), meta)
            _work(study, arms, storage, trials, folder, checked, ways, tell)
            result = _write_down(arms, storage, folder, meta)
            render(result, markdown=ways.markdown, latex=ways.latex)
            return result
        finally:
            trials.close()
            storage.close()


# -- the plan --------------------------------------------------------------------------------------


def make_arms(study: Study, found: list[Case], checked: Mapping[str, Checked]) -> list[Arm]:
    """Every method on every case.

    Raises:
        ConfigError: the data have no such metric.
    """
    from tether.tuning.arguments import metric_name
    from tether.tuning.metrics import LESS
    from tether.tuning.options import TuneConfig

    arms = []
    for case in found:
        metric = metric_name(TuneConfig(eval_metric=study.metric), checked[case.case_id].task)
        arms += [Arm(study, case, one, metric, metric not in LESS) for one in study.methods]
    return arms


def make_meta(study: Study, arms: list[Arm], checked: Mapping[str, Checked]) -> dict[str, Any]:
    """What the report needs beside the rows."""
    from tether.machine import describe_machine

    machine = describe_machine("optuna", "transformers")
    versions = ("python", "torch", "tether", "optuna", "transformers")
    return {
        "name": study.name, "metric": arms[0].metric, "higher_is_better": arms[0].higher,
        "seeds": list(study.seeds), "trials": study.trials, "tuning_seed": study.tuning_seed,
        "score": study.score, "methods": [one.label for one in study.methods],
        "cases": list(dict.fromkeys(arm.case.case_id for arm in arms)),
        "baseline": study.baseline,
        "spaces": {
            one.label: {
                key: describe_range(found) for arm in arms[: len(study.methods)]
                if arm.entry is one for key, found in {**arm.shared, **arm.own}.items()
            } for one in study.methods
        },
        "fingerprints": {name: dict(one.fingerprints) for name, one in checked.items()},
        "leaks": {name: one.leaks for name, one in checked.items()},
        "versions": {key: machine[key] for key in versions},
        "machine": {key: value for key, value in machine.items() if key not in versions},
        "config": dump_study(study), "failed": 0,
    }  # fmt: skip


# -- going on --------------------------------------------------------------------------------------


def _agree(
    storage: Storage, study: Study, meta: dict[str, Any], folder: StudyFolder, ways: How
) -> None:
    """The storage holds this study, or an earlier state of it; else say what differs."""
    stored = storage.config()
    if stored is not None and ways.new:
        storage.free_dead()
        if storage.others():
            raise ConfigError(f"study {study.name!r}: others are working on it; --new would wait")
        storage.clear()
        shutil.rmtree(folder.path / RUNS, ignore_errors=True)
        stored = None
    if stored is not None and any(one.row for one in storage.runs().values()):
        before = read_stored(stored)
        check_unchanged(before, study, extend=ways.extend, place=str(folder.path))
        was = storage.meta().get("fingerprints", {})
        for case, prints in meta["fingerprints"].items():
            for split, value in was.get(case, {}).items():
                if prints.get(split) != value:
                    raise ConfigError(
                        f"data of {case}: the {split} split is another one than when the runs of "
                        f"{folder.path} were made; put it back, or begin anew with --new"
                    )
    storage.keep(dump_study(study), meta)
    runs = storage.runs()
    if ways.retry_failed:
        failed = [run for run, one in runs.items() if one.row and one.row["status"] == "failed"]
        storage.forget(failed)
    for one in runs.values():  # killed between a row and the removal of its folder
        if one.row and one.row["status"] != "failed" and not ways.keep_runs:
            shutil.rmtree(folder.path / RUNS / str(one.row["key"]), ignore_errors=True)


# -- running ---------------------------------------------------------------------------------------


def _work(
    study: Study, arms: list[Arm], storage: Storage, trials: OptunaStudies, folder: StudyFolder,
    checked: Mapping[str, Checked], ways: How, tell: Callable[[str], None],
) -> None:  # fmt: skip
    from tether.compare.executors import make_executor

    def keep(run: Run, row: Mapping[str, Any]) -> None:
        folder.add_row(row)
        if run.kind == "trial":
            patiently(lambda: trials.update(engine.arm_of(run), engine.known))

    prints = {name: one.fingerprints for name, one in checked.items()}
    folder.write_rows(rows_of(arms, storage.runs()))
    executor = make_executor(ways.workers, ways.ray, study, folder.path / LOGS)
    engine = Engine(
        study, arms, storage, executor, folder.path.absolute() / RUNS, prints,
        {name: one.kind for name, one in checked.items()}, folder.path.absolute() / CACHE,
        keep_runs=ways.keep_runs, tell=tell, kept=keep,
    )  # fmt: skip
    try:
        with _listening(engine, executor):
            known = storage.runs()
            for arm in arms:  # a trial whose row was kept just before the comparison was killed
                if any(run not in known or known[run].row is None for run in arm.ids()):
                    trials.update(arm, known)
            engine.work()
    finally:
        executor.close()


@contextmanager
def _listening(engine: Engine, executor: Executor) -> Iterator[None]:
    """A first SIGTERM or SIGINT stops the comparison in good order, a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

    def note(signum: int, frame: Any) -> None:
        for known, handler in before.items():
            signal.signal(known, handler)
        if isinstance(executor, InProcess):
            raise Interrupted(signum, RESUME)
        engine.signum = signum

    for signum in before:
        signal.signal(signum, note)
    try:
        yield
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)


# -- writing down ----------------------------------------------------------------------------------


def rows_of(arms: list[Arm], known: Mapping[str, Stored]) -> list[dict[str, Any]]:
    """The rows of the runs that ended, in the order of the plan."""
    rows = []
    for arm in arms:
        for run in arm.ids():
            stored = known.get(run)
            if stored is not None and stored.row is not None:
                rows.append(dict(stored.row))
    return rows


def _write_down(
    arms: list[Arm], storage: Storage, folder: StudyFolder, meta: dict[str, Any]
) -> StudyResult:
    rows = rows_of(arms, storage.runs())
    failed = sum(row["status"] == "failed" for row in rows)
    meta = {**meta, "failed": failed}
    folder.write_rows(rows)
    folder.write_meta(meta)
    result = StudyResult(folder.path, rows, meta, failed)
    if (folder.path / RUNS).is_dir() and not any((folder.path / RUNS).iterdir()):
        (folder.path / RUNS).rmdir()
    shutil.rmtree(folder.path / CACHE, ignore_errors=True)
    return result


def render(result: StudyResult, *, markdown: bool = False, latex: bool = False) -> None:
    """Write the report of a study.

    Args:
        result: its rows.
        markdown: write the tables as Markdown, too.
        latex: write the tables as LaTeX, too.
    """
    from tether.compare.page import write_report

    write_report(result.rows, result.meta, result.folder, markdown=markdown, latex=latex)


def read_result(folder: str | Path) -> StudyResult:
    """The rows that a study's folder holds.

    Raises:
        ConfigError: there is no study in it.
    """
    rows, meta = StudyFolder(Path(folder)).read()
    return StudyResult(Path(folder), rows, meta, sum(row["status"] == "failed" for row in rows))
