"""Progress on the error stream: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any

from tether.demo.run import Run


class Progress:
    """Counts finished runs; a context manager.

    A terminal gets one line with a bar, where ``rich`` is installed (it honours ``NO_COLOR``);
    files, pipes and continuous integration (``CI`` set) get a line a run.

    Args:
        total: number of runs to come.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self._bar = _rich_bar() if sys.stderr.isatty() and not os.environ.get("CI") else None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("starting", total=self.total)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, run: Run) -> None:
        """Tell that a run is finished."""
        self.done += 1
        accuracy = run.curves["test_accuracy"][-1]
        name = f"{run.experiment.replace('_', ' ')}, {run.method}, seed {run.seed}"
        words = f"{name}: {accuracy:.1%}"
        if self._bar is not None:
            self._bar.update(self._task, advance=1, description=words)
        else:
            print(f"[{self.done}/{self.total}] {words}", file=sys.stderr, flush=True)


def _rich_bar() -> Any:
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar
    except (ImportError, RuntimeError):
        return None
    return Bar(
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("passed,"),
        TimeRemainingColumn(),
        TextColumn("left; {task.description}", markup=False),
        console=Console(stderr=True),
    )
