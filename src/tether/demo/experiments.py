"""The two experiments of the demo: tasks, methods and hyper-parameters.

Hyper-parameters were chosen on seeds from 100 on; results are reported on seeds from 0 on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tether import Method
from tether.demo.task import Task, few_shot_task, noisy_task
from tether.tuning.method_spec import make_method, parse_method

PLAIN = "plain"


@dataclass(frozen=True)
class Experiment:
    """One task on which methods are compared, all with the same optimiser and epochs.

    Attributes:
        name: short name, a key of ``EXPERIMENTS``.
        title: its name on paper.
        task: makes the task of a seed.
        settings: options of ``tether tune``.
        recipe: the optimiser in words.
        epochs: length of training.
        methods: name on paper -> methods as ``tether tune`` takes them; ``plain`` has none.
    """

    name: str
    title: str
    task: Callable[[int], Task]
    settings: Mapping[str, Any]
    recipe: str
    epochs: int
    methods: Mapping[str, Sequence[str]]

    def make(self, method: str) -> list[Method]:
        """A method's objects, made anew."""
        return [make_method(*parse_method(text)) for text in self.methods[method]]


_COMMON = {
    "lr_scheduler": "constant", "weight_decay": 0.0, "batch_size": 32, "eval_batch_size": 512,
    "device": "cpu", "save_total_limit": 0, "export": "none",
}  # fmt: skip

NOISY = Experiment(
    name="noisy_labels",
    title="Wrong labels",
    task=noisy_task,
    settings={
        **_COMMON, "model": "demo:digits", "data": "demo:digits", "optim": "adam",
        "optim_args": {"amsgrad": True}, "lr": 2e-3,
    },
    recipe="Adam with AMSGrad, learning rate 2e-3, batches of 32",
    epochs=80,
    methods={
        PLAIN: [],
        "L2-SP": ["l2_sp:weight=0.03"],
        "AdaRand": ["adarand"],
        "ELR": ["elr"],
        "RegSL": ["regsl:radius=5.0,growth=1.4,head_radius=4.0"],
    },
)  # fmt: skip

FEW_SHOT = Experiment(
    name="few_labels",
    title="Few labels",
    task=few_shot_task,
    settings={
        **_COMMON, "model": "demo:digits", "data": "demo:digits-few", "optim": "sgd",
        "optim_args": {"momentum": 0.9, "nesterov": True}, "lr": 0.05,
    },
    recipe="SGD, learning rate 0.05, Nesterov momentum 0.9, batches of 32",
    epochs=100,
    methods={
        PLAIN: [],
        "FNP": ["feature_norm"],
        "RandReg": ["randreg:distribution=normal"],
        "AdaRand": ["adarand:weight=3.0"],
    },
)  # fmt: skip

EXPERIMENTS = {experiment.name: experiment for experiment in (NOISY, FEW_SHOT)}
