"""A sequence of tasks in Python: one network, one head, one task after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from tether.continual.classes import check_tasks, grow_head
from tether.continual.outcome import SequenceResult
from tether.continual.recipe import (
    Memory,
    consolidate,
    fisher_rows,
    fisher_samples,
    methods_of_task,
)
from tether.engine.attach import attach, prepare
from tether.engine.loader import split_batch, to_device
from tether.engine.taps import as_logits
from tether.errors import ConfigError
from tether.losses import LossLike
from tether.method import Method

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Task:
    """One task of a sequence.

    Attributes:
        name: for tables.
        train: map-style training data, samples as ``reg.batches`` takes them: (input, label).
        test: the same for its tests.
        classes: outputs that its labels are among.
    """

    name: str
    train: Dataset[Any]
    test: Dataset[Any]
    classes: Sequence[int]


def train_sequence(
    model: nn.Module, tasks: Sequence[Task], methods: Sequence[Method] = (), *,
    optimizer: MakeOptimizer, epochs: int = 1, batch_size: int = 32, head: str | None = None,
    grow: bool = False, loss: LossLike = "cross_entropy", seed: int = 0,
) -> SequenceResult:  # fmt: skip
    """Train one network on tasks one after another, without their earlier data.

    Every task has an optimiser of its own; ``w0`` and with it every teacher and every penalty on
    distances is the network as the task before left it. Options ``old_classes``, ``new_classes``
    and ``information`` of methods are filled in where they were left open. Predictions are made
    among the classes seen so far.

    Args:
        model: trained in place.
        tasks: two or more; each with classes of its own, or all with the same.
        methods: the recipe: objects that are copied for each task.
        optimizer: parameters -> optimiser.
        epochs: of each task.
        batch_size: of training.
        head: dotted name of the head, where it cannot be found.
        grow: give the head outputs for the classes seen so far only, task by task; else it has
            outputs for all from the start, and those to come are masked in predictions.
        loss: as for :func:`tether.attach`.
        seed: of the order of samples, of new rows of the head, and of the methods.

    Raises:
        ConfigError: tasks that share some of their classes; a growing head whose classes are not
            numbered in the order of the tasks.
        TetherError: a method lacks something.

    Example:
        >>> from tether import PredictionDistillation, IncrementalBCE
        >>> from torch.utils.data import TensorDataset
        >>> x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
        >>> parts = [TensorDataset(x[k::2], torch.arange(20) % 2 + 2 * k) for k in (0, 1)]
        >>> tasks = [Task("ab"[k], parts[k], parts[k], [2 * k, 2 * k + 1]) for k in (0, 1)]
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
        >>> result = train_sequence(
        ...     net, tasks, [IncrementalBCE(), PredictionDistillation()],
        ...     optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        ... )
        >>> len(result.matrix), result.forward_transfer is not None
        (2, True)
    """
    names, classes = [task.name for task in tasks], [list(task.classes) for task in tasks]
    check_tasks(names, classes)
    seen: list[int] = []
    so_far = [{k for own in classes[: i + 1] for k in own} for i in range(len(tasks))]
    reach = [max(one) + 1 for one in so_far]
    if grow and any(len(one) < end for one, end in zip(so_far, reach, strict=True)):
        raise ConfigError("a growing head numbers its classes in the order of the tasks: 0, 1, ...")
    if grow:
        grow_head(model, reach[0], head=head, seed=seed)
    start = _row(model, tasks, [], classes, reach[0] if grow else None)[1]
    matrix, known = [], []
    information: dict[str, Tensor] | None = None
    for i, task in enumerate(tasks):
        if grow and i:
            grow_head(model, reach[i], head=head, seed=seed + i)
        memory = Memory(tuple(seen), tuple(classes[i]), i == 0, information)
        own = methods_of_task(methods, memory)
        _train(model, task, own, optimizer, epochs, batch_size, head, loss, seed + i)
        seen = sorted({*seen, *classes[i]})
        rows = fisher_rows(len(task.train), fisher_samples(methods))  # type: ignore[arg-type]
        if rows:
            batches = _batches(Subset(task.train, rows), model)
            information = consolidate(
                methods, model, batches, information, classes=seen, seed=seed + i
            )
        row = _row(model, tasks, seen, classes, reach[i] if grow else None)
        matrix.append(row[0])
        known.append(row[1])
    counts = [len(task.test) for task in tasks]  # type: ignore[arg-type]
    return SequenceResult(names, classes, counts, matrix, known, start)


def _train(
    model: nn.Module, task: Task, methods: list[Method], make: MakeOptimizer, epochs: int,
    batch_size: int, head: str | None, loss: LossLike, seed: int,
) -> None:  # fmt: skip
    prepare(model, methods)
    optimizer = make(p for p in model.parameters() if p.requires_grad)
    draw = torch.Generator().manual_seed(seed)
    loader = DataLoader(task.train, batch_size, shuffle=True, generator=draw)
    device = next(model.parameters()).device
    reg = attach(
        model, methods, optimizer, train_data=task.train, epochs=epochs, loss=loss, head=head,
        seed=seed,
    )  # fmt: skip
    model.train()
    for _ in range(epochs):
        for batch in reg.batches(loader, device):
            args, kwargs, targets = split_batch(batch)
            optimizer.zero_grad()
            total = reg.loss(model(*args, **kwargs), targets)
            total.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    reg.finish()


def _batches(data: Dataset[Any], model: nn.Module) -> Iterable[Any]:
    device = next(model.parameters()).device
    return (to_device(batch, device) for batch in DataLoader(data, 256))


@torch.no_grad()
def _row(
    model: nn.Module, tasks: Sequence[Task], seen: list[int], classes: list[list[int]],
    outputs: int | None,
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Accuracies on every task: among the classes seen, and among the task's own."""
    training = model.training
    model.eval()
    among_seen, among_own = [], []
    for task, own in zip(tasks, classes, strict=True):
        if outputs is not None and max(own) >= outputs:  # the head has no such outputs yet
            among_seen.append(math.nan)
            among_own.append(math.nan)
            continue
        right = [0, 0]
        for batch in _batches(task.test, model):
            args, kwargs, targets = split_batch(batch)
            logits = as_logits(model(*args, **kwargs))
            right[0] += right_among(logits, targets, seen)
            right[1] += right_among(logits, targets, own)
        size = len(task.test)  # type: ignore[arg-type]
        among_seen.append(right[0] / size if set(own) <= set(seen) else math.nan)
        among_own.append(right[1] / size)
    model.train(training)
    return among_seen, among_own


def right_among(logits: Tensor, targets: Tensor, classes: Sequence[int]) -> int:
    """How many rows have their largest logit among some classes at their label.

    Example:
        >>> right_among(torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([2]), [1, 2])
        1
    """
    if not classes:
        return 0
    at = torch.tensor(list(classes), device=logits.device)
    return int((at[logits[:, at].argmax(1)] == targets).sum())
