"""Every registered method keeps the contract; nothing here knows any of them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tether.catalogue import list_methods, method_info

from .cases import NotApplicable, cases, compare
from .checks import ALL_CHECKS, run_check
from .kill import EPOCHS, victims
from .ranks import Pair
from .training import interruptible, load, outcome


@pytest.mark.parametrize("check", ALL_CHECKS)
@pytest.mark.parametrize("name", list_methods())
def test_contract(name: str, check: str, pair: Pair) -> None:
    try:
        run_check(method_info(name), check, pair)
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("check", ["kill"])
@pytest.mark.parametrize("name", victims())
def test_a_killed_run_goes_on_from_its_files(name: str, check: str, killed: Path) -> None:
    home = killed / name
    until = time.monotonic() + 120
    while not (home / "status").exists() and time.monotonic() < until:
        time.sleep(0.01)
    status = int((home / "status").read_text())
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    whole = [int(path.name) for path in home.iterdir() if path.name.isdigit()]
    case = cases(method_info(name))[0]
    torch.manual_seed(99)  # a new process has other random numbers
    run = load(interruptible(case, EPOCHS), home / str(max(whole)))
    assert run.micro < 7 * EPOCHS
    found = outcome(run.train(accumulate=2))
    wanted = outcome(interruptible(case, EPOCHS).train(accumulate=2))
    compare(found, wanted, path=f"killed after {max(whole)} saves")
