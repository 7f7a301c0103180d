"""What the page is told about suspects and decisions, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tether.errors import ConfigError
from tether.labels.journal import DECISIONS, SESSION_LENGTH, Entry, Journal, now
from tether.labels.review.suspects import Review
from tether.words import printable


def overview(review: Review) -> dict[str, Any]:
    """All suspects in short, as columns: labels are numbers of names."""
    labels = {name: number for number, name in enumerate(review.class_names)}
    for suspect in review.suspects:
        for label in (suspect.given, suspect.suggested):
            labels.setdefault(label, len(labels))
    rows = review.suspects
    return {
        "name": review.name,
        "run": str(review.run),
        "data": review.data,
        "kind": review.samples.kind,
        "task": review.task,
        "separator": review.separator,
        "classes": len(review.class_names),
        "labels": list(labels),
        "warnings": review.warnings,
        "likely": review.likely,
        "id": [s.id for s in rows],
        "given": [labels[s.given] for s in rows],
        "suggested": [labels[s.suggested] for s in rows],
        "score": [s.score for s in rows],
        "confidence": [s.confidence for s in rows],
    }


def details(review: Review, number: int) -> dict[str, Any]:
    """One suspect with its neighbours."""
    suspect, samples = review.suspects[number], review.samples
    return {
        "n": number,
        "split": suspect.split,
        "reasons": list(suspect.reasons),
        "duplicates": list(suspect.duplicate_of),
        **_sample(review, suspect.id),
        "neighbours": {
            "given": [_sample(review, name) for name in suspect.neighbours_given],
            "suggested": [_sample(review, name) for name in suspect.neighbours_suggested],
        },
        "kind": samples.kind,
    }


def _sample(review: Review, name: str) -> dict[str, Any]:
    number = review.samples.number[name]
    return {"id": name, "sample": number, "text": review.samples.text(number)}


def states(
    review: Review, holding: Mapping[str, Entry], names: Iterable[str]
) -> list[dict[str, Any]]:
    """The decision about each of these samples, oldest first; none where it was taken back."""
    numbers = {suspect.id: number for number, suspect in enumerate(review.suspects)}
    wanted = {name for name in names if name in numbers}
    undone = [{"n": numbers[name], "decision": None} for name in wanted if name not in holding]
    return undone + [
        {
            "n": numbers[name], "decision": entry.decision, "label": entry.label,
            "key": name_of(entry),
        }
        for name, entry in holding.items()
        if name in wanted
    ]  # fmt: skip


def to_entry(review: Review, wanted: Any) -> Entry:
    """A decision as the page sends it, as a line of the journal.

    Raises:
        ConfigError: it is not made as it should be.
    """
    if not isinstance(wanted, Mapping):
        raise ConfigError("a decision is an object")
    number, decision = wanted.get("n"), wanted.get("decision")
    sequence, session = wanted.get("sequence"), wanted.get("session")
    if type(number) is not int or not 0 <= number < len(review.suspects):
        raise ConfigError(f"there is no suspect {printable(number)}")
    if decision not in DECISIONS:
        raise ConfigError(f"there is no decision {printable(decision)}")
    if type(sequence) is not int or not 0 <= sequence < 2**53:
        raise ConfigError("sequence is a whole number")
    if not (isinstance(session, str) and len(session) == SESSION_LENGTH and session.isalnum()):
        raise ConfigError(f"session is {SESSION_LENGTH} letters or digits")
    suspect = review.suspects[number]
    label = {"accept": suspect.suggested, "keep": suspect.given}.get(str(decision), "")
    if decision == "other":
        told = wanted.get("label")
        if not isinstance(told, str):
            raise ConfigError("label is a text")
        review.check_label(told)
        label = told
    return Entry(
        now(), suspect.id, suspect.split, suspect.given, str(decision), label, sequence, session
    )


def without_stale(
    wanted: Sequence[Any], entries: Sequence[Entry], journal: Journal
) -> list[Entry]:  # fmt: skip
    """The entries, without undos of decisions that no longer hold: another tab was faster.

    Args:
        wanted: decisions as the page sends them; an undo may say ``of`` which decision.
        entries: the same as lines of the journal.
        journal: what was decided before.
    """
    holding: dict[str, Entry | None] = dict(journal.state())
    fresh = []
    for asked, entry in zip(wanted, entries, strict=True):
        if entry.decision == "undo":
            there, of = holding.get(entry.id), asked.get("of")
            if there is not None and of is not None and of != name_of(there):
                continue
            holding[entry.id] = None  # what comes to light is not known here
        elif not journal.holds(entry):
            holding[entry.id] = entry
        fresh.append(entry)
    return fresh


def name_of(entry: Entry) -> str:
    """What names a decision on the page."""
    return f"{entry.session}:{entry.sequence}"
