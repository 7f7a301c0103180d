"""Training runs that are killed for real, in processes of their own."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from tether.catalogue import KINDS, list_methods, method_info

from .cases import Run, cases
from .training import interruptible, save

EPOCHS = 8  # 56 micro-steps


def victims() -> list[str]:
    """One method of each kind: the one that keeps most, as far as its record tells."""
    found = []
    for kind in KINDS:
        names = list_methods(kind=kind)
        if names:
            found.append(max(names, key=lambda name: len(method_info(name).needs)))
    return found


def kill_all(names: Iterable[str], folder: Path) -> None:
    """Let each train in a child and kill it at a random moment; the exit is written to a file."""
    for name in names:
        home = folder / name
        home.mkdir()
        child = os.fork()
        if child == 0:
            try:
                _train(name, home)
            finally:
                os._exit(1)
        at = random.randint(5, 40)
        while not (home / str(at)).exists() and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        time.sleep(random.random() * 0.01)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        (home / "status.part").write_text(str(status))
        (home / "status.part").rename(home / "status")


def _train(name: str, home: Path) -> None:
    torch.set_num_threads(1)
    count = 0

    def after(run: Run, where: str) -> None:
        """What has its final name is whole."""
        nonlocal count
        count += 1
        save(run, home / f"{count}.part")
        (home / f"{count}.part").rename(home / str(count))
        if count > 2:
            shutil.rmtree(home / str(count - 2), ignore_errors=True)

    case = cases(method_info(name))[0]
    interruptible(case, EPOCHS).train(accumulate=2, after=after)
