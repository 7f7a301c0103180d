"""Time, memory and profiler ranges."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

RANGES = ("tether::loss", "tether::edit_gradients", "tether::after_step")


def interleaved(
    steps: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3
) -> dict[str, list[float]]:
    """Milliseconds of every call: one call of each a round, in an order drawn anew.

    A machine that becomes slower or faster does so for all; compare minima and medians.
    """
    order = list(steps)
    shuffle = random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(warmup + rounds):
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            steps[name]()
            if turn >= warmup:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def paired_ratio(times: list[float], base: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(own / plain for own, plain in zip(times, base, strict=True))


def range_times(step: Callable[[], object], steps: int = 5) -> dict[str, float]:
    """Least milliseconds of each of tether's ranges within a step, by PyTorch's CPU profiler."""
    found: dict[str, list[float]] = {name: [] for name in RANGES}
    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(steps):
            step()
    for event in profiler.events():
        if event.name in found:
            found[event.name].append(event.cpu_time_total / 1e3)
    return {name: min(values) for name, values in found.items() if values}


def peak_memory(work: Callable[[], object]) -> float | None:
    """Growth of resident memory at its peak, in MiB, while a forked child does the work.

    None where the system does not tell (Linux does).
    """
    if not Path("/proc/self/status").exists():
        return None
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(work, sender))
    child.start()
    sender.close()
    try:
        grown: float = receiver.recv()
    except EOFError:
        raise RuntimeError("the child that measures memory failed; its message is above") from None
    finally:
        child.join()
    return grown


def _in_child(work: Callable[[], object], sender: Connection) -> None:
    _forget_the_parents_memory()
    before = _status("VmRSS")
    kept = work()
    sender.send((_status("VmHWM") - before) / 1024)
    del kept


def _forget_the_parents_memory() -> None:
    """Else the work would fill what the parent freed, below the parent's peak, and not be seen."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to the present


def _status(key: str) -> int:
    """A line of the process's own status, in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def available_memory() -> int:
    """Free bytes."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 8 << 30
