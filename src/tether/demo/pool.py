"""Runs side by side, one thread each."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager

import torch

from tether.demo.experiments import EXPERIMENTS
from tether.demo.run import Run, fine_tune

#: Name of the experiment, of the method, and the seed.
Job = tuple[str, str, int]


def run_all(
    jobs: Sequence[Job],
    *,
    epochs: int | None = None,
    workers: int = 1,
    done: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Runs all jobs; their numbers depend neither on the order nor on the workers.

    Args:
        jobs: what to run.
        epochs: instead of the experiments' own.
        workers: processes; with 1 everything happens in this one.
        done: is called with every run when it is finished.
    """
    if workers == 1:
        runs = []
        with _one_thread():
            for job in jobs:
                runs.append(_run(job, epochs))
                done(runs[-1])
        return runs
    # A forked child would inherit PyTorch's thread pool in an undefined state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _prepare_worker) as pool:
        futures = [pool.submit(_run, job, epochs) for job in jobs]
        try:
            for future in as_completed(futures):
                done(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _prepare_worker() -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker at once, in silence


def _run(job: Job, epochs: int | None) -> Run:
    experiment, method, seed = job
    return fine_tune(EXPERIMENTS[experiment], method, seed, epochs)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads cost more than they bring on matrices this small, and change rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
