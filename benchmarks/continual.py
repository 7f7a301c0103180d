"""The command ``python -m benchmarks.continual``: recipes on digits in five tasks of two."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import TensorDataset

from tether import EWC, L2SP, FeatureDistillation, IncrementalBCE, Method, PredictionDistillation
from tether.continual import Task, train_sequence
from tether.machine import describe_machine

RECIPES: dict[str, Callable[[], list[Method]]] = {
    "plain": list,
    "l2_sp": lambda: [L2SP(weight=0.2, head_weight=0.0)],
    "ewc": lambda: [EWC(weight=100.0)],
    "incremental_bce": lambda: [IncrementalBCE()],
    "incremental_bce, mask": lambda: [IncrementalBCE(old_logits="mask")],
    "incremental_bce + ewc": lambda: [IncrementalBCE(), EWC(weight=10.0, fisher="empirical")],
    "incremental_bce + prediction_distillation": lambda: [
        IncrementalBCE(), PredictionDistillation(),
    ],
    "incremental_bce + prediction_distillation + l2_sp": lambda: [
        IncrementalBCE(), PredictionDistillation(), L2SP(weight=0.2, head_weight=0.0),
    ],
    "incremental_bce + prediction_distillation + ewc": lambda: [
        IncrementalBCE(), PredictionDistillation(), EWC(weight=10.0, fisher="empirical"),
    ],
    "incremental_bce + feature_distillation": lambda: [
        IncrementalBCE(), FeatureDistillation(weight=0.1),
    ],
}  # fmt: skip


def make_tasks(train: int) -> list[Task]:
    """Two digits a task: ``train`` images of them to train on, the others to test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(bunch.data / 16.0).float()[order]
    y = torch.from_numpy(bunch.target).long()[order]
    tasks = []
    for k in range(5):
        own = [2 * k, 2 * k + 1]
        rows = torch.isin(y, torch.tensor(own)).nonzero().flatten()
        parts = [TensorDataset(x[part], y[part]) for part in (rows[:train], rows[train:])]
        tasks.append(Task(f"{own[0]}+{own[1]}", parts[0], parts[1], own))
    return tasks


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.continual", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="of each recipe (default 3)")
    parser.add_argument("--train", type=int, default=250, help="images of a task (default 250)")
    parser.add_argument("--epochs", type=int, default=19, help="of a task (default 19)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tasks = make_tasks(options.train)
    print("| recipe | average accuracy | forgetting | global | task known |")
    print("|---|---|---|---|---|")
    for name, recipe in RECIPES.items():
        found = []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
            found.append(
                train_sequence(
                    net, tasks, recipe(), epochs=options.epochs, seed=seed,
                    optimizer=lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
                )
            )  # fmt: skip
        cells = []
        for number in ("average_accuracy", "forgetting", "global_forgetting", "local_forgetting"):
            values = [100 * getattr(one, number) for one in found]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    machine = describe_machine()
    print(f"\n{options.seeds} seeds, mean and standard deviation in %; {machine}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
