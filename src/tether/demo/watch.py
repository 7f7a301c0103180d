"""What is measured while a network is fine-tuned."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from tether.demo.task import DigitNetwork, Task
from tether.measure import (
    feature_entropy,
    feature_norms,
    layer_distances,
    memorization_fractions,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ENTROPY_SAMPLES = 200  # the estimate compares all pairs


class Watch:
    """Looks at a network in evaluation mode before training and after every epoch.

    Args:
        model: the network, which its owner goes on training.
        task: samples and labels to look at.
    """

    def __init__(self, model: DigitNetwork, task: Task) -> None:
        self.model = model
        self.task = task
        self.start = copy.deepcopy(model)
        self.curves: dict[str, list[float]] = {}
        self.look()

    @torch.no_grad()
    def look(self) -> None:
        """Add a point to every curve."""
        was_training = self.model.training
        self.model.eval()
        inputs, labels = self.task.test.tensors
        features = self.model.features(inputs)
        correct = self.model.head(features).argmax(dim=1) == labels
        fitted = self.model(self.task.train.tensors[0]).argmax(dim=1)
        shares = memorization_fractions(fitted, self.task.noisy.labels, self.task.noisy.true)
        self.model.train(was_training)
        point = {
            "epoch": float(len(self.curves.get("epoch", ()))),
            "test_accuracy": float(correct.float().mean()),
            "clean_fitted": shares["fitted"],
            "memorized": shares["memorised"],
            "norm": feature_norms(features)["mean"],
            "entropy": float(feature_entropy(features[:ENTROPY_SAMPLES])),
        }
        for name, value in point.items():
            self.curves.setdefault(name, []).append(value)

    def distances(self) -> dict[str, float]:
        """How far each layer went from its pretrained weights, the new head from zero."""
        found = layer_distances(
            self.model, self.start.state_dict(), norms=("fro",), from_zero=("head",)
        )
        return {name.removesuffix(".weight"): norms["fro"] for name, norms in found.items()}

    @torch.no_grad()
    def features(self) -> dict[str, Floats]:
        """Features of the training samples before and after."""
        inputs = self.task.train.tensors[0]
        return {
            moment: model.features(inputs).numpy().astype(np.float64)
            for moment, model in (("start", self.start), ("end", self.model))
        }
