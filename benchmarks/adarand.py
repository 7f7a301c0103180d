"""AdaRand's own part for many classes, against the formulas as they are written down."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import tether
from benchmarks.measure import available_memory, interleaved, peak_memory, range_times
from benchmarks.naive_adarand import NaiveAdaRand
from tether import AdaRand

SIZES = ((196, 2048), (1000, 2048), (10_000, 768))
BATCH_SIZE = 64


class FeaturesAndHead(nn.Module):
    """Hardly a network: nearly all of its step is the head and the method."""

    def __init__(self, num_classes: int, num_features: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(num_features))
        self.head = nn.Linear(num_features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features + self.shift)


class Steps:
    """Training of a head on given features, with methods or without; ``step()`` makes one step."""

    def __init__(self, methods: list[tether.Method], num_classes: int, num_features: int) -> None:
        self.data = make_features(num_classes, num_features)
        self.model = FeaturesAndHead(num_classes, num_features)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.reg = tether.attach(
            self.model, methods, self.optimizer, train_data=self.data, total_steps=10_000
        )
        loader = DataLoader(self.data, BATCH_SIZE, shuffle=True)
        self.batch = next(iter(self.reg.batches(loader)))

    def step(self) -> None:
        x, y = self.batch
        self.reg.loss(self.model(x), y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def make_features(num_classes: int, num_features: int) -> TensorDataset:
    """Rows like those behind a rectifier, at least one a class and ten batches in all."""
    generator = torch.Generator().manual_seed(0)
    count = max(num_classes, 10 * BATCH_SIZE)
    features = torch.randn(count, num_features, generator=generator).relu_()
    return TensorDataset(features, torch.arange(count) % num_classes)


def ours(num_classes: int, num_features: int) -> float:
    """Least milliseconds of AdaRand's own part of a step."""
    total = {}
    for name, methods in {"plain": [], "adarand": [AdaRand()]}.items():
        ranges = range_times(Steps(methods, num_classes, num_features).step)
        total[name] = sum(ranges.values())
    return total["adarand"] - total["plain"]


def naive(num_classes: int, num_features: int, rounds: int) -> float | None:
    """Least milliseconds of the same by the formulas; None where it does not fit in memory."""
    if NaiveAdaRand.bytes_needed(num_classes, num_features) > 0.8 * available_memory():
        return None
    features, labels = make_features(num_classes, num_features)[:BATCH_SIZE]
    prior = NaiveAdaRand(
        0.4 + 0.1 * torch.randn(num_classes, num_features),
        torch.full((num_classes, num_features), 0.5),
    )
    noise = torch.randn_like(features)

    def step() -> None:
        prior.feature_loss(features, labels, noise)
        prior.update(features, labels)

    return min(interleaved({"naive": step}, rounds, warmup=1)["naive"])


def head_memory() -> dict[tuple[int, int], float | None]:
    """Peak memory that AdaRand adds to training a head of each size, in MiB."""
    added: dict[tuple[int, int], float | None] = {}
    for size in SIZES:
        plain = peak_memory(partial(_train, False, *size))
        adarand = peak_memory(partial(_train, True, *size))
        added[size] = None if plain is None or adarand is None else adarand - plain
    return added


def _train(with_method: bool, num_classes: int, num_features: int) -> Steps:
    steps = Steps([AdaRand()] if with_method else [], num_classes, num_features)
    for _ in range(3):
        steps.step()
    return steps


def measure_sizes(rounds: int, memory: dict[tuple[int, int], float | None]) -> list[dict[str, Any]]:
    """A row for every size."""
    rows = []
    for size in SIZES:
        slow, fast = naive(*size, rounds), ours(*size)
        rows.append(
            {
                "classes": size[0],
                "features": size[1],
                "ours_ms": fast,
                "naive_ms": slow,
                "times_faster": None if slow is None else slow / fast,
                "naive_needs_gib": NaiveAdaRand.bytes_needed(*size) / 2**30,
                "memory_mib": memory[size],
                "table_mib": 4 * size[0] * size[1] / 2**20,
            }
        )
    return rows
