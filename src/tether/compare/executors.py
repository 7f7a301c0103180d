"""Which executor does the runs: this process, worker processes, or a Ray cluster."""

from __future__ import annotations

from pathlib import Path

from tether.compare.outcome import Executor, InProcess
from tether.compare.study import Study
from tether.errors import ConfigError


def make_executor(workers: int | None, ray: str | None, study: Study, logs: Path) -> Executor:
    """The executor that was asked for.

    Args:
        workers: processes; 0: this one; None: as many as there are accelerators, or as the cores
            have room for.
        ray: address of a cluster, ``"local"`` for one on this machine; None: none.
        study: says how many threads a run has, and where it is done.
        logs: folder for what workers print.

    Raises:
        ConfigError: the number does not do, or the cluster does not answer.
    """
    if workers is not None and workers < 0:
        raise ConfigError(f"--workers must be at least 0, got {workers}")
    if ray is not None:
        from tether.compare.ray_tasks import RayTasks

        return RayTasks(ray, workers, study.threads, gpu=wants_gpu(study))
    gpus = visible_gpus() if wants_gpu(study) else 0
    if workers == 0:
        return InProcess()
    from tether.compare.pool import Pool

    return Pool(workers or default_workers(study), study.threads, logs, gpus)


def default_workers(study: Study) -> int:
    """One a core with one thread each; one an accelerator where there are some."""
    from tether.machine import available_cores

    gpus = visible_gpus() if wants_gpu(study) else 0
    return gpus or max(1, available_cores() // study.threads)


def wants_gpu(study: Study) -> bool:
    """Whether runs use an accelerator where there is one."""
    return str(study.settings.get("device", "auto")) != "cpu"


def visible_gpus() -> int:
    """How many accelerators this process may use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
