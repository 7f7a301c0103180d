"""The command ``python -m benchmarks.compare_efficiency``: what workers bring, what care costs.

A comparison of plain fine-tuning on four seeds, each run a minute or longer, by one worker and by
two. Speed-up: time of the one over time of the two. Orchestration: time between the runs of one
worker (rows stored, work given), to the time of runs. Overhead: all time in which workers did no
run, to the time in which they did; starting and importing once and the report count here. The
machine must have two cores that nothing else uses.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "compare_efficiency.json"
WIDTH, ROWS, CLASSES = 64, 4000, 10


def make_data(path: Path) -> Path:
    """Rows of numbers around ten centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, WIDTH))

    def draw(count: int) -> dict[str, Any]:
        labels = np.arange(count) % CLASSES
        noise = rng.normal(scale=3.0, size=(count, WIDTH))
        return {"features": (centres[labels] + noise).astype(np.float32), "labels": labels}

    parts = {"train": draw(ROWS), "test": draw(1000)}
    np.savez(path, **{f"{s}_{name}": a for s, part in parts.items() for name, a in part.items()})
    return path


def study(data: Path, epochs: float, seeds: int) -> dict[str, Any]:
    return {
        "models": {"name": "mlp", "model": "tether:mlp", "model_args": {"hidden": 256}},
        "data": str(data), "methods": "plain", "seeds": seeds, "trials": 1, "space": {},
        "settings": {"epochs": epochs, "lr": 1e-3, "batch_size": 64, "device": "cpu"},
    }  # fmt: skip


def measure(data: Path, folder: Path, epochs: float, seeds: int, workers: int) -> dict[str, float]:
    from tether.compare.session import run_study

    told: list[float] = []
    began = time.perf_counter()
    found = run_study(
        study(data, epochs, seeds), folder, workers=workers,
        tell=lambda line: told.append(time.perf_counter()),
    )  # fmt: skip
    elapsed = time.perf_counter() - began
    runs = [row["wall_seconds"] for row in found.rows]
    assert found.failed == 0
    later = sum(runs[1:])  # the rows of one worker come in the order of the plan
    between = {"orchestration": (told[-1] - told[0] - later) / later} if workers == 1 else {}
    return {
        **between, "workers": workers, "seconds": elapsed, "in_runs": sum(runs),
        "shortest_run": min(runs), "longest_run": max(runs),
        "overhead": (elapsed * workers - sum(runs)) / sum(runs),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_efficiency")
    parser.add_argument("--seconds", type=float, default=65.0, help="of a run, about")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    from tether.machine import describe_machine

    with tempfile.TemporaryDirectory() as place:
        data = make_data(Path(place) / "rows.npz")
        few = measure(data, Path(place) / "few", 4, 2, 1)
        epochs = math.ceil(4 * options.seconds / few["shortest_run"])
        one = measure(data, Path(place) / "one", epochs, options.seeds, 1)
        two = measure(data, Path(place) / "two", epochs, options.seeds, 2)
    found = {
        "machine": describe_machine("optuna", "transformers"), "epochs": epochs,
        "seeds": options.seeds, "one": one, "two": two,
        "speed_up": one["seconds"] / two["seconds"],
    }  # fmt: skip
    text = json.dumps(found, indent=2)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(text + "\n", encoding="utf-8")
    print(text)
    print(
        f"two workers are {found['speed_up']:.2f} times as fast as one; orchestration "
        f"{one['orchestration']:.2%}, overhead "
        f"{one['overhead']:.1%} with one, {two['overhead']:.1%} with two",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
