"""The command ``python -m benchmarks.epoch_measures``: what the measures of an epoch cost.

MobileNetV2 0.35 at 96 pixels on 400 training and 150 validation images of noise, a plain ``tether
tune``. Every call into the measures is timed, in the same run as the epochs they are a share of:
processor time of the thread, which other work on the machine hardly moves. The first epoch is left
out. What the record of samples costs, which the rows on labels read, is not part of it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
BAR, PIXELS, CLASSES = 0.02, 96, 10
SIZES = {"train": 40, "validation": 15}


def make_images(root: Path) -> None:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, per_class in SIZES.items():
        for label in range(CLASSES):
            folder = root / split / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(per_class):
                pixels = rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")


class Stopwatch:
    """Adds up the time spent in some methods of a class, and notes it at the end of epochs."""

    def __init__(self) -> None:
        self.spent, self.epochs = 0.0, []  # type: ignore[var-annotated]
        self.began = time.thread_time()

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent += time.thread_time() - began

        return run

    def lap(self) -> None:
        now = time.thread_time()
        self.epochs.append((self.spent, now - self.began))
        self.spent, self.began = 0.0, now


def measure(epochs: int) -> list[tuple[float, float]]:
    """Seconds in the measures and seconds in all, of each epoch."""
    import torch
    from transformers import TrainerCallback

    from tether.tuning.epoch_measures import EpochMeasures
    from tether.tuning.job import tune

    torch.set_num_threads(1)
    watch = Stopwatch()
    for name in ("numbers", "_hear", "gather"):
        setattr(EpochMeasures, name, watch.timed(getattr(EpochMeasures, name)))

    class Laps(TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *args: Any, **now: Any) -> None:
            watch.began = time.thread_time()

        def on_evaluate(self, *args: Any, **now: Any) -> None:
            watch.lap()  # after the row was written

    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder) / "data")
        tune(
            {
                "model": "timm:mobilenetv2_035", "model_args": {"pretrained": False},
                "data": f"{folder}/data", "image_size": PIXELS, "epochs": epochs, "batch_size": 16,
                "augment": "light", "device": "cpu", "output_dir": f"{folder}/run",
                "export": "none", "save_total_limit": 0,
            },
            callbacks=[Laps()],
        )  # fmt: skip
    return watch.epochs[1:]


def as_markdown(document: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    return "\n".join(
        [
            "# What the measures of an epoch cost",
            "",
            "Written by `python -m benchmarks.epoch_measures --write`. MobileNetV2 0.35, "
            f"{PIXELS} px, 400 training and 150 validation images, one thread; median of "
            f"{len(document['share'])} epochs of one run, processor time.",
            "",
            f"Machine: {machine}.",
            "",
            f"- an epoch with its evaluation: {document['epoch_seconds']:.2f} s",
            f"- the measures: {1000 * document['measure_seconds']:.0f} ms, "
            f"{100 * document['median_share']:.2f} % of the epoch (bar: {100 * BAR:g} %)",
            f"- smallest and largest share: {100 * min(document['share']):.2f} % and "
            f"{100 * max(document['share']):.2f} %",
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.epoch_measures", description=__doc__
    )
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS}/epoch_measures.*")
    options = parser.parse_args()
    from tether.files import write_json, write_text
    from tether.machine import describe_machine

    rows = measure(options.epochs)
    shares = [spent / whole for spent, whole in rows]
    document = {
        "machine": describe_machine("timm", "transformers"),
        "measure_seconds": statistics.median(spent for spent, _ in rows),
        "epoch_seconds": statistics.median(whole for _, whole in rows),
        "share": shares, "median_share": statistics.median(shares), "bar": BAR,
    }  # fmt: skip
    print(json.dumps(document, indent=1))
    if options.write:
        write_json(RESULTS / "epoch_measures.json", document)
        write_text(RESULTS / "epoch_measures.md", as_markdown(document))
    return 0 if document["median_share"] < BAR else 1


if __name__ == "__main__":
    sys.exit(main())
