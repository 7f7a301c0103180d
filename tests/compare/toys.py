"""Studies on rows of numbers that take a blink, and the command as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

WIDTH = 8


def rows(path: Path, *, per_class: int = 20, test: int = 30, leak: int = 0, seed: int = 0) -> Path:
    """Three classes of numbers around three centres; ``leak`` test rows stand in training, too."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, WIDTH))
    labels = np.arange(3 * per_class) % 3
    tested = np.arange(test) % 3

    def draw(of: Any) -> Any:
        return (centres[of] + rng.normal(scale=1.2, size=(len(of), WIDTH))).astype(np.float32)

    train, held = draw(labels), draw(tested)
    train[:leak], labels[:leak] = held[:leak], tested[:leak]
    np.savez(
        path, train_features=train, train_labels=labels, test_features=held, test_labels=tested
    )
    return path


def study(data: Path, **given: Any) -> dict[str, Any]:
    """Two methods, two trials, two seeds of two epochs."""
    base: dict[str, Any] = {
        "models": "tether:mlp", "data": str(data), "methods": ["plain", "l2_sp"], "seeds": 2,
        "trials": 2, "space": {"lr": "log(1e-3, 1e-1)"},
        "settings": {"lr": 0.01, "epochs": 2, "batch_size": 16, "device": "cpu"},
    }  # fmt: skip
    settings = {**base["settings"], **given.pop("settings", {})}
    return {**base, **given, "settings": settings}


def command(*words: str, **env: str) -> subprocess.Popen[str]:
    """``tether compare`` in a process of its own, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tether", "compare", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
    )  # fmt: skip


def table(found: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What must be the same however a study was run."""
    return [
        (row["case_id"], row["method"], row["kind"], row["trial"], row["seed"], row["status"],
         row["settings"], row["validation"], row["test"], row["curve"], row["per_class"])
        for row in found
    ]  # fmt: skip
