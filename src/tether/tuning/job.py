"""``tether.tune``: one run, from settings to a model that loads anywhere."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tether.data.describe import describe, describe_notice
from tether.errors import Interrupted
from tether.files import read_rows, write_json
from tether.tuning.assembly import Assembly, assemble, describe_model
from tether.tuning.config import check_complete, load_config
from tether.tuning.export import export
from tether.tuning.log import logging_to
from tether.tuning.options import TuneConfig
from tether.tuning.result import Result
from tether.tuning.run_folder import RunFolder, folder_of, read_progress
from tether.tuning.stage import METRICS_FILE, Stage, wait
from tether.tuning.stage_spec import StageSpec, stage_configs
from tether.tuning.tasks import Tasks

logger = logging.getLogger("tether.tune")
#: Is shown the data, and ``{"last" | "best": {split: logits}}``.
Seen = Callable[[Any, dict[str, dict[str, Any]]], None]
NOTHING = {"epochs": 0.0, "steps": 0.0, "seconds": 0.0}


def tune(
    config: TuneConfig | Mapping[str, Any] | str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
    show: bool = False,
) -> Result:
    """Fine-tune a pretrained model on data, with methods; what ``tether tune`` does.

    Args:
        config: the settings: an object, a mapping, or a YAML or TOML file.
        resume: go on with the run in the output folder; a complete one gives its result back.
        overwrite: remove the run that is in the output folder.
        callbacks: further callbacks of the Hugging Face Trainer, for every stage.
        show: show progress on stderr.

    Returns:
        Scores of the last and of the best epoch, and the history.

    Raises:
        ConfigError: the settings cannot be followed; nothing was written.
        TetherError: training failed; ``RUN/FAILED`` and ``RUN/run.log`` say why.
        Interrupted: SIGTERM or SIGINT came; a checkpoint was saved.

    Example:
        >>> import tempfile
        >>> run = tempfile.TemporaryDirectory()
        >>> result = tune({
        ...     "model": "demo:digits", "data": "demo:digits", "epochs": 1, "lr": 0.01,
        ...     "methods": ["l2_sp:weight=0.01"], "output_dir": run.name + "/run",
        ... })
        >>> sorted(result.last)
        ['test', 'validation']
        >>> run.cleanup()
    """
    return fine_tune(config, resume=resume, overwrite=overwrite, callbacks=callbacks, show=show)


def fine_tune(
    config: TuneConfig | Mapping[str, Any] | str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
    show: bool = False,
    test: bool = True,
    seen: Seen | None = None,
) -> Result:
    """:func:`tune`, with what only a comparison asks of a run.

    Args:
        config: see :func:`tune`, as for the options up to ``show``.
        resume: see there.
        overwrite: see there.
        callbacks: see there.
        show: see there.
        test: whether the test split is scored; where settings are tuned it is not.
        seen: is called with the data, and the logits of the last and of the best weights, before
            the run counts as complete.
    """
    config = load_config(config)
    check_complete(config)
    if config.sequence and config.export == "best":  # best for the last task, which may not be best
        config = replace(config, export="last")
    folder = RunFolder(folder_of(config), config, resume=resume, overwrite=overwrite)
    job = _Job(config, folder, callbacks, show, test, seen)
    if job.main:
        folder.check()
    if resume and folder.finished:
        return Result.read(folder.path)
    try:
        return job.run()
    except KeyboardInterrupt:  # while nothing was trained: what is saved stays as it is
        raise Interrupted(signal.SIGINT) from None
    except Interrupted:
        raise
    except BaseException as error:
        if folder.opened:
            folder.mark_failed(f"{type(error).__name__}: {error}")
        raise
    finally:
        folder.close()


class _Job:
    """A run on one process: its stages, one after another."""

    def __init__(
        self, config: TuneConfig, folder: RunFolder, callbacks: Sequence[Any], show: bool,
        test: bool = True, seen: Seen | None = None,
    ) -> None:  # fmt: skip
        self.config, self.folder, self.callbacks = config, folder, callbacks
        self.skip: tuple[str, ...] = () if test else ("test",)
        self.seen = seen
        self.main = int(os.environ.get("RANK", "0")) == 0
        self.show = show and self.main
        self.stages = stage_configs(config)
        self.tasks = Tasks(config) if config.sequence else None
        self.done: list[dict[str, Any]] = []

    def run(self) -> Result:
        """All stages that are left, then scores and export."""
        if self.folder.resume:
            self.done = read_progress(self.folder.path)["stages"]
        first = min(len(self.done), len(self.stages) - 1)
        for later in self.stages[first + 1 :]:
            self._check(later)
        stage: Stage | None = self._stage(first)  # says what is wrong before anything is written
        if self.main:
            self.folder.open()
        wait()
        with logging_to(self.folder.path / "run.log" if self.main else None):
            try:
                if self.main:
                    self._write_environment()
                for number, following in enumerate(self.stages[first + 1 :], start=first + 1):
                    self._train(stage or self._stage(number - 1), following)
                    stage = None
                    gc.collect()  # weights, w0 and optimiser of a stage go before the next
                return self._last(stage or self._stage(len(self.stages) - 1))
            except BaseException:
                logger.exception("broken off")
                raise

    # -- stages ----------------------------------------------------------------------------------

    def _check(self, spec: StageSpec) -> None:
        """A slip in a later stage is told before the first one trains."""
        made = assemble(spec.config, facts={"previous": None})
        Stage(made, self.folder.path, spec.index + 1, alone=False, before=NOTHING).finish()

    def _stage(self, index: int) -> Stage:
        return Stage(
            self._assemble(self.stages[index]), self.folder.path, index + 1,
            alone=len(self.stages) == 1, before=self.done[-1] if self.done else NOTHING,
            callbacks=self.callbacks, show=self.show,
        )  # fmt: skip

    def _assemble(self, spec: StageSpec) -> Assembly:
        """The parts of a stage, with the weights of the one before where it starts there."""
        if not self.done:
            return assemble(spec.config)
        before = self.done[-1]
        weights = self.folder.path / before["weights"]
        facts = {"previous": str(weights)}
        if spec.start_from == "pretrained":
            return assemble(spec.config, facts=facts)
        return assemble(
            spec.config, start=weights, start_classes=before["class_names"],
            new_head="head" in spec.reset, facts=facts,
        )  # fmt: skip

    def _train(self, stage: Stage, following: StageSpec) -> None:
        """Train a stage, and keep the weights that the next one starts from."""
        self._say(stage)
        measured = self._tasks_around(stage)
        done = dict(stage.done)
        if following.start_from == "best":
            stage.use_best()
        stage.finish()
        weights = stage.root / "end.safetensors"
        stage.keep_weights(weights)
        if self.tasks is not None:
            before = self.folder.path / self.done[-1]["weights"] if self.done else None
            self.tasks.carry(stage, before, weights)
        self.done.append(
            {
                **done,
                **measured,
                "weights": weights.relative_to(stage.run).as_posix(),
                "class_names": stage.assembly.source.class_names,
            }
        )
        if self.main:
            write_json(self.folder.path / "progress.json", {"stages": self.done})

    def _tasks_around(self, stage: Stage) -> dict[str, Any]:
        """Train a stage; of a sequence, measure all tasks before the first one and after each."""
        if self.tasks is None:
            stage.train()
            return {}
        before = {} if self.done else self.tasks.at_start(stage)
        stage.train()
        return {**before, **self.tasks.after(stage)}

    def _last(self, stage: Stage) -> Result:
        """Train the last stage, score last and best weights, and export one of them."""
        self._say(stage)
        measured = self._tasks_around(stage)
        done = dict(stage.done)
        last, last_logits = stage.scores(self.skip)
        keep = stage.root / "last.safetensors"
        if self.config.export == "last":
            stage.keep_weights(keep)
        best_epoch = stage.use_best()
        best, best_logits = stage.scores(self.skip) if best_epoch else (last, last_logits)
        if self.config.export == "last":
            stage.use(keep)
            wait()
            if self.main:
                keep.unlink(missing_ok=True)
        stage.finish()
        if self.seen is not None and self.main:
            self.seen(stage.assembly.source, {"last": last_logits, "best": best_logits})
        result = Result(
            run_dir=str(self.folder.path),
            metric=stage.metric,
            last=last,
            best=best,
            best_epoch=best_epoch,
            epochs=done["epochs"],
            steps=int(done["steps"]),
            seconds=round(done["seconds"], 3),
            stopped_early=stage.watch.stopped,
            methods=[repr(method) for method in stage.assembly.methods],
            history=read_rows(self.folder.path / METRICS_FILE),
            sequence=self.tasks.outcome([*self.done, measured]) if self.tasks else None,
        )
        logits = last_logits if self.config.export == "last" else best_logits
        export(self.folder.path, stage.assembly, self.config, result, logits, main=self.main)
        if self.main:
            self.folder.mark_done(result.as_json())
        wait()
        return result

    def _say(self, stage: Stage) -> None:
        """What the stage is made of, into ``run.log``; what was noticed, on stderr as well."""
        made = stage.assembly
        methods = made.methods or "plain"
        logger.info("stage %d of %d: %s", stage.number, len(self.stages), methods)
        for line in [*describe(made.source), *describe_model(made)]:
            logger.info("%s", line.strip())
        for notice in made.source.notices if self.show else ():
            print(describe_notice(notice), file=sys.stderr)

    def _write_environment(self) -> None:
        from tether.tuning.environment import environment

        write_json(self.folder.path / "environment.json", environment())
