"""The runs of a study as scores per data set, method and seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tether.compare.intervals import Interval, t_interval

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """What one method reached in one case.

    Args:
        case: name of the case: data, model and the like.
        method: label of the method.
        values: seed to score on the test set; finite scores only.
        mean: mean over the seeds; NaN without a score.
        deviation: standard deviation over the seeds; NaN with fewer than two.
        interval: 95 % t interval of the mean; None with fewer than three seeds.
        failed: final runs that failed.
        without_score: final runs that ended with a score that is missing or not finite.
        seconds: mean time of a final run; NaN where unknown.
        memory_mib: largest memory of a final run, in MiB; NaN where unknown.
        trials: tuning trials that were started.
        trials_failed: tuning trials that failed.
        tuning_seconds: time of all of them.
        settings: the settings that were chosen.
    """

    case: str
    method: str
    values: dict[int, float] = field(default_factory=dict)
    mean: float = math.nan
    deviation: float = math.nan
    interval: Interval | None = None
    failed: int = 0
    without_score: int = 0
    seconds: float = math.nan
    memory_mib: float = math.nan
    trials: int = 0
    trials_failed: int = 0
    tuning_seconds: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)


def collect_scores(rows: Iterable[Row], metric: str, level: float = 0.95) -> list[Score]:
    """Gather the rows of every case and method, in the order of their first row.

    A run that was repeated counts once: a later row takes the place of an earlier one, but a
    failure never that of a success.

    Args:
        rows: the runs of a study, one mapping each.
        metric: key of the score in `test`.
        level: coverage of the intervals.

    Example:
        >>> row = {"case_id": "a", "method": "plain", "kind": "final", "status": "done"}
        >>> rows = [{**row, "seed": seed, "test": {"accuracy": 0.5 + seed}} for seed in (0, 1)]
        >>> collect_scores(rows, "accuracy")[0].mean
        1.0
    """
    finals: dict[tuple[str, str], dict[int, Row]] = {}
    trials: dict[tuple[str, str], dict[Any, Row]] = {}
    for place, row in enumerate(rows):
        key = (str(row["case_id"]), str(row["method"]))
        seeds = finals.setdefault(key, {})
        if row.get("kind") == "final":
            seed = int(row.get("seed") or 0)
            if row.get("status") == "done" or seed not in seeds or _failed(seeds[seed]):
                seeds[seed] = row
        elif row.get("kind") == "trial":
            number = row.get("trial")
            trials.setdefault(key, {})[(number, place if number is None else 0)] = row
    return [
        _score(key, seeds, list(trials.get(key, {}).values()), metric, level)
        for key, seeds in finals.items()
    ]


def number_of(value: Any) -> float:
    """A number of a row; NaN for what is none, as in JSON's null.

    Example:
        >>> number_of(None), number_of(True), number_of(0.5), number_of("x")
        (nan, nan, 0.5, nan)
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return math.nan


def _failed(row: Row) -> bool:
    return row.get("status") != "done"


def _score(
    key: tuple[str, str], seeds: Mapping[int, Row], trials: list[Row], metric: str, level: float
) -> Score:
    done = {seed: row for seed, row in seeds.items() if not _failed(row)}
    found = {seed: number_of((row.get("test") or {}).get(metric)) for seed, row in done.items()}
    values = {seed: value for seed, value in sorted(found.items()) if math.isfinite(value)}
    numbers = np.array(list(values.values()))
    last = next(reversed(done.values()), {}) if done else {}
    return Score(
        case=key[0],
        method=key[1],
        values=values,
        mean=float(numbers.mean()) if numbers.size else math.nan,
        deviation=float(numbers.std(ddof=1)) if numbers.size > 1 else math.nan,
        interval=t_interval(numbers, level=level),
        failed=len(seeds) - len(done),
        without_score=len(done) - len(values),
        seconds=_mean([number_of(row.get("seconds")) for row in done.values()]),
        memory_mib=_most([number_of(row.get("memory_mib")) for row in done.values()]),
        trials=len(trials),
        trials_failed=sum(row.get("status") == "failed" for row in trials),
        tuning_seconds=sum(_known([number_of(row.get("seconds")) for row in trials])),
        settings=dict(last.get("settings") or {}),
    )


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _mean(values: Iterable[float]) -> float:
    known = _known(values)
    return sum(known) / len(known) if known else math.nan


def _most(values: Iterable[float]) -> float:
    return max(_known(values), default=math.nan)
