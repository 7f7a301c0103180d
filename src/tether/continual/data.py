"""The data sets of ``--sequence``: read one after another, with one list of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tether.continual.items import items_of
from tether.data.table import DataSource, Table
from tether.errors import ConfigError

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig


def read_sequence(config: TuneConfig) -> list[DataSource]:
    """The tasks that ``config.sequence`` names, each with the classes of those up to it.

    Labels are places in one list of classes, in which those of a task follow those of the tasks
    before: the outputs of a head that grows.

    Raises:
        ConfigError: data that cannot be read or used together, or tasks that share some classes.
    """
    from tether.continual.classes import check_tasks
    from tether.data import load_data

    items = items_of(config.sequence)
    found = [load_data(replace(config, data=item, sequence="")) for item in items]
    _check_kinds(items, found)
    if len(items) > 1:
        check_tasks(items, [source.class_names for source in found])
    names: list[str] = []
    for number, source in enumerate(found):
        names += [name for name in source.class_names if name not in names]
        found[number] = _renamed(source, list(names))
    return found


def task_classes(sources: Sequence[DataSource]) -> list[list[int]]:
    """Outputs of each task's own classes, from what :func:`read_sequence` gave.

    The first task has all of its list; where classes are added, a later one has those that are
    new, and where none are, all.
    """
    found, before = [], 0
    for source in sources:
        size = len(source.class_names)
        found.append(list(range(before, size)) if size > before else list(range(size)))
        before = size
    return found


def _check_kinds(items: Sequence[str], sources: Sequence[DataSource]) -> None:
    for item, source in zip(items, sources, strict=True):
        if source.task != "single_label":
            raise ConfigError(
                f"option sequence: {item} is {source.task}; a sequence takes single-label data"
            )
        if source.kind != sources[0].kind:
            raise ConfigError(
                f"option sequence: {item} holds {source.kind} data and {items[0]} "
                f"{sources[0].kind} data; one network cannot read both"
            )


def _renamed(source: DataSource, names: list[str]) -> DataSource:
    """The data with their labels as places in a longer list of classes."""
    place = np.array([names.index(name) for name in source.class_names], dtype=np.int64)

    def moved(table: Table) -> Table:
        labels = None if table.labels is None else place[table.labels]
        true = None if table.true_labels is None else place[table.true_labels]
        return replace(table, labels=labels, true_labels=true)

    tables = {split: moved(table) for split, table in source.tables.items()}
    return replace(source, class_names=names, tables=tables)
