from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .kill import kill_all
from .ranks import RANK_CHECKS, Pair, jobs_of
from .toys import info_of


def _asked(request: pytest.FixtureRequest, check: str) -> list[str]:
    """Names of the methods for which a check was selected."""
    found = [
        item.callspec.params["name"]
        for item in request.session.items
        if hasattr(item, "callspec") and item.callspec.params.get("check") == check
    ]
    return list(dict.fromkeys(found))


@pytest.fixture(scope="session", autouse=True)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Two ranks for all methods, forked before the first test trains anything."""
    jobs = {}
    for check in RANK_CHECKS:
        jobs |= jobs_of([info_of(name) for name in _asked(request, check)], [check])
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
    process = context.Process(target=kill_all, args=(_asked(request, "kill"), folder), daemon=True)
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
