"""What tests of whole comparisons share."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def warm() -> Iterator[None]:
    """All imports done, and left alone by the collections at the end of every run; one thread."""
    import torch

    pytest.importorskip("optuna", reason="Optuna is not installed")
    import transformers  # noqa: F401

    import tether.compare.page
    import tether.tuning.job  # noqa: F401

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    torch.set_num_threads(before)
