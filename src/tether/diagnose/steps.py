"""What a step of a diagnosis is: what it needs, what it measures, how it judges and is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tether.diagnose.passes import Budget, Passes
from tether.diagnose.subject import Subject

if TYPE_CHECKING:
    from tether.report import Color, Page

PROBLEM, NOTE = "problem", "note"
OK, NOT_AVAILABLE, FAILED = "ok", "not available", "failed"


@dataclass(frozen=True)
class Verdict:
    """Something that a measure says about a run.

    Attributes:
        kind: ``"problem"``, or ``"note"`` for what one should know and nothing need be done about.
        says: what is going on, a sentence.
        number: the number behind it, in words.
        limit: from where on it counts, in words.
        weight: how far beyond the limit it is, from 1 on; the most serious are told first.
        method: name of the method that addresses it; empty where none does.
        remedy: what to do, for example the options of ``tether tune``.
        step: name of the step that found it.
    """

    kind: str
    says: str
    number: str
    limit: str
    weight: float = 1.0
    method: str = ""
    remedy: str = ""
    step: str = ""

    def line(self) -> str:
        """In one line of text."""
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{self.kind}: {self.says.rstrip('.')} ({self.number}; {self.limit}).{remedy}"


@dataclass
class Case:
    """What a step is given.

    Attributes:
        subject: what is diagnosed.
        passes: shared forwards over its samples.
        budget: the time that is left.
        found: values of the steps before, by name.
    """

    subject: Subject
    passes: Passes
    budget: Budget
    found: dict[str, Found] = field(default_factory=dict)


@dataclass
class Found:
    """What a step found; all of it goes into ``diagnosis.json``.

    Attributes:
        values: numbers by name.
        more: what the pictures are drawn from: lists and mappings of plain values.
    """

    values: dict[str, float] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """What became of a step.

    Attributes:
        status: ``"ok"``, ``"not available"`` or ``"failed"``.
        reason: why it is not there.
        seconds: time it took.
        found: what it found.
        verdicts: what it says.
    """

    status: str
    reason: str = ""
    seconds: float = 0.0
    found: Found = field(default_factory=Found)
    verdicts: list[Verdict] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "status": self.status, "reason": self.reason, "seconds": round(self.seconds, 3),
            "values": self.found.values, "more": self.found.more,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }  # fmt: skip

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Outcome:
        """What :meth:`as_json` gave."""
        verdicts = [Verdict(**verdict) for verdict in kept["verdicts"]]
        found = Found(dict(kept["values"]), dict(kept["more"]))
        return cls(kept["status"], kept["reason"], kept["seconds"], found, verdicts)


Measure = Callable[[Case], Found]
Judge = Callable[[Found, Mapping[str, Found]], list[Verdict]]
Draw = Callable[["Page", "dict[str, Found]", "Mapping[str, Color]"], None]


def share(value: float, digits: int = 1) -> str:
    """A share in per cent, as it is written in a sentence.

    Example:
        >>> share(0.616), share(0.3, 0)
        ('61.6 %', '30 %')
    """
    return f"{100 * value:.{digits}f} %"


def no_verdict(found: Found, others: Mapping[str, Found]) -> list[Verdict]:
    """For steps that only show."""
    return []


@dataclass(frozen=True)
class Step:
    """One step of a diagnosis.

    Attributes:
        name: key in ``diagnosis.json``.
        title: what it is called on the page.
        needs: what must be there, see :meth:`tether.diagnose.subject.Subject.lacks`.
        measure: takes the measure. It may raise ``Unavailable`` with the reason, and so may it
            ``ValueError``; anything else is a failure, which the page tells as well.
        draw: adds figures and tables for one or several runs, by their names.
        judge: what was found, and what the steps before found by their names -> what it says.
        cost: forwards over all held-out samples that it is worth, for the time budget; those that
            every diagnosis makes are not counted.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    measure: Measure
    draw: Draw
    judge: Judge = no_verdict
    cost: float = 0.0


@dataclass(frozen=True)
class Group:
    """Steps that share a section of the page.

    Attributes:
        title: its heading.
        intro: a paragraph under it.
        steps: in their order.
    """

    title: str
    intro: str
    steps: tuple[Step, ...]


class Unavailable(Exception):
    """A measure makes no sense here; the text says why."""
