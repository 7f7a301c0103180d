"""Small runs on digits that several tests diagnose, each trained once a process."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tether.tuning.job import tune

_BASE: dict[str, Any] = {
    "model": "demo:digits", "optim": "sgd", "lr": 0.05, "weight_decay": 0.0, "batch_size": 32,
    "lr_scheduler": "constant", "seed": 0, "device": "cpu", "eval_batch_size": 512,
}  # fmt: skip
_NOISY = {"data": "demo:digits", "epochs": 30}
_FEW = {"data": "demo:digits-few", "epochs": 25}
RUNS: dict[str, dict[str, Any]] = {
    "noisy": _NOISY,
    "elr": {**_NOISY, "methods": ["elr"]},
    "few": _FEW,
    "shrunk": {**_FEW, "methods": ["feature_norm:weight=1.0"]},
    "head": {**_FEW, "freeze": "backbone", "epochs": 10},
}
_PLACE = tempfile.TemporaryDirectory(prefix="tether-diagnose-")


@lru_cache
def run(name: str) -> Path:
    """Folder of a run; only read it."""
    torch.set_num_threads(1)
    folder = Path(_PLACE.name) / name
    tune({**_BASE, **RUNS[name], "output_dir": str(folder)})
    return folder
