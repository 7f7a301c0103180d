from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tether.catalogue import list_methods, method_info

from .ranks import RANK_CHECKS, Pair, jobs_of


@pytest.fixture(scope="session", autouse=True)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """Forked before the first test trains anything, for the methods that are asked for."""
    asked = {
        item.callspec.params["name"]
        for item in request.session.items
        if hasattr(item, "callspec") and item.callspec.params.get("check") in RANK_CHECKS
    }
    infos = [method_info(name) for name in list_methods() if name in asked]
    pair = Pair(jobs_of(infos), tmp_path_factory.mktemp("ranks"))
    yield pair
    pair.close()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from more, and bits may depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
