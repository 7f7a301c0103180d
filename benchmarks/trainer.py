"""The command ``python -m benchmarks.trainer``: what tether adds to a step of the Trainer.

MobileNetV2 0.35 at 96 pixels, batches of 32 random images. The base is the same Trainer without
tether, with the same loss function (``compute_loss_func``); all variants take turns of a few steps
in the same run.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments

import tether
from tether.integrations.hf import TetherMixin
from tether.machine import describe_machine

RESULTS = Path(__file__).parent / "results"
BATCH, CLASSES, PIXELS, SAMPLES = 32, 10, 96, 320
PLAIN = "Trainer alone"
BARS = {"no method": 1.05, "l2_sp": 1.08, "layerwise_constraint": 1.15}


class Images(Dataset[dict[str, torch.Tensor]]):
    """Random images in memory."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(SAMPLES, 3, PIXELS, PIXELS, generator=generator)

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        return {"x": self.x[row], "labels": torch.tensor(row % CLASSES)}


class Clock(TrainerCallback):
    """Milliseconds between the ends of steps; the first of a turn is left out."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._last = 0.0

    def on_train_begin(self, *args: Any, **now: Any) -> None:
        self._last = 0.0

    def on_step_end(self, *args: Any, **now: Any) -> None:
        at = time.perf_counter()
        if self._last:
            self.times.append(1e3 * (at - self._last))
        self._last = at


class Regularised(TetherMixin, Trainer):
    """As a user writes it."""


def plain_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
    total = F.cross_entropy(outputs, labels, reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else len(labels))


def make(variant: str, folder: str, steps: int) -> tuple[Trainer, Clock]:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("mobilenetv2_035", num_classes=CLASSES)
    arguments = TrainingArguments(
        output_dir=f"{folder}/{variant}", per_device_train_batch_size=BATCH, max_steps=steps,
        learning_rate=1e-3, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False, label_names=["labels"], logging_strategy="no",
        dataloader_pin_memory=False, log_level="error",
    )  # fmt: skip
    clock = Clock()
    given: dict[str, Any] = {
        "model": model, "args": arguments, "train_dataset": Images(), "callbacks": [clock],
    }  # fmt: skip
    if variant == PLAIN:
        return Trainer(**given, compute_loss_func=plain_loss), clock
    methods: dict[str, list[tether.Method]] = {
        "no method": [],
        "l2_sp": [tether.L2SP(weight=0.01)],
        "layerwise_constraint": [tether.LayerwiseConstraint(radius=2.0, growth=1.5)],
        "adarand": [tether.AdaRand()],
        "elr": [tether.EarlyLearningRegularization()],
    }
    return Regularised(**given, tether_methods=methods[variant]), clock


def measure(rounds: int, steps: int) -> list[dict[str, Any]]:
    """A row a variant; all take a turn of some steps in each round, in a new order."""
    names = [PLAIN, *BARS, "adarand", "elr"]
    with tempfile.TemporaryDirectory() as folder:
        made = {name: make(name, folder, steps) for name in names}
        turns: dict[str, list[float]] = {name: [] for name in names}
        shuffle = random.Random(0).shuffle
        for turn in range(rounds + 1):
            shuffle(names)
            for name in names:
                trainer, clock = made[name]
                clock.times.clear()
                trainer.train()
                if turn:  # the first round warms up
                    turns[name].append(statistics.median(clock.times))
            print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
    base = turns[PLAIN]
    return [
        {
            "variant": name,
            "min_ms": min(turns[name]),
            "median_ms": statistics.median(turns[name]),
            "ratio_min": min(turns[name]) / min(base),
            "ratio_paired": statistics.median(
                a / b for a, b in zip(turns[name], base, strict=True)
            ),
            "bar": BARS.get(name),
        }
        for name in made
    ]


def as_markdown(document: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    lines = [
        "# What tether adds to a step of the Trainer",
        "",
        f"Written by `python -m benchmarks.trainer --write`. MobileNetV2 0.35, {PIXELS} px, "
        f"batches of {BATCH}, AdamW, float32. {document['rounds']} rounds in which every "
        f"variant makes {document['steps']} steps, in a new order; the ratio is to the Trainer "
        "with the same loss function and without tether: least turns, and median over the rounds.",
        "",
        f"{machine}; threads {document['threads']}.",
        "",
        "| | ms a step (least) | (median) | ratio | paired | bar |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in document["rows"]:
        bar = f"{row['bar']:.2f}" if row["bar"] else "–"
        lines.append(
            f"| {row['variant']} | {row['min_ms']:.1f} | {row['median_ms']:.1f} | "
            f"{row['ratio_min']:.3f} | {row['ratio_paired']:.3f} | {bar} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trainer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=8, help="steps of a turn (default 8)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/trainer.*")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="training begins again")
    document = {
        "machine": describe_machine("timm", "transformers"),
        "threads": options.threads,
        "rounds": options.rounds,
        "steps": options.steps,
        "rows": measure(options.rounds, options.steps),
    }
    text = as_markdown(document)
    print(text)
    if options.write:
        (RESULTS / "trainer.md").write_text(text)
        (RESULTS / "trainer.json").write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
