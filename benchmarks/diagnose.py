"""The command ``python -m benchmarks.diagnose``: time and memory of a full diagnosis.

Fine-tunes MobileNetV2 0.35 on pictures of clothes for two epochs (the data and weights that
``TETHER_SHARED`` names, see ``docs/results/real_runs.md``), then diagnoses the run in a process of
its own on at most 500 pictures of each split, and prints the seconds of every step, the seconds of
all cores together, and the peak of its memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.real_runs import IMAGES, SHARED, located, mobilenet
from tether.machine import describe_machine

SETTINGS: dict[str, Any] = {
    **IMAGES, **mobilenet("035"), "data": "$SHARED/data/clothing", "shots": 60, "epochs": 2,
    "lr": 3e-4, "limit_validation": 500, "noise": "symmetric:0.4", "device": "cpu", "seed": 0,
}  # fmt: skip


def train(folder: Path) -> None:
    from tether.tuning.job import tune

    settings = {name: located(value) for name, value in SETTINGS.items()}
    tune({**settings, "output_dir": str(folder)})


def measure(run: Path, samples: int, output: Path) -> dict[str, Any]:
    """Diagnose in a process of its own; its peak is the largest of this process's children."""
    began = time.perf_counter()
    words = ["diagnose", str(run), "--samples", str(samples), "--output", str(output)]
    subprocess.run([sys.executable, "-m", "tether", *words], check=True)
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    peak = used.ru_maxrss / 2**20  # KiB on Linux
    kept = json.loads((output / "diagnosis.json").read_text(encoding="utf-8"))
    return {
        "seconds": round(seconds, 1), "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gib": round(peak, 2), "samples": kept["samples"],
        "steps": {name: step["seconds"] for name, step in kept["steps"].items()},
        "missing": {n: s["reason"] for n, s in kept["steps"].items() if s["status"] != "ok"},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--run", type=Path, help="a finished run, instead of training one")
    parser.add_argument("--output", type=Path, help="keep diagnosis.json and the page here")
    given = parser.parse_args()
    if not SHARED.is_dir():
        sys.exit(f"there is no folder {SHARED}: TETHER_SHARED names data and weights")
    with tempfile.TemporaryDirectory() as place:
        run = given.run or Path(place) / "run"
        if given.run is None:
            train(run)
        found = measure(run, given.samples, given.output or Path(place) / "diagnosis")
    print(json.dumps({**found, "machine": describe_machine()}, indent=2))


if __name__ == "__main__":
    main()
