"""Runs as tasks of a Ray cluster: the same jobs, the same rows."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from tether.compare.outcome import Outcome
from tether.errors import ConfigError
from tether.optional import require
from tether.words import printable

#: Seconds that a cluster may take to answer.
PATIENCE = 10.0
#: Seconds to import Ray in, on a busy machine.
STARTING = 10.0
LOCAL = "local"


class RayTasks:
    """Tasks of a cluster.

    Args:
        address: ``HOST:PORT`` of a cluster, ``ray://HOST:PORT``, ``"auto"`` for the one that runs
            on this machine, or ``"local"`` to start one here.
        workers: most tasks at a time; None: as many as the cluster has room for. With ``"local"``
            the cluster gets as many.
        threads: of each task.
        gpu: give each task an accelerator where the cluster has some.

    Raises:
        ConfigError: no cluster answers there.
    """

    def __init__(self, address: str, workers: int | None, threads: int, *, gpu: bool) -> None:
        self._ray: Any = require("ray", "sweep", "--ray")
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._connect(address, workers, threads)
        has = self._ray.cluster_resources()
        gpus = int(has.get("GPU", 0)) if gpu else 0
        room = gpus or int(has.get("CPU", 0) // threads)
        self.slots = max(1, min(workers or room, room))
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self._task = self._ray.remote(
            num_cpus=threads, num_gpus=1 if gpus else 0, max_retries=0,
            runtime_env={"env_vars": dict.fromkeys(names, str(threads))},
        )(_do)  # fmt: skip
        self._flying: dict[Any, str] = {}

    def _connect(self, address: str, workers: int | None, threads: int) -> None:
        quiet = {"logging_level": "error", "log_to_driver": False}
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if address == LOCAL:
            from tether.machine import available_cores

            cpus = workers * threads if workers else available_cores()
            self._ray.init(num_cpus=max(cpus, 1), include_dashboard=False, address=LOCAL, **quiet)
            return
        _check_answers(address)
        try:
            self._ray.init(address=address, **quiet)
        except Exception as error:  # whatever its layers raise, it is the address
            first = str(error).strip().partition("\n")[0]
            raise ConfigError(
                f"--ray {address}: {first or type(error).__name__} (a cluster with tokens wants "
                "RAY_AUTH_MODE=token and its token here, too)"
            ) from None

    def submit(self, job: Mapping[str, Any]) -> None:
        """Give a job to the cluster."""
        self._flying[self._task.remote(json.dumps(job))] = job["id"]

    def wait(self, seconds: float) -> list[Outcome]:
        """What ended."""
        if not self._flying:
            return []
        ready, _ = self._ray.wait(list(self._flying), num_returns=1, timeout=seconds)
        return [self._outcome(task) for task in ready]

    def _outcome(self, task: Any) -> Outcome:
        run = self._flying.pop(task)
        try:
            told = json.loads(self._ray.get(task))
        except self._ray.exceptions.RayError as error:
            return Outcome(run, died=_cause(error))
        if told.get("interrupted"):
            return Outcome(run, died=f"the worker got signal {told['interrupted']}")
        return Outcome(run, row=told["row"])

    def stop(self, signum: int) -> list[Outcome]:
        """Cancel all tasks: they go on from their last checkpoint another time."""
        for task in self._flying:
            with contextlib.suppress(Exception):
                self._ray.cancel(task, force=True)
        found = [Outcome(run, interrupted=signum) for run in self._flying.values()]
        self._flying = {}
        return found

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        if self._ours:
            self._ray.shutdown()


def _do(text: str) -> str:
    """What a task does, on whatever machine it is."""
    from tether.compare.run import run_job
    from tether.errors import Interrupted

    job = json.loads(text)
    try:
        return json.dumps({"id": job["id"], "row": run_job(job)})
    except Interrupted as stop:
        return json.dumps({"id": job["id"], "interrupted": stop.signum})


def _cause(error: Exception) -> str:
    name = type(error).__name__
    if name == "OutOfMemoryError":
        return "Ray ended the worker: the machine was out of memory"
    if name == "WorkerCrashedError":
        return "the worker was killed: most often the machine was out of memory"
    return f"Ray: {name}: {str(error).strip().partition(chr(10))[0][:200]}"


def _check_answers(address: str) -> None:
    """Whether something listens there, and is a cluster; Ray itself would try for long."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ConfigError(f"--ray {address}: write HOST:PORT, ray://HOST:PORT, auto or local")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE):
            pass
    except OSError as error:
        raise ConfigError(
            f"--ray {address}: no cluster answers there within {PATIENCE:.0f} seconds "
            f"({error.strerror or error})"
        ) from None
    if address.startswith("ray://"):
        return
    problem = _problem(address)
    if problem:
        raise ConfigError(f"--ray {address}: what listens there {problem}")


def _problem(address: str) -> str:
    """Why no cluster can be used there, asked by a process of its own: Ray's limits of time fail.

    Where nobody answers, Ray itself tries for minutes.
    """
    code = "import sys, ray; ray._raylet.GcsClient(address=sys.argv[1])"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, address], check=False, timeout=PATIENCE + STARTING,
            text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"does not answer as a Ray cluster within {PATIENCE:.0f} seconds"
    said = done.stderr.strip().rpartition("\n")[2]
    if done.returncode == 0 or "AuthenticationError" in said:  # it answers; ray.init has the token
        return ""
    return f"is no Ray cluster: {printable(said, 300)}"
