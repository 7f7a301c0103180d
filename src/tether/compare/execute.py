"""The loop of a comparison: claim what may be done, have it done, keep what it came to."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tether.compare.arm import Arm
from tether.compare.outcome import Executor, Outcome
from tether.compare.plan import Run, run_key
from tether.compare.storage import Storage, Stored, patiently
from tether.compare.study import Study
from tether.errors import Interrupted

#: A run is given up after this many workers have died on it.
ATTEMPTS = 2
#: Seconds between two looks at what others have done.
LOOK = 2.0
Told = Callable[[str], None]


@dataclass
class Engine:
    """Does all runs of a study that are left.

    Attributes:
        study: the study.
        arms: its methods on its cases.
        storage: where rows are kept.
        executor: does the runs.
        runs: folder of the run folders.
        fingerprints: case -> split -> hash of its contents.
        kinds: case -> kind of its inputs.
        cache: folder of what runs share.
        keep_runs: leave the run folders where they are.
        tell: is told a line for every run that ended.
        kept: is given every row once it is stored.
        signum: number of a signal that asks to stop; 0: none.
    """

    study: Study
    arms: Sequence[Arm]
    storage: Storage
    executor: Executor
    runs: Path
    fingerprints: Mapping[str, Mapping[str, str]]
    kinds: Mapping[str, str]
    cache: Path
    keep_runs: bool = False
    tell: Told = lambda line: None
    kept: Callable[[Run, Mapping[str, Any]], None] = lambda run, row: None
    signum: int = 0
    known: dict[str, Stored] = field(default_factory=dict)
    flying: dict[str, Run] = field(default_factory=dict)
    _looked: float = 0.0
    _open: list[Arm] = field(default_factory=list)

    def work(self) -> None:
        """Until every run of the plan has ended.

        Raises:
            Interrupted: a signal came; the runs saved what they had.
            TetherError: the storage is gone.
        """
        self._look()
        self._open = list(self.arms)
        try:
            while not self._finished():
                self._begin()
                if self.signum:
                    raise Interrupted(self.signum, RESUME)
                for outcome in self.executor.wait(1.0 if self.flying else 0.0):
                    self._ended(outcome)
                patiently(self.storage.beat)
                if not self.flying:
                    time.sleep(0 if self._due() else LOOK / 2)  # others do what is left
                self._look_again()
        except KeyboardInterrupt:
            self._stop(2)
            raise Interrupted(2, RESUME) from None
        except Interrupted as stop:
            self._stop(stop.signum)
            raise Interrupted(stop.signum, RESUME) from None

    def _stop(self, signum: int) -> None:
        for outcome in self.executor.stop(signum):
            if outcome.row is not None:
                self._ended(outcome)

    # -- what is known -------------------------------------------------------------------------

    def _look(self) -> None:
        patiently(self.storage.free_dead)
        self.known = patiently(partial(self.storage.runs, self.known))
        self._looked = time.monotonic()

    def _look_again(self) -> None:
        """Only where somebody else may have changed something: rows are many."""
        if not self.storage.alone and time.monotonic() - self._looked > LOOK:
            self._look()

    def _finished(self) -> bool:
        """Whether all arms are done; those that are need not be looked at again."""
        for arm in list(self._open):
            self._forget_stale(arm)
            if all(run in self.known and self.known[run].row is not None for run in arm.ids()):
                self._open.remove(arm)
        return not self._open and not self.flying

    # -- beginning -----------------------------------------------------------------------------

    def _due(self) -> list[Run]:
        """Runs that may begin and that nobody has, trials before the seeds of others."""
        found = []
        for arm in self._open:
            for run in arm.hopeless(self.known):
                self._give_up(run, "not run: every tuning trial of this method failed")
            found += [run for run in arm.due(self.known) if self._is_free(run)]
        return sorted(found, key=lambda run: run.kind != "trial")

    def _is_free(self, run: Run) -> bool:
        stored = self.known.get(run.id)
        return run.id not in self.flying and (stored is None or stored.owner == "")

    def _forget_stale(self, arm: Arm) -> None:
        stale = [run for run in arm.stale(self.known) if run not in self.flying]
        stale = [run for run in stale if self.known[run].owner in ("", self.storage.owner)]
        if stale:
            patiently(lambda: self.storage.forget(stale))
            for run in stale:
                del self.known[run]

    def _begin(self) -> None:
        if len(self.flying) >= self.executor.slots:
            return
        for run in self._due():
            if len(self.flying) >= self.executor.slots:
                return
            if not patiently(partial(self.storage.claim, run.id, run.settings)):
                self._look()  # somebody was faster
                return
            stored = Stored(run.settings, None, 0, self.storage.owner)
            before = self.known.get(run.id)
            if before is not None:
                stored = Stored(before.settings, None, before.attempts, self.storage.owner)
            self.known[run.id] = stored
            self.flying[run.id] = run
            self.executor.submit(self._job(run))

    def _job(self, run: Run) -> dict[str, Any]:
        return {
            "id": run.id, "job": "episodes" if run.case.episodes else "tune",
            "config": run.config(), "metric": self.study.metric, "cache": str(self.cache),
            "features_of": dict(run.case.model.features_of), "prints": dict(self._prints(run)),
            "data_kind": self.kinds.get(run.case.case_id, ""),
            "episodes": asdict(run.case.episodes) if run.case.episodes else None,
            "folder": str(self._folder(run)), "threads": self.study.threads,
            "past": [{str(step): value for step, value in one.items()} for one in run.past],
            "row": self._row(run),
        }  # fmt: skip

    def _folder(self, run: Run) -> Path:
        return self.runs / run_key(self.study, run, self._prints(run))

    def _prints(self, run: Run) -> Mapping[str, str]:
        return self.fingerprints.get(run.case.case_id, {})

    def arm_of(self, run: Run) -> Arm:
        """The arm that a run belongs to."""
        return next(a for a in self.arms if a.case is run.case and a.entry is run.entry)

    def _row(self, run: Run) -> dict[str, Any]:
        """What a row says before anything was done."""
        arm = self.arm_of(run)
        return {
            "case": run.case.as_row(), "case_id": run.case.case_id, "method": run.entry.label,
            "kind": run.kind, "trial": run.number if run.kind == "trial" else None,
            "seed": run.seed, "settings": dict(run.settings), "metric": arm.metric,
            "higher_is_better": arm.higher, "which": self.study.score,
            "planned_epochs": float(run.config().get("epochs", arm.defaults["epochs"])),
            "key": run_key(self.study, run, self._prints(run)),
        }  # fmt: skip

    # -- ending --------------------------------------------------------------------------------

    def _ended(self, outcome: Outcome) -> None:
        run = self.flying.pop(outcome.run)
        if outcome.interrupted:
            patiently(lambda: self.storage.release(run.id))
            raise Interrupted(outcome.interrupted, RESUME)
        if outcome.died:
            self._mourn(run, outcome.died)
            return
        assert outcome.row is not None
        self._keep(run, outcome.row)

    def _mourn(self, run: Run, why: str) -> None:
        """A run whose worker died begins again where it was, once; then it has failed."""
        attempts = patiently(lambda: self.storage.count_attempt(run.id))
        stored = self.known[run.id]
        self.known[run.id] = Stored(stored.settings, None, attempts, "")
        if attempts >= ATTEMPTS:
            self._give_up(run, f"{why} ({attempts} times)", claimed=True)
            return
        patiently(lambda: self.storage.release(run.id))
        self.tell(f"{run.id}: {why}; it begins again")

    def _give_up(self, run: Run, why: str, claimed: bool = False) -> None:
        if not claimed and not patiently(lambda: self.storage.claim(run.id, run.settings)):
            return
        row = {
            **self._row(run), "status": "failed", "error": why, "validation": {}, "test": {},
            "best_epoch": 0.0, "curve": [], "per_class": {}, "seconds": 0.0, "memory_mib": 0.0,
        }  # fmt: skip
        self._keep(run, row)

    def _keep(self, run: Run, row: dict[str, Any]) -> None:
        """The row is safe in the storage before the run's folder goes."""
        patiently(lambda: self.storage.finish(run.id, row))
        before = self.known.get(run.id)
        attempts = 0 if before is None else before.attempts
        self.known[run.id] = Stored(run.settings, row, attempts, "")
        if not self.keep_runs and row["status"] != "failed":
            shutil.rmtree(self._folder(run), ignore_errors=True)
        self.kept(run, row)
        self.tell(self._line(run, row))

    def _line(self, run: Run, row: Mapping[str, Any]) -> str:
        ended = sum(stored.row is not None for stored in self.known.values())
        planned = sum(len(arm.ids()) for arm in self.arms)
        return f"{min(ended, planned)}/{planned} {run.id}: {told(row)}"


RESUME = "what was running is saved; the same command goes on"


def told(row: Mapping[str, Any]) -> str:
    """What a run came to, in a few words."""
    metric = row["metric"]
    if row["status"] == "failed":
        return f"failed: {row['error']}"
    if row["status"] == "pruned":
        return f"broken off, worse than the median, {row['seconds']:.1f} s"
    split = "test" if row["kind"] == "final" else "validation"
    return f"{split} {metric} {row[split][metric]:.4f}, {row['seconds']:.1f} s"
