"""The command ``python -m benchmarks.teachers``: methods that compare with the pretrained model.

What each adds to a training step in time and in memory, alone and all together: they share one
copy of the pretrained weights and one forward of it a step.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial

import torch

import tether
from benchmarks.measure import interleaved, paired_ratio, peak_memory
from benchmarks.models import MODELS, Trainer, make_data

PLAIN = "plain loop"


def teachers() -> list[str]:
    """Registered methods that ask for a forward of the pretrained weights in their defaults."""
    found = []
    for name in tether.list_methods():
        info = tether.method_info(name)
        if {"inputs", "reference"} <= set(info.needs) and info.cost == "forward":
            found.append(name)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.teachers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="steps of each (default 15)")
    parser.add_argument("--model", choices=list(MODELS), default="resnet18")
    parser.add_argument(
        "--methods", nargs="*", default=["delta", "lwf", "dr_tune"], help="names of methods"
    )
    options = parser.parse_args()
    unknown = set(options.methods) - set(teachers())
    if unknown or not options.methods:
        parser.error(f"--methods takes some of {', '.join(teachers())}")
    torch.set_num_threads(1)
    data, make = make_data(), MODELS[options.model]
    variants = {PLAIN: None, **{name: name for name in options.methods}}
    variants[" + ".join(options.methods)] = "+".join(options.methods)

    def train(method: str | None) -> Trainer:
        trainer = Trainer(make, data, method)
        for _ in range(3):
            trainer.step()
        return trainer

    # children are forked first, while this process is small: what they use is then their own
    memory = {variant: peak_memory(partial(train, method)) for variant, method in variants.items()}
    trainers = {variant: Trainer(make, data, method) for variant, method in variants.items()}
    times = interleaved({v: trainer.step for v, trainer in trainers.items()}, options.rounds)
    weights = sum(p.nbytes for p in make().parameters()) / 2**20
    print(f"{options.model}: {weights:.0f} MiB of weights")
    for variant, own in times.items():
        row = {
            "variant": variant,
            "min_ms": round(min(own), 1),
            "ratio_min": round(min(own) / min(times[PLAIN]), 2),
            "ratio_paired": round(paired_ratio(own, times[PLAIN]), 2),
            "peak_mib": None if memory[variant] is None else round(memory[variant]),
        }
        print(json.dumps(row))
    return 0


if __name__ == "__main__":
    sys.exit(main())
