"""Beside the steps: keyed epochs, rows of metrics, best weights, sealed checkpoints."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from tether.engine.state import distributed
from tether.files import append_row
from tether.tuning.checkpoints import LAST, point_to, prune, seal
from tether.tuning.metrics import LESS
from tether.tuning.weights import save_weights

#: Updates after which several processes ask each other for signals.
ASK_EVERY = 10


class EpochKeys(TrainerCallback):
    """Tells data set and sampler the epoch, from which their random numbers follow."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Before the loader's iterator is made."""
        for part in self.parts:
            part.set_epoch(int(state.epoch or 0))


class Watch(TrainerCallback):
    """Writes a row for each evaluation, keeps the best weights, and stops when patience runs out.

    Whether to stop is read off the Trainer's own history, which travels in its checkpoints: a
    resumed run decides as an uninterrupted one.

    Args:
        path: ``metrics.jsonl``.
        best: file for the best weights; None keeps none.
        metric: which one chooses.
        patience: epochs without a better metric before training stops; 0: never.
        stage: number of the stage, in every row.
        before: epochs, steps and seconds of the stages and attempts before.
        numbers: gives further numbers of an epoch (the methods' own).
    """

    def __init__(
        self, path: Path, best: Path | None, metric: str, patience: int, stage: int,
        before: dict[str, float], numbers: Callable[[], dict[str, float]],
    ) -> None:  # fmt: skip
        self.path, self.best, self.metric, self.patience = path, best, metric, patience
        self.stage, self.before, self.numbers = stage, before, numbers
        self.train: dict[str, float] = {}
        self.stopped = False
        self._began = time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Time counts from here."""
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time of training so far, with that of earlier attempts."""
        return self.before["seconds"] + time.perf_counter() - self._began

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **now: Any) -> None:
        """Keep what the Trainer says of the training batches."""
        for name in ("loss", "grad_norm", "learning_rate"):
            if logs and name in logs:
                self.train["train_loss" if name == "loss" else name] = float(logs[name])

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        metrics: Any = None,
        model: Any = None,
        **now: Any,
    ) -> None:
        """Write the row; keep the weights where they are the best so far."""
        value, numbers = metrics[f"eval_{self.metric}"], self.numbers()
        if state.is_world_process_zero:
            row = {
                "stage": self.stage,
                "epoch": round(self.before["epochs"] + float(state.epoch or 0), 6),
                "step": int(self.before["steps"]) + state.global_step,
                "seconds": round(self.seconds, 3),
                **self.train,
                **{
                    f"validation_{name.removeprefix('eval_')}": float(number)
                    for name, number in metrics.items()
                    if name.startswith("eval_") and not name.endswith("_second")
                    and name not in ("eval_runtime",)
                },
                **numbers,
            }  # fmt: skip
            append_row(self.path, row)
        if self.best is not None and better(self.metric, value, state.best_metric):
            about = {"epoch": self.before["epochs"] + float(state.epoch or 0), "value": value}
            save_weights(model, self.best, about, write=state.is_world_process_zero)
        if self.patience and self._waited(state) >= self.patience:
            self.stopped = control.should_training_stop = True

    def _waited(self, state: Any) -> int:
        """Evaluations since the best one."""
        name = f"eval_{self.metric}"
        values = [row[name] for row in state.log_history if name in row]
        best, at = None, 0
        for place, value in enumerate(values):
            if better(self.metric, value, best):
                best, at = value, place
        return len(values) - 1 - at


class Seal(TrainerCallback):
    """Completes a checkpoint, then removes old ones. It comes after the callback of the methods.

    The mean training loss since the last row goes into the manifest: the Trainer forgets it.

    Args:
        trainer: the Trainer.
        keep: checkpoints to keep.
        stopped: whether training ended early.
        resumed: gives the manifest of the checkpoint that the run goes on from.
        identity: what a run that goes on must agree with.
    """

    def __init__(
        self, trainer: Any, keep: int, stopped: Callable[[], bool],
        resumed: Callable[[], Mapping[str, Any] | None], identity: Mapping[str, Any],
    ) -> None:  # fmt: skip
        self.trainer, self.keep, self.stopped, self.resumed = trainer, keep, stopped, resumed
        self.identity = identity
        self._later = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Give the Trainer its sum back."""
        manifest = self.resumed()
        if manifest is not None:
            self.trainer._tr_loss += manifest["loss_sums"][args.process_index] or 0.0
            self.trainer._globalstep_last_logged = manifest["last_logged"]

    def on_step_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """After the last update of an epoch, save only when that epoch has been evaluated.

        A run that goes on from such a checkpoint begins the next epoch.
        """
        self._later = control.should_save and ends_epoch(state)
        control.should_save = control.should_save and not self._later

    def on_epoch_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Save what was put off."""
        control.should_save = control.should_save or self._later
        self._later = False

    def on_save(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """After everything of the checkpoint is written."""
        losses = self.trainer.accelerator.gather(self.trainer._tr_loss)
        self.trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            root = Path(args.output_dir)
            folder = root / f"checkpoint-{state.global_step}"
            stopped = self.stopped()
            about = {
                "step": state.global_step,
                "finished": stopped or state.global_step >= state.max_steps,
                "stopped": stopped,
                "loss_sums": losses.flatten().tolist(),  # of each process
                "last_logged": self.trainer._globalstep_last_logged,
                **self.identity,
            }
            seal(folder, about)
            point_to(root, LAST, folder)
            prune(root, self.keep)
        self.trainer.accelerator.wait_for_everyone()


class Stop(TrainerCallback):
    """Saves and stops at the next update after a signal came."""

    def __init__(self) -> None:
        self.signum = 0
        self._at_end = self._within = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT while training; a second one acts as it usually does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}

        def note(signum: int, frame: Any) -> None:
            self.signum = signum
            for known, handler in before.items():
                signal.signal(known, handler)

        for signum in before:
            signal.signal(signum, note)
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def on_step_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Look whether a signal came, on any process; asking the others waits for the device."""
        if distributed() and state.global_step % ASK_EVERY:
            return
        if self.agreed(args.device):
            self._at_end = ends_epoch(state)
            self._within = not self._at_end
            control.should_save = control.should_training_stop = self._within

    def on_epoch_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """The Trainer takes an epoch that was broken off for its end: nothing is measured there."""
        if self._at_end:
            control.should_save = control.should_training_stop = True
        if self._within:
            control.should_log = control.should_evaluate = control.should_save = False

    def agreed(self, device: Any) -> int:
        """The signal that came on any process, 0 for none; all processes call this."""
        if distributed():
            seen = torch.tensor(self.signum, device=device)
            torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
            self.signum = int(seen)
        return self.signum


def ends_epoch(state: Any) -> bool:
    """Whether the update just made is the last one of an epoch, or of all."""
    return bool(state.global_step >= state.max_steps or float(state.epoch).is_integer())


def better(metric: str, value: float, best: float | None) -> bool:
    """Whether a value beats the best one; what is not a number beats nothing."""
    if best is None or best != best or abs(best) == float("inf"):
        return value == value
    return value < best if metric in LESS else value > best
