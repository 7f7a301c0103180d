from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tests.methods.noisy_digits import images
from tether import (
    EWC,
    L2SP,
    ConfigError,
    FeatureDistillation,
    IncrementalBCE,
    Method,
    PredictionDistillation,
    TetherError,
)
from tether.continual import (
    Memory,
    SequenceResult,
    Task,
    grow_head,
    methods_of_task,
    train_sequence,
)


@functools.cache
def digits() -> list[Task]:
    """Five tasks of two digits, few of each."""
    x, y = images()
    tasks = []
    for k in range(5):
        own = [2 * k, 2 * k + 1]
        rows = torch.nonzero((y == own[0]) | (y == own[1])).flatten()
        parts = [TensorDataset(x[part], y[part]) for part in (rows[:100], rows[100:])]
        tasks.append(Task(f"{own[0]}+{own[1]}", parts[0], parts[1], own))
    return tasks


def network(seed: int, outputs: int = 10) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, outputs))


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def run(methods: list[Method], seed: int, *, grow: bool = False, tasks: int = 5) -> SequenceResult:
    net = network(seed, 2 if grow else 10)
    return train_sequence(
        net,
        digits()[:tasks],
        methods,
        optimizer=sgd,
        epochs=12,
        batch_size=50,
        seed=seed,
        grow=grow,
    )


RECIPES = {
    "ewc": lambda: [IncrementalBCE(), EWC(weight=10.0, fisher="empirical", samples=32)],
    "prediction": lambda: [IncrementalBCE(), PredictionDistillation()],
    "both": lambda: [
        IncrementalBCE(), PredictionDistillation(), L2SP(weight=0.2, head_weight=0.0),
    ],
}  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_in_five_tasks_are_kept_better_than_by_plain_fine_tuning(seed: int) -> None:
    plain = run([], seed)
    assert plain.average_accuracy < 0.25 and plain.forgetting > 0.9
    for name in ("ewc", "prediction"):
        found = run(RECIPES[name](), seed)
        assert found.average_accuracy > plain.average_accuracy + 0.15, name
        assert found.forgetting < plain.forgetting - 0.3, name
        assert found.global_forgetting < 0.3, name
        assert found.local_forgetting < 0.1, name  # with the task known little is lost


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_penalties_without_a_term_on_the_outputs_keep_nothing(seed: int) -> None:
    for recipe in ([EWC(weight=100.0)], [L2SP(weight=0.2, head_weight=0.0)]):
        assert run(recipe, seed).average_accuracy < 0.25
    assert run(RECIPES["both"](), seed).average_accuracy > 0.35
    assert run([IncrementalBCE(), FeatureDistillation(weight=0.1)], seed).average_accuracy > 0.3


def test_a_growing_head_does_as_well() -> None:
    found = run(RECIPES["both"](), 0, grow=True, tasks=3)
    assert found.average_accuracy > 0.5
    assert found.forward_transfer is None  # the head had no outputs for what was to come
    assert [sum(value == value for value in row) for row in found.matrix] == [1, 2, 3]


def test_tasks_with_the_same_classes_measure_forward_transfer() -> None:
    x, y = images()
    turned = torch.rot90(x.view(-1, 8, 8), 1, (1, 2)).reshape(-1, 64)
    tasks = [
        Task(name, TensorDataset(rows[:300], y[:300]), TensorDataset(rows[900:], y[900:]),
             list(range(10)))
        for name, rows in (("upright", x), ("turned", turned))
    ]  # fmt: skip
    found = train_sequence(network(0), tasks, [PredictionDistillation()], optimizer=sgd, epochs=4)
    assert found.forward_transfer is not None
    assert all(value == value for row in found.matrix for value in row)
    assert found.matrix[0][0] > 0.8


# -- what methods are told -------------------------------------------------------------------------


def test_methods_of_a_task_know_the_classes_before() -> None:
    recipe = [
        IncrementalBCE(), PredictionDistillation(weight=2.0), EWC(), L2SP(weight=0.5),
        FeatureDistillation(),
    ]  # fmt: skip
    first = methods_of_task(recipe, Memory([], [0, 1], True))
    assert [m.info.name for m in first] == ["incremental_bce", "l2_sp"]
    information = {"w": torch.ones(1)}
    later = {
        m.info.name: m for m in methods_of_task(recipe, Memory([0, 1], [2], False, information))
    }
    assert later["incremental_bce"].options()["new_classes"] == [2]
    assert later["prediction_distillation"].options() == {
        "weight": 2.0, "mode": "sigmoid", "temperature": 1.0, "old_classes": [0, 1],
    }  # fmt: skip
    assert later["ewc"].options()["information"] is information
    kept = methods_of_task([PredictionDistillation(old_classes=1)], Memory([0, 1], [2], False))
    assert kept[0].options()["old_classes"] == 1  # as it was written
    assert recipe[1].old_classes is None


def test_a_head_grows_and_keeps_its_rows() -> None:
    net = network(0, 3)
    before = net[2].weight.detach().clone()
    head = grow_head(net, 5, seed=1)
    assert net[2] is head and torch.equal(head.weight[:3], before)
    assert head.weight[3:].any() and not head.bias[3:].any()
    with pytest.raises(TetherError, match="2 are fewer"):
        grow_head(net, 2)


def test_tasks_that_share_some_classes_are_refused() -> None:
    tasks = digits()
    mixed = Task("mixed", tasks[0].train, tasks[0].test, [1, 2])
    with pytest.raises(ConfigError, match="share the classes 1, but not all"):
        train_sequence(network(0), [tasks[0], mixed], optimizer=sgd)
    with pytest.raises(ConfigError, match="two tasks at least"):
        train_sequence(network(0), tasks[:1], optimizer=sgd)
    with pytest.raises(ConfigError, match="in the order of the tasks"):
        train_sequence(network(0, 2), tasks[1:3], optimizer=sgd, grow=True)
