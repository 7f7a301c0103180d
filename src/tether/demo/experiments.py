"""The two experiments of the demo: tasks, methods and hyper-parameters.

Hyper-parameters were chosen on seeds from 100 on; results are reported on seeds from 0 on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from tether import (
    L2SP,
    AdaRand,
    EarlyLearningRegularization,
    FeatureNormPenalty,
    Method,
    RandReg,
    RegSL,
)
from tether.demo.task import Task, few_shot_task, noisy_task

PLAIN = "plain"


@dataclass(frozen=True)
class Experiment:
    """One task on which methods are compared, all with the same optimiser and epochs.

    Attributes:
        name: short name, a key of ``EXPERIMENTS``.
        title: its name on paper.
        task: makes the task of a seed.
        optimizer: makes the optimiser.
        recipe: the optimiser in words.
        epochs: length of training.
        methods: name of a method -> what makes it anew for a run; ``plain`` has none.
    """

    name: str
    title: str
    task: Callable[[int], Task]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    recipe: str
    epochs: int
    methods: Mapping[str, Callable[[], list[Method]]]


NOISY = Experiment(
    name="noisy_labels",
    title="Wrong labels",
    task=noisy_task,
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-3, amsgrad=True),
    recipe="Adam with AMSGrad, learning rate 2e-3, batches of 32",
    epochs=80,
    methods={
        PLAIN: lambda: [],
        "L2-SP": lambda: [L2SP(weight=0.03)],
        "AdaRand": lambda: [AdaRand()],
        "ELR": lambda: [EarlyLearningRegularization()],
        "RegSL": lambda: [RegSL(radius=5.0, growth=1.4, head_radius=4.0)],
    },
)

FEW_SHOT = Experiment(
    name="few_labels",
    title="Few labels",
    task=few_shot_task,
    optimizer=lambda parameters: torch.optim.SGD(parameters, 0.05, momentum=0.9, nesterov=True),
    recipe="SGD, learning rate 0.05, Nesterov momentum 0.9, batches of 32",
    epochs=100,
    methods={
        PLAIN: lambda: [],
        "FNP": lambda: [FeatureNormPenalty()],
        "RandReg": lambda: [RandReg(distribution="normal")],
        "AdaRand": lambda: [AdaRand(weight=3.0)],
    },
)

EXPERIMENTS = {experiment.name: experiment for experiment in (NOISY, FEW_SHOT)}
