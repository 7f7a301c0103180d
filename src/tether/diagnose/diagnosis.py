"""A diagnosis: every step that can be taken, its verdicts, and the file that keeps them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tether.diagnose.passes import Budget, Passes
from tether.diagnose.steps import (
    FAILED,
    NOT_AVAILABLE,
    OK,
    PROBLEM,
    Case,
    Outcome,
    Step,
    Unavailable,
    Verdict,
)
from tether.diagnose.subject import HELD_OUT, TRAIN, Subject
from tether.errors import ConfigError, TetherError
from tether.files import finite, read_json, write_json

FORMAT = 1
DIAGNOSIS_FILE = "diagnosis.json"
REPORT_FILE = "report.html"
Show = Callable[[str], None]


@dataclass
class Diagnosis:
    """What a diagnosis found.

    Attributes:
        name: of the run or the model.
        facts: what it is, in words by name.
        outcomes: name of a step -> what became of it, in the order of the steps.
        samples: kind of samples -> how many were measured on.
        seconds: time it took.
        against: the diagnosis that it is to be compared with.
    """

    name: str
    facts: dict[str, str]
    outcomes: dict[str, Outcome]
    samples: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    against: Diagnosis | None = None

    @property
    def verdicts(self) -> list[Verdict]:
        """What all steps say, problems first, the most serious first."""
        found = [verdict for outcome in self.outcomes.values() for verdict in outcome.verdicts]
        return sorted(found, key=lambda verdict: (verdict.kind != PROBLEM, -verdict.weight))

    @property
    def problems(self) -> list[Verdict]:
        """Those verdicts that call for something to be done."""
        return [verdict for verdict in self.verdicts if verdict.kind == PROBLEM]

    @property
    def missing(self) -> dict[str, str]:
        """Name of a step that was not taken -> why."""
        return {name: o.reason for name, o in self.outcomes.items() if o.status != OK}

    def lines(self) -> list[str]:
        """The verdict in lines of text, never empty."""
        lines = [verdict.line() for verdict in self.verdicts]
        if not self.problems:
            lines.insert(0, nothing_wrong(self))
        return lines

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``json.dumps``."""
        kept: dict[str, Any] = {
            "format": FORMAT, "name": self.name, "facts": self.facts, "samples": self.samples,
            "seconds": round(self.seconds, 3), "verdict": self.lines(),
            "steps": {name: outcome.as_json() for name, outcome in self.outcomes.items()},
        }  # fmt: skip
        if self.against is not None:
            kept["against"] = self.against.as_json()
        plain: dict[str, Any] = finite(kept)
        return plain

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Diagnosis:
        """What :meth:`as_json` gave.

        Raises:
            ConfigError: it is no diagnosis, or one of another version.
        """
        if kept.get("format") != FORMAT:
            raise ConfigError(f"it has format {kept.get('format')!r}, this tether reads {FORMAT}")
        try:
            outcomes = {name: Outcome.from_json(one) for name, one in kept["steps"].items()}
            for outcome in outcomes.values():
                outcome.found.values = {
                    key: float("nan") if value is None else value
                    for key, value in outcome.found.values.items()
                }
            against = cls.from_json(kept["against"]) if "against" in kept else None
            return cls(
                kept["name"], kept["facts"], outcomes, kept["samples"], kept["seconds"], against
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"it is no diagnosis: {error!r}") from None

    def write(self, path: Path) -> None:
        """Write the JSON file, whole or not at all."""
        write_json(path, self.as_json())

    @classmethod
    def read(cls, path: Path) -> Diagnosis:
        """What :meth:`write` wrote.

        Raises:
            ConfigError: there is no such file, or it is no diagnosis.
        """
        try:
            return cls.from_json(read_json(path))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None


def nothing_wrong(diagnosis: Diagnosis) -> str:
    """What is said where no step found a problem."""
    taken = sum(outcome.status == OK for outcome in diagnosis.outcomes.values())
    left = len(diagnosis.outcomes) - taken
    if not taken:
        return "nothing can be said: no measure could be taken"
    rest = f"; {left} were not available" if left else ""
    return f"nothing is going wrong, as far as {taken} measures tell{rest}"


def examine(
    subject: Subject,
    *,
    max_seconds: float = 0.0,
    batch_size: int = 64,
    only: tuple[str, ...] = (),
    show: Show = lambda line: None,
) -> Diagnosis:
    """Take every step that can be taken.

    Args:
        subject: what is diagnosed.
        max_seconds: steps that would not end in this time are left out; 0: no limit.
        batch_size: samples of a forward.
        only: names of steps; empty: all of them.
        show: is told what is being done.

    Raises:
        ConfigError: ``only`` names a step that does not exist.
    """
    budget = Budget(max_seconds)
    case = Case(subject, Passes(subject, batch_size=batch_size), budget)
    outcomes: dict[str, Outcome] = {}
    for step in _chosen(only):
        outcomes[step.name] = outcome = _take(step, case, show)
        if outcome.status == OK:
            case.found[step.name] = outcome.found
    samples = {
        ("training" if name == TRAIN else subject.held_out): len(subject.samples[name])
        for name in (TRAIN, HELD_OUT)
        if name in subject.samples
    }
    return Diagnosis(subject.name, dict(subject.facts), outcomes, samples, budget.spent)


def _chosen(only: tuple[str, ...]) -> Iterator[Step]:
    from tether.diagnose.groups import all_steps
    from tether.words import nearest

    steps = {step.name: step for step in all_steps()}
    for name in only:
        if name not in steps:
            hint = nearest(name, steps, before=": ", listing=True)
            raise ConfigError(f"there is no step {name!r}{hint}")
    return (step for name, step in steps.items() if not only or name in only)


def _take(step: Step, case: Case, show: Show) -> Outcome:
    reason = case.subject.lacks(step.needs) or _too_long(step, case)
    if reason:
        return Outcome(NOT_AVAILABLE, reason)
    show(step.title)
    began = time.perf_counter()
    try:
        found = step.measure(case)
        verdicts = step.judge(found, case.found)
    except (Unavailable, ValueError, TetherError) as error:
        return Outcome(NOT_AVAILABLE, str(error), time.perf_counter() - began)
    except Exception as error:  # one measure must not take the others along
        first = str(error).strip().partition("\n")[0]
        reason = f"{type(error).__name__}: {first}"
        return Outcome(FAILED, reason, time.perf_counter() - began)
    own = [Verdict(**{**vars(verdict), "step": step.name}) for verdict in verdicts]
    return Outcome(OK, "", time.perf_counter() - began, found, own)


def _too_long(step: Step, case: Case) -> str:
    left = case.budget.left
    if left <= 0:
        return f"no time was left of {case.budget.seconds:g} s (--max-seconds)"
    number = len(case.subject.samples.get(HELD_OUT, ()))
    needed = step.cost * number * case.passes.per_sample
    if needed > left:
        return (
            f"it would take about {needed:.0f} s, and {left:.0f} s of {case.budget.seconds:g} s "
            "are left (--max-seconds)"
        )
    return ""
