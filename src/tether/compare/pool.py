"""Worker processes on this machine: they start once, import once, and do run after run.

A worker reads jobs from its stdin and writes rows to its stdout, one line of JSON each. Where it
is killed, its job is lost and nothing else; another worker takes its place. Where this process is
killed, the workers see the end of their stdin and end at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.compare.outcome import Outcome
from tether.words import printable

#: Seconds that workers get to save a checkpoint when they are asked to stop.
GRACE = 60.0


class Pool:
    """Worker processes.

    Args:
        workers: how many.
        threads: of each.
        logs: folder for what they print.
        gpus: accelerators that they share out among themselves; 0: they see what we see.
    """

    def __init__(self, workers: int, threads: int, logs: Path, gpus: int = 0) -> None:
        self.slots = workers
        self.threads, self.logs, self.gpus = threads, logs, gpus
        self._lines: queue.Queue[tuple[_Worker, str | None]] = queue.Queue()
        self._workers: dict[int, _Worker] = {}
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.process.pid for worker in self._workers.values()]

    def submit(self, job: Mapping[str, Any]) -> None:
        """Give a job to an idle worker, or to a new one."""
        place = next(
            i for i in range(self.slots) if i not in self._workers or not self._workers[i].job
        )
        worker = self._workers.get(place)
        if worker is None:
            worker = self._workers[place] = _Worker(place, self)
        worker.give(job)

    def wait(self, seconds: float) -> list[Outcome]:
        """What ended."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._lines.get(timeout=seconds))
            while True:
                found.append(self._lines.get_nowait())
        outcomes = [self._outcome(worker, line) for worker, line in found]
        return [one for one in outcomes if one is not None]

    def _outcome(self, worker: _Worker, line: str | None) -> Outcome | None:
        job, worker.job = worker.job, ""
        if line is not None:
            told = json.loads(line)
            if told.get("interrupted"):
                return Outcome(told["id"], interrupted=told["interrupted"])
            return Outcome(told["id"], row=told["row"])
        if self._workers.get(worker.place) is worker:
            del self._workers[worker.place]
        worker.end()
        return Outcome(job, died=worker.cause()) if job else None

    def stop(self, signum: int) -> list[Outcome]:
        """Have every worker save what it does and end."""
        for worker in self._workers.values():
            worker.signal(signal.SIGTERM)
        end, outcomes = time.monotonic() + GRACE, []
        while self._workers and time.monotonic() < end:
            outcomes += self.wait(0.2)
            for place, worker in list(self._workers.items()):
                if not worker.job:  # it has told what became of its job
                    worker.end()
                    del self._workers[place]
        return [Outcome(one.run, interrupted=signum) if one.died else one for one in outcomes]

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers.values():
            worker.end()
        self._workers = {}


class _Worker:
    """One process, and the thread that reads what it says."""

    def __init__(self, place: int, pool: Pool) -> None:
        self.place = place
        self.job = ""
        threads = str(pool.threads)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        env = {**os.environ, **dict.fromkeys(names, threads), "TOKENIZERS_PARALLELISM": "false"}
        if pool.gpus:
            env["CUDA_VISIBLE_DEVICES"] = _device(place % pool.gpus)
        self.log = pool.logs / f"worker-{place}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tether.compare.worker"], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, env=env,
                start_new_session=True,  # Ctrl-C is ours to pass on
            )  # fmt: skip
        threading.Thread(target=self._read, args=(pool._lines,), daemon=True).start()

    def _read(self, lines: queue.Queue[Any]) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError, OSError), self.process.stdout as answers:
            for line in answers:
                lines.put((self, line.decode()))
        self.process.wait()
        lines.put((self, None))

    def give(self, job: Mapping[str, Any]) -> None:
        """Send a job; where the worker has just died, the reading thread says so."""
        self.job = job["id"]
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()

    def cause(self) -> str:
        """Why it ended."""
        code = self.process.returncode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
            memory = ": most often the machine was out of memory" if name == "SIGKILL" else ""
            return f"the worker was killed by {name}{memory}"
        return f"the worker ended with exit code {code}: {self._last_words()}"

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return printable(said, 200)

    def signal(self, signum: int) -> None:
        """Send a signal."""
        with contextlib.suppress(OSError):
            self.process.send_signal(signum)

    def end(self) -> None:
        """End it: at the end of its stdin it goes; else by force."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _device(index: int) -> str:
    """One accelerator of those that this process may use."""
    visible = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
    return visible[index] if index < len(visible) else str(index)
