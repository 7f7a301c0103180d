"""``--dry-run``: what a run would do and about how long it would take, without doing it."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tether.data import describe
from tether.engine.state import world_size
from tether.tuning.assembly import Assembly, assemble, describe_model
from tether.tuning.config import load_config
from tether.tuning.options import TuneConfig
from tether.tuning.run_folder import RunFolder, folder_of
from tether.tuning.stage import Stage
from tether.tuning.stage_spec import StageSpec, stage_configs

Section = tuple[str, list[str]]
MEASURED_STEPS = 4


def plan(config: TuneConfig, *, resume: bool = False, overwrite: bool = False) -> list[Section]:
    """Headings and lines: data, model, methods, cost, output; a few steps are measured.

    Args:
        config: the settings.
        resume: the run would go on in its folder.
        overwrite: the run would remove what is in its folder.

    Raises:
        ConfigError: what a run would raise before it writes anything.
    """
    config = load_config(config)
    path = folder_of(config)
    folder = RunFolder(path, config, resume=resume, overwrite=overwrite)
    folder.check()
    stages = stage_configs(config)
    sections: list[Section] = []
    for number, stage in enumerate(stages, start=1):
        title = f"stage {number}: " if len(stages) > 1 else ""
        made = assemble(stage.config, facts={"previous": None} if number > 1 else None)
        sections += [
            (f"{title}data", describe(made.source)),
            (f"{title}model", describe_model(made)),
            (f"{title}methods", _methods(made)),
            (f"{title}training", _training(made, stage)),
        ]
    what = "a run goes on here" if resume else "what is in it is removed" if overwrite else "new"
    sections.append(("output", [f"{path} ({what})"]))
    return sections


def _methods(made: Assembly) -> list[str]:
    if not made.methods:
        return ["plain fine-tuning, without any method"]
    lines = []
    for method in made.methods:
        lines.append(f"{method!r}: {method.info.summary}")
        for part in method.expand():
            name = part.info.name
            asked = [need for need, names in made.asked.items() if name in names]
            if asked:
                lines.append(f"  {name} asks for {', '.join(asked)}")
    return lines


def _training(made: Assembly, stage: StageSpec) -> list[str]:
    config, samples = made.config, len(made.train)
    per_update = config.batch_size * config.grad_accum_steps * world_size()
    updates = math.ceil(samples / per_update)
    step, evaluation = measure(made)
    seconds = config.epochs * (updates * step + evaluation)
    return [
        f"{config.epochs:g} epochs of {updates} updates ({config.batch_size} samples x "
        f"{config.grad_accum_steps} forwards x {world_size()} processes), loss {made.loss}",
        f"{config.optim}, learning rate {config.lr:g} (head {config.lr * config.head_lr_mult:g}), "
        f"{config.lr_scheduler}, precision {config.precision}",
        f"about {seconds:.0f} s: {step * 1000:.0f} ms an update, {evaluation:.1f} s an evaluation "
        f"(measured on {MEASURED_STEPS} updates)",
    ]


def measure(made: Assembly) -> tuple[float, float]:
    """Seconds of an update, and of an evaluation of the validation data, on a few real ones."""
    config = replace(made.config, save_total_limit=0, patience=0, report_to="none")
    made = replace(made, config=config)
    with tempfile.TemporaryDirectory() as folder:
        nothing = {"epochs": 0.0, "steps": 0.0, "seconds": 0.0}
        clock = _clock()
        stage = Stage(made, Path(folder), 1, alone=True, before=nothing, callbacks=[clock])
        stage.args.max_steps = MEASURED_STEPS
        stage.train()
        stage.finish()
    return clock.update, clock.evaluation


def _clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        update = evaluation = 0.0
        _times: list[float]

        def on_train_begin(self, *args: Any, **now: Any) -> None:
            self._times = []

        def on_step_end(self, *args: Any, **now: Any) -> None:
            self._times.append(time.perf_counter())

        def on_evaluate(self, *args: Any, **now: Any) -> None:
            gaps = [b - a for a, b in zip(self._times, self._times[1:], strict=False)]
            self.update = sorted(gaps)[len(gaps) // 2] if gaps else 0.0
            self.evaluation = float(now["metrics"]["eval_runtime"])

    return Clock()
