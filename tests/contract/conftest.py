from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .kill import kill_all
from .ranks import RANK_CHECKS, Pair, jobs_of
from .toys import info_of


def _asked(request: pytest.FixtureRequest) -> list[tuple[str, str]]:
    """The selected tests, as (method, check)."""
    found = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    return [(p["name"], p["check"]) for p in found if {"name", "check"} <= set(p)]


@pytest.fixture(scope="session", autouse=True)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Two ranks for all methods, forked before the first test trains anything."""
    jobs = {}
    for name, check in _asked(request):
        if check in RANK_CHECKS:
            jobs |= jobs_of([info_of(name)], [check])
    pair = Pair(jobs, tmp_path_factory.mktemp("ranks"))
    yield pair
    pair.close()


@pytest.fixture(scope="session", autouse=True)
def killed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """What killed runs left behind; a process apart starts and kills them."""
    folder = tmp_path_factory.mktemp("killed")
    context = multiprocessing.get_context("fork")
    names = [name for name, check in _asked(request) if check == "kill"]
    process = context.Process(target=kill_all, args=(names, folder), daemon=True)
    process.start()
    yield folder
    process.kill()
    process.join()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from more, and bits may depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
