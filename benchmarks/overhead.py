"""The command ``python -m benchmarks.overhead``: what each method adds to a training step."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

import tether
from benchmarks.adarand import head_memory, measure_sizes
from benchmarks.measure import interleaved, paired_ratio, peak_memory, range_times
from benchmarks.models import MODELS, Trainer, fitting, make_data
from benchmarks.tables import as_markdown
from tether.machine import describe_machine

RESULTS = Path(__file__).parent / "results"
PLAIN, EMPTY = "plain loop", "no method"


def variants(methods: list[str]) -> dict[str, str | None]:
    """Name in the table -> what a trainer takes."""
    return {PLAIN: None, EMPTY: "", **{name: name for name in methods}}


def measure_memory(name: str, methods: list[str]) -> dict[str, float | None]:
    """Peak memory of every variant, each in a child of its own."""
    data = make_data()
    return {
        variant: peak_memory(partial(_train, name, data, method))
        for variant, method in variants(methods).items()
    }


def measure_time(name: str, methods: list[str], rounds: int) -> list[dict[str, Any]]:
    """A row for every variant, all measured in turn within the same rounds."""
    data = make_data()
    trainers = {
        variant: Trainer(MODELS[name], data, method)
        for variant, method in variants(methods).items()
    }
    times = interleaved({v: trainer.step for v, trainer in trainers.items()}, rounds)
    ranges = {v: range_times(trainer.step) for v, trainer in trainers.items()}
    rows = []
    for variant, own in times.items():
        base, ms = times[PLAIN], ranges[variant]
        row: dict[str, Any] = {
            "variant": variant,
            "median_ms": statistics.median(own),
            "min_ms": min(own),
            "ratio_min": min(own) / min(base),
            "ratio_paired": paired_ratio(own, base),
        }
        if ms:
            task = ranges[EMPTY]["tether::loss"]
            row["loss_ms"] = ms["tether::loss"] - task
            row["edit_ms"] = ms["tether::edit_gradients"]
            row["after_ms"] = ms["tether::after_step"]
            row["own_share"] = (row["loss_ms"] + row["edit_ms"] + row["after_ms"]) / min(base)
        rows.append(row)
        print(f"{name}: {variant} {min(own):.1f} ms", file=sys.stderr, flush=True)
    return rows


def _train(name: str, data: torch.utils.data.TensorDataset, method: str | None) -> Trainer:
    trainer = Trainer(MODELS[name], data, method)
    for _ in range(3):
        trainer.step()
    return trainer


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="steps of each method (default 25)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    parser.add_argument("--models", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--methods", default="*", help='wildcard of names (default "*")')
    parser.add_argument(
        "--write",
        action="store_true",
        help=f"write {RESULTS.parent.name}/{RESULTS.name}/overhead.*",
    )
    options = parser.parse_args()
    methods = tether.list_methods(options.methods)
    if options.rounds < 1 or options.threads < 1 or not methods:
        parser.error("--rounds and --threads are at least 1, --methods matches a method")
    torch.set_num_threads(options.threads)

    # children are forked first, while this process is small: what they use is then their own
    heads = head_memory()
    rows_of = {name: fitting(name, methods) for name in options.models}
    memory = {name: measure_memory(name, rows_of[name]) for name in options.models}
    models = {name: measure_time(name, rows_of[name], options.rounds) for name in options.models}
    for name, rows in models.items():
        for row in rows:
            row["peak_mib"] = memory[name][row["variant"]]
    document = {
        "machine": describe_machine("timm"),
        "threads": options.threads,
        "rounds": options.rounds,
        "models": models,
        "adarand": measure_sizes(max(3, options.rounds // 5), heads),
    }
    text = as_markdown(document)
    print(text)
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "overhead.md").write_text(text)
        (RESULTS / "overhead.json").write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
