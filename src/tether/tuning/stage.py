"""One stage of a run: train, go on where it was broken off, score last and best weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from tether.engine.state import distributed
from tether.errors import ConfigError, Interrupted, TetherError
from tether.files import read_rows, write_rows
from tether.losses import TaskLoss
from tether.tuning.arguments import metric_name, training_arguments
from tether.tuning.assembly import Assembly
from tether.tuning.checkpoints import newest, read_manifest
from tether.tuning.metrics import score
from tether.tuning.weights import load_weights, read_about, save_weights

METRICS_FILE = "metrics.jsonl"
BEST = "best"
Scores = dict[str, dict[str, float]]


class Stage:
    """A stage that is being run.

    Args:
        assembly: what it is made of.
        run: the run folder.
        number: its number, from 1.
        alone: whether it is the only one, so that its checkpoints need no folder of their own.
        before: epochs, steps and seconds of the stages before.
        callbacks: further ones for the Trainer.
        show: show progress on stderr.

    Raises:
        ConfigError: the methods or the optimiser refuse what they are given; nothing is written.
    """

    def __init__(
        self, assembly: Assembly, run: Path, number: int, *, alone: bool,
        before: dict[str, float], callbacks: Sequence[Any] = (), show: bool = False,
    ) -> None:  # fmt: skip
        # they need the Trainer's package
        from tether.tuning.callbacks import Stop, Watch
        from tether.tuning.progress import progress
        from tether.tuning.trainer import make_optimizer

        self.assembly, self.run, self.number = assembly, run, number
        config, task = assembly.config, assembly.source.task
        self.root = run / "checkpoints" if alone else run / "checkpoints" / f"stage-{number}"
        self.best_file = self.root / BEST / "model.safetensors"
        self.metric = metric_name(config, task)
        self.args = training_arguments(config, self.root, task)
        self.before = before
        self.stop = Stop()
        self.watch = Watch(
            run / METRICS_FILE, self.best_file, self.metric, config.patience, number, before,
            self._numbers,
        )  # fmt: skip
        self.sampler = assembly.sampler()
        self._progress = progress() if show else None
        self._callbacks = [*callbacks, *([self._progress] if self._progress else [])]
        #: What a checkpoint must agree with.
        self.identity: dict[str, Any] = {
            "data": dict(assembly.source.fingerprints),
            "processes": self._processes(),
        }
        self._manifest: dict[str, Any] | None = None
        try:
            make_optimizer(config, assembly.loaded.model, assembly.loaded.head)  # does it fit?
            self.trainer = self._make_trainer()
        except TetherError as error:  # nothing was trained: it is the settings
            raise ConfigError(str(error)) from None

    def _make_trainer(self) -> Any:
        """The Trainer, with tether attached: w0 is what the model holds now."""
        from transformers import PrinterCallback

        from tether.tuning.callbacks import EpochKeys, Seal
        from tether.tuning.epoch_measures import EpochMeasures
        from tether.tuning.trainer import TuneTrainer

        made, config = self.assembly, self.assembly.config
        plain = DataLoader(made.plain, self.args.eval_batch_size, collate_fn=made.collate)
        valid = DataLoader(
            made.splits["validation"], self.args.eval_batch_size, collate_fn=made.collate
        )
        options: dict[str, Any] = {
            "train_data": plain, "valid_data": valid, "loss": made.loss, "head": made.loaded.head,
            "source_head": made.loaded.source_head, "seed": config.seed,
        }  # fmt: skip
        record = self._record()
        root, self.args.output_dir = self.args.output_dir, os.curdir  # which it makes at once
        trainer = TuneTrainer(
            model=made.loaded.model,
            args=self.args,
            train_dataset=made.train,
            eval_dataset=made.splits["validation"],
            data_collator=made.collate,
            compute_metrics=self._score,
            callbacks=[EpochKeys(made.train, self.sampler), self.watch, self.stop,
                       *self._callbacks],
            tether_methods=[*made.methods, *record],
            tether_options=options,
            config=config,
            head=made.loaded.head,
            sampler=lambda: self.sampler,
            extra_batches=made.extra_batches,
        )  # fmt: skip
        self.args.output_dir = root
        if config.epoch_measures and trainer.tether is not None:  # None where it will be sharded
            trainer.measures = EpochMeasures(
                trainer.tether, made.loaded.head, made.source.tables["train"],
                record[0] if record else None, compiled=config.compile,
            )  # fmt: skip
        trainer.remove_callback(PrinterCallback)  # it writes to stdout
        # after the callback that saves the methods' state
        trainer.add_callback(
            Seal(
                trainer, config.save_total_limit, lambda: self.watch.stopped,
                lambda: self._manifest, self.identity,
            )
        )  # fmt: skip
        return trainer

    def _record(self) -> list[Any]:
        """What keeps the signals of each sample, where the labels are classes."""
        from tether.labels.record import fits, recorder

        made = self.assembly
        if not made.config.record or not fits(made.source, made.loss):
            return []
        return [recorder(self.run, made.source)]

    def train(self) -> None:
        """Train to the end, from the newest complete checkpoint where there is one.

        Raises:
            Interrupted: a signal came; a checkpoint was saved.
        """
        checkpoint = self._find_checkpoint()
        self._cut_metrics()
        try:
            with self.stop.listening():
                self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            if self._progress is not None:
                self._progress.close()
        signum, state = self.stop.agreed(self.args.device), self.trainer.state
        if signum and not self.watch.stopped and state.global_step < state.max_steps:
            raise Interrupted(signum)  # where all is trained, what is left is done in a moment

    @property
    def done(self) -> dict[str, float]:
        """Epochs, steps and seconds up to the end of this stage."""
        state = self.trainer.state
        return {
            "epochs": self.before["epochs"] + float(state.epoch or 0),
            "steps": self.before["steps"] + state.global_step,
            "seconds": self.watch.seconds,
        }

    def _processes(self) -> int:
        return int(self.args.world_size)

    # -- going on --------------------------------------------------------------------------------

    def _find_checkpoint(self) -> Path | None:
        if self.args.process_index == 0 and self.root.is_dir():
            newest(self.root)  # removes what was broken off
        wait()
        checkpoint = newest(self.root) if self.root.is_dir() else None
        self._manifest = manifest = read_manifest(checkpoint) if checkpoint else None
        if manifest is not None:
            self._check_identity(manifest)
        if manifest is not None and manifest["stopped"]:
            self.watch.stopped = True
            self.args.max_steps = manifest["step"]  # nothing is trained beyond
        return checkpoint

    def _check_identity(self, manifest: dict[str, Any]) -> None:
        """Rows of tables, order and shares of the batches mean something else where these differ.

        Raises:
            ConfigError: other data, or another number of processes.
        """
        before, now = manifest["data"], self.identity["data"]
        changed = [name for name in now if before.get(name) != now[name]]
        if changed:
            raise ConfigError(
                f"cannot resume {self.run}: the data have changed in {', '.join(changed)}; bring "
                "them back, or begin anew with --overwrite"
            )
        if manifest["processes"] != self.identity["processes"]:
            raise ConfigError(
                f"cannot resume {self.run}: it was trained by {manifest['processes']} processes, "
                f"now there are {self.identity['processes']}; start as many, or begin anew with "
                "--overwrite"
            )

    def _cut_metrics(self) -> None:
        """Drop the rows of what is trained again, and take up the time of those that stay."""
        path, at = self.run / METRICS_FILE, self._manifest["step"] if self._manifest else 0
        last = int(self.before["steps"]) + at
        rows = [
            row for row in read_rows(path)
            if row["stage"] < self.number or (row["stage"] == self.number and row["step"] <= last)
        ]  # fmt: skip
        if rows and rows[-1]["stage"] == self.number:
            self.before = {**self.before, "seconds": rows[-1]["seconds"]}
            self.watch.before = self.before
        if self.args.process_index == 0 and path.is_file():
            write_rows(path, rows)
        wait()

    # -- scores ----------------------------------------------------------------------------------

    def _score(self, predicted: Any) -> dict[str, float]:
        logits, labels = first(predicted.predictions), predicted.label_ids
        found = score(self.assembly.source.task, logits, labels)
        if self.assembly.loss != "model":  # the Trainer's counts rows that fill up a last batch
            loss = TaskLoss(self.assembly.loss)
            rows = torch.as_tensor(logits).float()
            found["loss"] = float(loss.mean(rows, loss.check(rows, torch.as_tensor(labels))))
        return found

    def _numbers(self) -> dict[str, float]:
        """What the methods measure, one number each, and what is measured of every run."""
        handle, measures = self.trainer.tether, self.trainer.measures
        own = measures.numbers() if measures is not None else {}
        return own | {
            f"{method}.{name}": float(value)
            for method, values in handle.measure().items()
            for name, value in values.items()
            if isinstance(value, (int, float)) or getattr(value, "ndim", 1) == 0
        }

    def scores(self, skip: Sequence[str] = ()) -> tuple[Scores, dict[str, NDArray[Any]]]:
        """Every split's metrics with the weights that the model holds, and the logits.

        Args:
            skip: splits that are left alone.
        """
        found: Scores = {}
        logits = {}
        for name, data in self.assembly.splits.items():
            if data.table.labels is None or name in skip:
                continue
            output = self.trainer.predict(data, metric_key_prefix=name)
            drop = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
            short = {
                key.removeprefix(f"{name}_"): float(value) for key, value in output.metrics.items()
            }
            found[name] = {key: value for key, value in short.items() if key not in drop}
            logits[name] = first(output.predictions)
        return found, logits

    def use_best(self) -> float:
        """Load the best epoch's weights; returns that epoch, 0 where none was kept."""
        if not self.best_file.is_file():
            return 0.0
        self.use(self.best_file)
        return read_about(self.best_file)["epoch"]

    def use(self, path: Path) -> None:
        """Load weights that were kept."""
        load_weights(self.assembly.loaded.model, path)

    def keep_weights(self, path: Path) -> None:
        """Write the weights that the model holds."""
        write = self.args.process_index == 0
        save_weights(self.assembly.loaded.model, path, dict(self.done), write=write)
        wait()

    def finish(self) -> None:
        """Bake what methods put into the model, and detach."""
        if self.trainer.tether is not None:
            model = self.trainer.tether.finish()
            self.assembly.loaded.model = model.to(memory_format=torch.contiguous_format)


def wait() -> None:
    """Until every process is here."""
    if distributed():
        torch.distributed.barrier()


def first(predictions: Any) -> NDArray[np.floating[Any]]:
    """The logits among a model's outputs."""
    found: NDArray[np.floating[Any]] = (
        predictions[0] if isinstance(predictions, tuple) else predictions
    )
    return found
