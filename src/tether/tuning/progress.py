"""Progress on stderr: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from abc import abstractmethod
from typing import Any

from transformers import TrainerCallback

PLAIN_SECONDS = 15.0


def progress() -> _Progress:
    """The callback that fits where stderr goes."""
    live = sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"
    return LiveLine() if live else PlainLines()


class _Progress(TrainerCallback):
    """Epochs, rate and scores, as text."""

    def __init__(self) -> None:
        self.loss: float | None = None
        self._began = 0.0
        self._from = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Time counts from here."""
        self._began, self._from = time.perf_counter(), state.global_step
        if state.global_step:
            self.say(f"going on after update {state.global_step} of {state.max_steps}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **now: Any) -> None:
        """Keep the loss of the training batches."""
        if logs and "loss" in logs:
            self.loss = float(logs["loss"])

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **now: Any
    ) -> None:
        """A line for each epoch."""
        name = args.metric_for_best_model
        loss = f"loss {self.loss:.4f}, " if self.loss is not None else ""
        score = f"validation {name} {metrics[f'eval_{name}']:.4f}"
        self.say(f"epoch {state.epoch:g}/{args.num_train_epochs:g}: {loss}{score}")

    def line(self, state: Any) -> str:
        """Where training stands."""
        seconds = time.perf_counter() - self._began
        steps = state.global_step - self._from
        left = seconds / max(steps, 1) * (state.max_steps - state.global_step)
        return f"update {state.global_step}/{state.max_steps}, {_time(left)} left"

    def close(self) -> None:
        """Leave the terminal as it was, also after an error."""

    @abstractmethod
    def say(self, text: str) -> None:
        """Show a line that stays."""


class PlainLines(_Progress):
    """Lines for a log file: one an epoch, and one every fifteen seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Say something now and then."""
        if time.perf_counter() - self._last > PLAIN_SECONDS:
            self.say(self.line(state))

    def say(self, text: str) -> None:
        """Print it."""
        self._last = time.perf_counter()
        print(text, file=sys.stderr, flush=True)


class LiveLine(_Progress):
    """One line on a terminal that is drawn anew, with the lines of the epochs above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.status import Status

        super().__init__()
        self._console = Console(stderr=True, highlight=False)
        self._status = Status("reading", console=self._console)
        self._drawn = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Show the line."""
        super().on_train_begin(args, state, control, **now)
        self._status.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Draw the line, ten times a second at most."""
        if time.perf_counter() - self._drawn > 0.1:
            self._drawn = time.perf_counter()
            self._status.update(self.line(state))

    def close(self) -> None:
        """Take the line away, and give the cursor back."""
        self._status.stop()

    def say(self, text: str) -> None:
        """Print it above the line; markup in it is text."""
        self._console.print(text, markup=False)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
