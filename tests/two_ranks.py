"""Run a function in two real gloo processes."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _worker(rank: int, port: int, job: Callable[[int, Path], None], out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        job(rank, out)
    finally:
        dist.destroy_process_group()


def two_ranks(job: Callable[[int, Path], None], out: Path) -> None:
    """Call ``job(rank, out)`` in two processes; an error in one is raised here.

    The job is a function of a module: the processes are forked from a server that has imported
    torch and tether but trained nothing (autograd's threads do not survive a fork).
    """
    multiprocessing.set_forkserver_preload(["torch", "tether"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(_worker, (port, job, out), nprocs=2, start_method="forkserver")
