"""The method ``ema`` in a run: what is scored and exported is the average; going on is exact."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.average.test_average import data, given
from tests.tuning.kill import attempt, wait
from tests.tuning.test_kill import same_tensors
from tether.data import load_data
from tether.models import load_exported
from tether.tuning import callbacks
from tether.tuning.config import load_config
from tether.tuning.job import tune
from tether.tuning.result import Result

__all__ = ["data"]


def test_a_killed_run_goes_on_and_exports_the_average(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {"methods": ["ema:decay=0.95"], "lr": 0.5, "export": "last"}
    straight = tune(given(data, tmp_path / "straight", **more))
    plain = tune(given(data, tmp_path / "plain", **{**more, "methods": []}))
    real = callbacks.append_row

    def deadly(path: Path, row: dict[str, Any]) -> None:
        real(path, row)
        if row["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(callbacks, "append_row", deadly)
    config = given(data, tmp_path / "killed", **more)
    assert wait(attempt(config, resume=False)) == -signal.SIGKILL
    monkeypatch.undo()
    assert wait(attempt(config, resume=True)) == 0
    for file in ("model/model.safetensors", "checkpoints/last/methods.safetensors"):
        same_tensors(tmp_path / "straight" / file, tmp_path / "killed" / file)
    again = Result.read(tmp_path / "killed")
    assert again.last == straight.last and again.last != plain.last
    # the losses of the steps are those without the method: training itself is untouched
    for row, other in zip(straight.history, plain.history, strict=True):
        assert row["train_loss"] == other["train_loss"]
    # the exported weights are those that were scored
    table = load_data(load_config({"data": str(data)})).tables["test"]
    with torch.no_grad():
        said = load_exported(tmp_path / "straight").model(
            torch.from_numpy(np.stack(table.inputs))
        ).argmax(1)  # fmt: skip
    assert float((said.numpy() == table.labels).mean()) == straight.last["test"]["accuracy"]
