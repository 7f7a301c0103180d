"""One fine-tuning run: the whole loop, with tether in three of its lines."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

import tether
from tether import EarlyLearningRegularization, SelfLabelCorrection
from tether.demo.experiments import Experiment
from tether.demo.watch import Floats, Integers, Watch
from tether.measure import correction_report
from tether.noise import NoisyLabels

BATCH_SIZE = 32


@dataclass(frozen=True)
class Run:
    """What a run came to.

    Attributes:
        experiment: name of the experiment.
        method: name of the method.
        seed: seed of the task, of the order of the samples and of the method.
        seconds: time spent training, evaluation left out.
        curves: quantity -> one value an epoch, the first before training.
        distances: layer -> distance travelled from the pretrained weights; the head from zero.
        features: ``"start"`` and ``"end"`` -> features of the training samples ``[N, 64]``.
        labels: ``"true"`` and ``"given"`` labels of the training samples ``[N]``.
        corrections: precision and recall of the labels that the method puts in place of the
            given ones; None where it suggests none.
    """

    experiment: str
    method: str
    seed: int
    seconds: float
    curves: dict[str, list[float]]
    distances: dict[str, float]
    features: dict[str, Floats]
    labels: dict[str, Integers]
    corrections: dict[str, float] | None


def fine_tune(experiment: Experiment, method: str, seed: int, epochs: int | None = None) -> Run:
    """Fine-tune the pretrained network of a seed with one method.

    Args:
        experiment: what to train on, and how.
        method: one of ``experiment.methods``.
        seed: everything random follows from it; methods are compared on equal seeds.
        epochs: instead of the experiment's own.
    """
    epochs = epochs or experiment.epochs
    task = experiment.task(seed)
    model = copy.deepcopy(task.pretrained)
    optimizer = experiment.optimizer(model.parameters())
    shuffle = torch.Generator().manual_seed(seed)
    loader = DataLoader(task.train, BATCH_SIZE, shuffle=True, generator=shuffle)
    methods = experiment.methods[method]()

    watch = Watch(model, task)
    seconds = 0.0
    reg = tether.attach(model, methods, optimizer, train_data=task.train, epochs=epochs, seed=seed)
    for _ in range(epochs):
        started = time.perf_counter()
        for x, y in reg.batches(loader):
            loss = reg.loss(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        seconds += time.perf_counter() - started
        watch.look()

    labels = suggested_labels(reg)
    reg.finish()
    return Run(
        experiment=experiment.name,
        method=method,
        seed=seed,
        seconds=seconds,
        curves=watch.curves,
        distances=watch.distances(),
        features=watch.features(),
        labels={"true": task.noisy.true.numpy(), "given": task.noisy.labels.numpy()},
        corrections=None if labels is None else _score(task.noisy, labels),
    )


def suggested_labels(reg: tether.Handle) -> Tensor | None:
    """The label that the method believes in, for every training sample; None if it has none."""
    for method in reg.methods.values():
        if isinstance(method, (SelfLabelCorrection, EarlyLearningRegularization)):
            return method.labels()
    return None


def _score(noisy: NoisyLabels, labels: Tensor) -> dict[str, float]:
    report = correction_report(noisy.labels, noisy.true, labels)
    return {"precision": report["precision"], "recall": report["recall"]}
