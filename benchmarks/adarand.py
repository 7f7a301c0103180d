"""AdaRand's own part for many classes, against the formulas as they are written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import tether
from benchmarks.measure import available_memory, interleaved, peak_memory
from benchmarks.naive_adarand import NaiveAdaRand
from tether.methods.features.class_membership import add_class_sums
from tether.methods.features.class_prior import ClassPrior, prior_adam
from tether.methods.features.random_regression import adarand_feature_loss

SIZES = ((196, 2048), (1000, 2048), (10_000, 768))
BATCH = 64


def inputs(num_classes: int, num_features: int) -> dict[str, Tensor]:
    """Features like those behind a rectifier, labels, and a prior that is not yet at rest."""
    generator = torch.Generator().manual_seed(0)

    def draw(rows: int) -> Tensor:
        return torch.randn(rows, num_features, generator=generator)

    return {
        "features": draw(BATCH).relu(),
        "labels": torch.randint(num_classes, (BATCH,), generator=generator),
        "means": 0.4 + 0.1 * draw(num_classes),
        "stds": 0.5 + 0.01 * draw(num_classes).abs(),
        "noise": draw(BATCH),
    }
