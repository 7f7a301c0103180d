"""A run over a sequence of tasks: what each is told, what is measured after it and carried on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader, Subset

from tether.continual.items import items_of
from tether.data.keyed import KeyedDataset
from tether.data.table import DataSource, Table
from tether.errors import ConfigError
from tether.method import Method
from tether.tuning.options import TuneConfig

if TYPE_CHECKING:
    from tether.tuning.stage import Stage

FISHER_FILE = "fisher.safetensors"


def methods_in_sequence(
    methods: Sequence[Method], config: TuneConfig, source: DataSource, start: Path | None
) -> list[Method]:
    """The methods of the last task that ``config.sequence`` names.

    Args:
        methods: the recipe.
        config: the settings of the task.
        source: its data, which know the classes of the tasks before.
        start: weights after the task before; the Fisher diagonal lies beside them.
    """
    from tether.continual.recipe import Memory, methods_of_task

    own = sorted({int(label) for label in _labels(source.tables["train"])})
    size = len(source.class_names)
    new = list(range(own[0], size)) if own else []
    kept = start.with_name(FISHER_FILE) if start is not None else None
    first = len(items_of(config.sequence)) == 1
    # where every task has the same classes all of them are old and new at once
    old = list(range(own[0])) if own and own[0] else ([] if first else list(range(size)))
    information = str(kept) if kept is not None and kept.is_file() else None
    return methods_of_task(methods, Memory(old, new, first, information))


class Tasks:
    """The tasks of a run.

    Args:
        config: the settings of the whole run.

    Raises:
        ConfigError: sharded weights, of which no Fisher diagonal can be made.
    """

    def __init__(self, config: TuneConfig) -> None:
        from tether.continual.recipe import fisher_samples
        from tether.tuning.assembly import make_methods

        self.config = config
        self.items = items_of(config.sequence)
        self.recipe = make_methods(config)
        self.fisher = fisher_samples(self.recipe)
        if self.fisher and config.fsdp:
            raise ConfigError("option fsdp: the Fisher diagonal of ewc needs whole weights")

    @cached_property
    def sources(self) -> list[DataSource]:
        """The data of all tasks."""
        from tether.continual.data import read_sequence

        return read_sequence(self.config)

    @cached_property
    def classes(self) -> list[list[int]]:
        """Outputs of each task's classes."""
        from tether.continual.data import task_classes

        return task_classes(self.sources)

    def tables(self) -> list[Table]:
        """What each task is tested on: its test split, or the validation split without one."""
        found = []
        for source in self.sources:
            test = source.tables.get("test")
            table = source.tables["validation"] if test is None or test.labels is None else test
            found.append(table)
        return found

    # -- measured --------------------------------------------------------------------------------

    def at_start(self, stage: Stage) -> dict[str, Any]:
        """Accuracies before the first task, where the head has outputs for all of them."""
        size = len(stage.assembly.source.class_names)
        if any(max(own) >= size for own in self.classes):
            return {"start": [None] * len(self.items)}
        return {"start": self._accuracies(stage)["known"]}

    def after(self, stage: Stage) -> dict[str, Any]:
        """Accuracies after a task: among all classes seen, and with the task known."""
        return self._accuracies(stage)

    def _accuracies(self, stage: Stage) -> dict[str, Any]:
        from tether.tuning.stage import first

        size = len(stage.assembly.source.class_names)
        encode, seed = stage.assembly.plain.encode, self.config.seed
        row: dict[str, Any] = {"matrix": [], "known": []}
        for table, own in zip(self.tables(), self.classes, strict=True):
            if max(own) >= size:
                row["matrix"].append(None)
                row["known"].append(None)
                continue
            data = KeyedDataset(table, encode, seed=seed, train=False)
            logits = first(stage.trainer.predict(data, metric_key_prefix="task").predictions)
            labels = _labels(table)
            row["matrix"].append(float((logits.argmax(1) == labels).mean()))
            among = np.asarray(own)[logits[:, own].argmax(1)]
            row["known"].append(float((among == labels).mean()))
        return row

    def outcome(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """What the run came to, from the rows after each task."""
        from tether.continual.outcome import SequenceResult

        rows = list(rows)

        def numbers(given: Sequence[float | None]) -> list[float]:
            return [math.nan if value is None else value for value in given]

        names = self.sources[-1].class_names
        short = [Path(item).stem for item in self.items]
        return SequenceResult(
            short if len(set(short)) == len(short) else self.items,
            [[names[k] for k in own] for own in self.classes],
            [len(table) for table in self.tables()],
            [numbers(row["matrix"]) for row in rows],
            [numbers(row["known"]) for row in rows],
            numbers(rows[0]["start"]),
        ).as_json()

    # -- carried ---------------------------------------------------------------------------------

    def carry(self, stage: Stage, before: Path | None, weights: Path) -> None:
        """Write the Fisher diagonal after a task beside its weights, where a method asks for it.

        Args:
            stage: of the task, finished.
            before: the weights of the task before.
            weights: those of this task.
        """
        if not self.fisher:
            return
        from safetensors.torch import load_file, save_file

        from tether.continual.recipe import consolidate, fisher_rows
        from tether.engine.loader import to_device
        from tether.files import replaced_file
        from tether.tuning.stage import wait

        made = stage.assembly
        rows = fisher_rows(len(made.plain), self.fisher)
        loader = DataLoader(
            Subset(made.plain, rows), stage.args.eval_batch_size, collate_fn=made.collate
        )
        device = next(made.loaded.model.parameters()).device
        kept = before.with_name(FISHER_FILE) if before is not None else None
        old = load_file(kept) if kept is not None and kept.is_file() else None
        if old is not None:
            old = {name: tensor.to(device) for name, tensor in old.items()}
        found = consolidate(
            self.recipe, made.loaded.model, (to_device(batch, device) for batch in loader), old,
            seed=self.config.seed + stage.number,
        )  # fmt: skip
        if found is not None and stage.args.process_index == 0:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in found.items()}
            with replaced_file(weights.with_name(FISHER_FILE)) as fresh:
                save_file(tensors, fresh)
        wait()


def _labels(table: Table) -> Any:
    return np.zeros(0, dtype=np.int64) if table.labels is None else np.asarray(table.labels)
