"""``--dry-run``: what a comparison would do, and about how long, from one measured step a case."""

from __future__ import annotations

import math
from dataclasses import replace

from tether.compare.executors import default_workers
from tether.compare.fingerprints import check_data, located
from tether.compare.plan import Case, check_plan, own_space, run_config, shared_space
from tether.compare.run import threads_set
from tether.compare.space import Range, range_text
from tether.compare.study import Study
from tether.compare.suggest import STARTUP

Section = tuple[str, list[str]]


def plan_sections(study: Study, workers: int | None = None) -> list[Section]:
    """Headings and lines: cases, methods with their ranges, runs, time.

    Args:
        study: what is compared.
        workers: processes that would do the runs.

    Raises:
        ConfigError: what the comparison would raise before its first run.
    """
    found = check_plan(study)
    with threads_set(study.threads):
        lines, seconds = [], 0.0
        for case in found:
            checked = check_data(study, case)
            leaks = f", {checked.leaks} test samples occur elsewhere" if checked.leaks else ""
            each, told = 0.0, "its time is not measured before it runs"
            if not (case.episodes or case.model.features_of):
                each = run_seconds(study, case)
                told = f"a plain run takes {each:.0f} s"
            lines.append(f"{case.case_id}: {checked.task}, {told}{leaks}")
            seconds += each
    trials = [
        study.trials if shared_space(study, one) or own_space(one) else 0 for one in study.methods
    ]
    finals = len(study.methods) * len(study.seeds)
    count, slots = workers or default_workers(study), len(found)
    total = seconds * (sum(trials) + finals) / max(count, 1)
    return [
        ("cases", lines),
        ("methods", [_method(study, number) for number in range(len(study.methods))]),
        (
            "runs",
            [
                f"{slots * sum(trials)} tuning trials on seed {study.tuning_seed}, scored on the "
                f"validation data ({min(STARTUP, study.trials)} at random, then Optuna's TPE"
                f"{', worse ones broken off' if study.prune else ''})",
                f"{slots * finals} runs on the seeds {', '.join(map(str, study.seeds))}, scored "
                "on the test data",
                f"about {_time(total)} with {count} at a time, were all methods as fast as plain "
                "fine-tuning and no trial broken off (one update measured in each case)",
            ],
        ),
    ]


def _method(study: Study, number: int) -> str:
    one = study.methods[number]
    ranges = {**shared_space(study, one), **own_space(one)}
    shown = ", ".join(f"{key} {range_text(value)}" for key, value in ranges.items())
    baseline = " (baseline)" if one.label == study.baseline else ""
    return f"{one.label}{baseline}: {shown or 'nothing to tune'}"


def run_seconds(study: Study, case: Case) -> float:
    """Seconds of a plain run, with the most epochs that are tried."""
    from tether.tuning.assembly import assemble
    from tether.tuning.config import load_config
    from tether.tuning.plan import measure

    plain = replace(study.methods[0], methods=(), settings={})
    config = load_config(located(run_config(case, plain, {}, study.tuning_seed)))
    made = assemble(config)
    step, evaluation = measure(made)
    updates = math.ceil(len(made.train) / (config.batch_size * config.grad_accum_steps))
    return most(study.space.get("epochs"), config.epochs) * (updates * step + evaluation)


def most(found: Range | None, otherwise: float) -> float:
    """The largest value of a range."""
    return float(max(found[1:])) if found else otherwise


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
