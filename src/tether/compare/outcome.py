"""What executors of runs have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        run: its id.
        row: what it came to; None where it came to nothing.
        died: why its worker is no more; empty where that is not so.
        interrupted: number of the signal that stopped it in good order; 0: none.
    """

    run: str
    row: dict[str, Any] | None = None
    died: str = ""
    interrupted: int = 0


class Executor(Protocol):
    """Does jobs, several at a time; all executors do the same with a job."""

    slots: int

    def submit(self, job: Mapping[str, Any]) -> None:
        """Begin a job; no more than ``slots`` at a time."""

    def wait(self, seconds: float) -> list[Outcome]:
        """The jobs that ended, after at most this long without any."""

    def stop(self, signum: int) -> list[Outcome]:
        """Ask all jobs to stop in good order; what became of them."""

    def close(self) -> None:
        """Let the workers go."""


class InProcess:
    """One job at a time, in this process."""

    slots = 1

    def __init__(self) -> None:
        self._job: Mapping[str, Any] | None = None

    def submit(self, job: Mapping[str, Any]) -> None:
        """Keep the job until it is waited for."""
        self._job = job

    def wait(self, seconds: float) -> list[Outcome]:
        """Do the job."""
        from tether.compare.run import run_job
        from tether.errors import Interrupted

        if self._job is None:
            return []
        job, self._job = self._job, None
        try:
            return [Outcome(job["id"], run_job(job))]
        except Interrupted as stop:
            return [Outcome(job["id"], interrupted=stop.signum)]

    def stop(self, signum: int) -> list[Outcome]:
        """Nothing is being done."""
        job, self._job = self._job, None
        return [] if job is None else [Outcome(job["id"], interrupted=signum)]

    def close(self) -> None:
        """There is nothing to let go."""
