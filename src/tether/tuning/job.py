"""``tether.tune``: one run, from settings to a model that loads anywhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.errors import Interrupted
from tether.tuning.assembly import Assembly, assemble
from tether.tuning.config import check_complete, load_config
from tether.tuning.export import export
from tether.tuning.files import read_rows, write_json
from tether.tuning.log import logging_to
from tether.tuning.method_spec import resolve_methods
from tether.tuning.options import TuneConfig
from tether.tuning.result import Result
from tether.tuning.run_folder import RunFolder, default_folder, read_progress
from tether.tuning.stage import METRICS_FILE, Stage, wait
from tether.tuning.stage_spec import StageSpec, stage_configs

logger = logging.getLogger("tether.tune")


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
        overwrite: remove what is in the output folder.
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
    """
    config = load_config(config)
    check_complete(config)
    names = [name for name, _ in resolve_methods(config)]
    folder = RunFolder(
        Path(config.output_dir) if config.output_dir else default_folder(config, names),
        config, resume=resume, overwrite=overwrite,
    )  # fmt: skip
    main = int(os.environ.get("RANK", "0")) == 0
    if main:
        folder.check()
    if resume and folder.finished:
        return Result.read(folder.path)
    stages = stage_configs(config)
    done = read_progress(folder.path)["stages"] if resume else []
    at = min(len(done), len(stages) - 1)
    before = done[-1] if done else {"epochs": 0.0, "steps": 0.0, "seconds": 0.0}
    # both say what is wrong before anything is written: a slip in the last stage, too
    first = Stage(
        _assemble(stages[at], done, folder.path), folder.path, at + 1, alone=len(stages) == 1,
        before=before, callbacks=[*callbacks, *_progress(show and main)],
    )  # fmt: skip
    for later in stages[at + 1 :]:
        made = assemble(later.config)
        Stage(made, folder.path, later.index + 1, alone=False, before=before).finish()
    try:
        if main:
            folder.open()
        wait()
        with logging_to(folder.path / "run.log" if main else None):
            return _run(config, folder, stages, done, first, callbacks, show and main, main)
    except Interrupted:
        raise
    except BaseException as error:
        if main and folder.opened:
            folder.mark_failed(f"{type(error).__name__}: {error}")
        raise
    finally:
        folder.close()


def _run(
    config: TuneConfig, folder: RunFolder, stages: list[StageSpec], done: list[dict[str, Any]],
    stage: Stage, callbacks: Sequence[Any], show: bool, main: bool,
) -> Result:  # fmt: skip
    if main:
        from tether.tuning.environment import environment

        write_json(folder.path / "environment.json", environment())
    try:
        for number in range(stage.number, len(stages) + 1):
            if number > stage.number:
                assembly = _assemble(stages[number - 1], done, folder.path)
                stage = Stage(
                    assembly, folder.path, number, alone=False, before=done[-1],
                    callbacks=[*callbacks, *_progress(show)],
                )  # fmt: skip
            logger.info(
                "stage %d of %d: %s", number, len(stages), stage.assembly.methods or "plain"
            )
            stage.train()
            if number < len(stages):
                done = [*done, _end_of_stage(stage, stages[number])]
                if main:
                    write_json(folder.path / "progress.json", {"stages": done})
        return _end_of_run(config, folder, stage, main)
    except BaseException:
        logger.exception("broken off")
        raise


def _progress(show: bool) -> list[Any]:
    from tether.tuning.progress import progress  # it needs the Trainer's package

    return progress() if show else []


def _assemble(spec: StageSpec, done: Sequence[Mapping[str, Any]], folder: Path) -> Assembly:
    """The parts of a stage, its weights taken from the stage before where it starts there."""
    if not done or spec.start_from == "pretrained":
        return assemble(spec.config)
    before = done[-1]
    return assemble(
        spec.config, start=folder / before["weights"], start_classes=before["class_names"],
        new_head="head" in spec.reset,
    )  # fmt: skip


def _end_of_stage(stage: Stage, following: StageSpec) -> dict[str, Any]:
    """Keep the weights that the next stage starts from."""
    done = dict(stage.done)
    if following.start_from == "best":
        stage.use_best()
    stage.finish()
    weights = stage.root / "end.safetensors"
    stage.keep_weights(weights)
    return {
        **done,
        "weights": weights.relative_to(stage.run).as_posix(),
        "class_names": stage.assembly.source.class_names,
    }


def _end_of_run(config: TuneConfig, folder: RunFolder, stage: Stage, main: bool) -> Result:
    done = dict(stage.done)
    last, last_logits = stage.scores()
    keep = stage.root / "last.safetensors"
    if config.export == "last":
        stage.keep_weights(keep)
    best_epoch = stage.use_best()
    best, best_logits = stage.scores() if best_epoch else (last, last_logits)
    if config.export == "last":
        stage.use(keep)
        wait()
        if main:
            keep.unlink(missing_ok=True)
    stage.finish()
    result = Result(
        run_dir=str(folder.path),
        metric=stage.metric,
        last=last,
        best=best,
        best_epoch=best_epoch,
        epochs=done["epochs"],
        steps=int(done["steps"]),
        seconds=round(done["seconds"], 3),
        stopped_early=stage.watch.stopped,
        methods=[repr(method) for method in stage.assembly.methods],
        history=read_rows(folder.path / METRICS_FILE),
    )
    if main:
        logits = last_logits if config.export == "last" else best_logits
        export(folder.path, stage.assembly, config, result, logits)
        folder.mark_done(result.as_json())
    wait()
    return result
