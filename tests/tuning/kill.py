"""Runs that are killed for real, again and again, and then go on.

The parent imports everything once; every attempt is a forked child with one thread, so that
starting anew costs milliseconds and the kills can be many.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tether.tuning.checkpoints import MANIFEST, checkpoints


def attempt(config: Mapping[str, Any], resume: bool) -> int:
    """Fork a child that runs the job; returns its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        from tether.errors import Interrupted
        from tether.tuning.job import tune

        try:
            tune(config, resume=resume)
            code = 0
        except Interrupted as stop:
            code = 128 + stop.signum
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """Exit code of a child; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_over(child: int) -> int | None:
    """Exit code where the child has ended."""
    pid, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if pid else None


def half_written(root: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return any(not (path / MANIFEST).exists() for path in checkpoints(root))


def run_with_kills(config: Mapping[str, Any], kills: int, seed: int) -> dict[str, int]:
    """Run a job to its end through SIGKILLs: at random moments, and while a checkpoint is written.

    Returns:
        how many kills fell where.
    """
    rng = random.Random(seed)
    root = Path(config["output_dir"]) / "checkpoints"
    counts = {"anywhere": 0, "in a checkpoint": 0}
    longest = 1.0
    while sum(counts.values()) < kills:
        child = attempt(config, resume=True)
        inside = counts["in a checkpoint"] <= counts["anywhere"]
        began, patience = time.monotonic(), rng.uniform(0.2, longest)
        newest_before = [p.name for p in checkpoints(root)][:1] if root.is_dir() else []
        while True:
            code = is_over(child)
            if code is not None:
                raise AssertionError(f"the run ended with {code} after {counts}: make it longer")
            if inside and root.is_dir() and half_written(root):
                time.sleep(rng.uniform(0, 0.02))
                break
            if not inside and time.monotonic() - began > patience:
                break
            time.sleep(0.0005)
        os.kill(child, signal.SIGKILL)
        assert wait(child) == -signal.SIGKILL
        counts["in a checkpoint" if inside else "anywhere"] += 1
        moved = root.is_dir() and [p.name for p in checkpoints(root)][:1] != newest_before
        longest = longest if moved else longest * 1.3
    assert wait(attempt(config, resume=True)) == 0
    return counts
