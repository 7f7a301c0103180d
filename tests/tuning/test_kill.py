"""SIGKILL at random moments and in the middle of a checkpoint; then the run ends as if unbroken."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tuning.kill import attempt, is_over, run_with_kills, wait
from tests.tuning.toys import image_folder, settings
from tether.files import read_rows
from tether.tuning.result import Result

METHODS = ["elr", "l2_sp:weight=0.01", "adarand"]


def same_tensors(one: Path, two: Path) -> None:
    a, b = load_file(one), load_file(two)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def same_runs(one: Path, two: Path) -> None:
    """Weights, method states, rows and decisions, bit for bit."""
    same_tensors(one / "model" / "model.safetensors", two / "model" / "model.safetensors")
    last = [run / "checkpoints" / "last" for run in (one, two)]
    for name in ("model.safetensors", "methods.safetensors"):
        same_tensors(*(folder / name for folder in last))
    rows = [
        [{k: v for k, v in row.items() if not k.startswith(("seconds", "validation_steps_per",
                                                            "validation_samples_per"))}
         for row in read_rows(run / "metrics.jsonl")]
        for run in (one, two)
    ]  # fmt: skip
    assert rows[0] == rows[1]
    a, b = Result.read(one), Result.read(two)
    for name in ("last", "best", "best_epoch", "epochs", "steps", "stopped_early"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("predictions-validation.csv",):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "save_steps"), [pytest.param(0, 3, marks=pytest.mark.long), (2, 0)]
)
def test_a_killed_run_ends_as_an_unbroken_one(tmp_path, workers, save_steps):
    data = image_folder(tmp_path / "data")
    given = {
        "methods": METHODS, "epochs": 14, "grad_accum_steps": 2, "workers": workers,
        "batch_size": 4, "patience": 6, "save_steps": save_steps, "warmup_ratio": 0.1,
        "clip_grad": 1.0, "noise": "symmetric:0.3",
    }  # fmt: skip
    whole = settings(data, tmp_path / "whole", **given)
    assert wait(attempt(whole, resume=False)) == 0
    broken = settings(data, tmp_path / "broken", **given)
    counts = run_with_kills(broken, kills=6, seed=workers)
    assert min(counts.values()) >= 3
    same_runs(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)]
)
def test_a_signal_saves_and_exits(tmp_path, signum):
    data = image_folder(tmp_path / "data")
    given = {"methods": METHODS, "epochs": 6, "save_total_limit": 1}
    whole = settings(data, tmp_path / "whole", **given)
    assert wait(attempt(whole, resume=False)) == 0
    config = settings(data, tmp_path / "broken", **given)
    child = attempt(config, resume=False)
    rows = tmp_path / "broken" / "metrics.jsonl"
    while not read_rows(rows):
        assert is_over(child) is None
        time.sleep(0.005)
    os.kill(child, signum)
    assert wait(child) == 128 + signum
    assert not (tmp_path / "broken" / "DONE").exists()
    state = tmp_path / "broken" / "checkpoints" / "last" / "trainer_state.json"
    assert json.loads(state.read_text())["global_step"] > 0
    assert wait(attempt(config, resume=True)) == 0
    same_runs(tmp_path / "whole", tmp_path / "broken")
