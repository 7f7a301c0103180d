"""What a sequence of tasks came to: accuracies after each task, and the numbers made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tether.continual import metrics

Row = list[float]


@dataclass
class SequenceResult:
    """Accuracies of a sequence of N tasks.

    Attributes:
        tasks: their names.
        classes: names (or indices) of the classes of each.
        samples: test samples of each.
        matrix: row i: after task i; column n: accuracy on task n, predicting among all classes
            seen so far. NaN where nothing was measured.
        known: the same, predicting among the classes of task n: the task is known.
        start: ``known`` before the first task; NaN where the head had no such outputs.
    """

    tasks: list[str]
    classes: list[list[Any]]
    samples: list[int]
    matrix: list[Row]
    known: list[Row]
    start: Row

    @property
    def average_accuracy(self) -> float:
        """Mean over the tasks at the end; see :func:`tether.continual.average_accuracy`."""
        return metrics.average_accuracy(self.matrix)

    @property
    def final_accuracy(self) -> float:
        """Accuracy at the end over the test samples of all tasks together."""
        return float(np.average(self.matrix[-1], weights=self.samples))

    @property
    def forgetting(self) -> float:
        """Fall from the best; see :func:`tether.continual.forgetting`."""
        return metrics.forgetting(self.matrix)

    @property
    def global_forgetting(self) -> float:
        """See :func:`tether.continual.global_forgetting`."""
        return metrics.global_forgetting(self.matrix, [len(names) for names in self.classes])

    @property
    def local_forgetting(self) -> float:
        """Fall where the task is known; see :func:`tether.continual.local_forgetting`."""
        return metrics.local_forgetting(self.known)

    @property
    def forward_transfer(self) -> float | None:
        """See :func:`tether.continual.forward_transfer`; with the task known."""
        return metrics.forward_transfer(self.known, self.start)

    def numbers(self) -> dict[str, float | None]:
        """All of them by name."""
        names = (
            "average_accuracy", "final_accuracy", "forgetting", "global_forgetting",
            "local_forgetting", "forward_transfer",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def summary(self) -> str:
        """The matrix and the numbers, for people.

        Example:
            >>> nan = float("nan")
            >>> rows = [[0.9, nan], [0.5, 0.7]]
            >>> found = SequenceResult(["a", "b"], [[0], [1]], [9, 9], rows, rows, [nan, nan])
            >>> print(found.summary())
            accuracy on               a        b
            after a              0.9000        -
            after b              0.5000   0.7000
            average 0.6000, forgetting 0.4000 (global 0.2000, with the task known 0.4000)
        """
        width = max(8, *(len(name) for name in self.tasks))
        left = max(18, *(len(f"after {name}") for name in self.tasks))
        lines = [f"{'accuracy on':<{left}}" + "".join(f" {name:>{width}}" for name in self.tasks)]
        for name, row in zip(self.tasks, self.matrix, strict=True):
            cells = "".join(f" {_cell(value):>{width}}" for value in row)
            lines.append(f"{'after ' + name:<{left}}{cells}")
        transfer = self.forward_transfer
        lines.append(
            f"average {self.average_accuracy:.4f}, forgetting {self.forgetting:.4f} (global "
            f"{self.global_forgetting:.4f}, with the task known {self.local_forgetting:.4f})"
            + ("" if transfer is None else f", forward transfer {transfer:.4f}")
        )
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Plain values; what was not measured is None."""
        return {
            "tasks": self.tasks,
            "classes": self.classes,
            "samples": self.samples,
            "matrix": [_plain(row) for row in self.matrix],
            "known": [_plain(row) for row in self.known],
            "start": _plain(self.start),
            **self.numbers(),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> SequenceResult:
        """What :meth:`as_json` gave."""
        return cls(
            list(kept["tasks"]), [list(names) for names in kept["classes"]],
            list(kept["samples"]), [_row(row) for row in kept["matrix"]],
            [_row(row) for row in kept["known"]], _row(kept["start"]),
        )  # fmt: skip


def _cell(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def _plain(row: Sequence[float]) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in row]


def _row(kept: Sequence[float | None]) -> Row:
    return [math.nan if value is None else float(value) for value in kept]
