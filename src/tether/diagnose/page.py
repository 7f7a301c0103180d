"""The page: the verdict first, then every measure, for one run or several side by side."""

from __future__ import annotations

from collections.abc import Sequence

from tether.diagnose.diagnosis import Diagnosis, nothing_wrong
from tether.diagnose.groups import GROUPS
from tether.diagnose.steps import FAILED, OK, PROBLEM, Found, Group, Verdict
from tether.report import Color, Column, Fact, Page, Point, assign_colors
from tether.report.palette import HUES, MUTED

RED, GREEN = HUES[1], HUES[2]
#: Step, value, words, format: what is printed large.
KEY_NUMBERS = (
    ("scores", "held_out_accuracy", "held-out accuracy", ".1%"),
    ("scores", "train_accuracy", "training accuracy", ".1%"),
    ("memorisation", "memorised", "wrong labels memorised", ".1%"),
    ("distances", "body_relative", "layers moved by", ".1%"),
    ("features", "effective_rank", "effective rank of the features", ".1f"),
    ("confidence", "over", "confidence above accuracy", "+.1%"),
    ("noise_stability", "increase_0.1", "loss under 10 % noise rises by", ".2f"),
)


def make_page(diagnoses: Sequence[Diagnosis], *, command: str = "", footer: str = "") -> Page:
    """The page of some diagnoses; those that one is held against come along.

    Args:
        diagnoses: at least one.
        command: what makes the page again.
        footer: small print, for example the machine.

    Raises:
        ValueError: there is none.
    """
    everyone = [one for each in diagnoses for one in (each, each.against) if one is not None]
    if not everyone:
        raise ValueError("there is nothing to show: give at least one diagnosis")
    runs = named(everyone)
    colors = assign_colors(runs)
    title = f"Diagnosis of {next(iter(runs))}" if len(runs) == 1 else f"{len(runs)} runs"
    page = Page(title, _subtitle(runs), footer=footer)
    _verdict(page, runs, colors)
    for group in GROUPS:
        _group(page, group, runs, colors)
    _how(page, runs, colors, command)
    return page


def named(diagnoses: Sequence[Diagnosis]) -> dict[str, Diagnosis]:
    """Each under its name; where two have the same, under more of its path."""
    names = [one.name for one in diagnoses]
    found: dict[str, Diagnosis] = {}
    for one in diagnoses:
        name = one.name
        if names.count(name) > 1:
            name = one.facts.get("run", name)
        at = 2
        unique = name
        while unique in found:
            unique, at = f"{name} ({at})", at + 1
        found[unique] = one
    return found


def _subtitle(runs: dict[str, Diagnosis]) -> str:
    if len(runs) > 1:
        return "Side by side: " + ", ".join(runs) + "."
    facts = next(iter(runs.values())).facts
    parts = [f"{facts['model']} on {facts['data']}"] if "data" in facts else [facts["model"]]
    if "methods" in facts:
        parts.append(f"methods: {facts['methods']}")
    return "; ".join(parts) + "."


# -- the verdict -----------------------------------------------------------------------------------


def _verdict(page: Page, runs: dict[str, Diagnosis], colors: dict[str, Color]) -> None:
    page.add_section("Verdict")
    for name, diagnosis in runs.items():
        points = [_point(verdict) for verdict in diagnosis.verdicts]
        if not diagnosis.problems:
            sentence = nothing_wrong(diagnosis)
            points.insert(0, Point(f"{sentence[0].upper()}{sentence[1:]}.", color=GREEN))
        alone = len(runs) == 1
        page.add_points(
            *points, title="" if alone else name, color=None if alone else colors[name]
        )  # fmt: skip
        if alone:
            facts = _facts(diagnosis)
            if facts:
                page.add_facts(*facts)
    if len(runs) > 1:
        _compare(page, runs)


def _point(verdict: Verdict) -> Point:
    problem = verdict.kind == PROBLEM
    number = verdict.number[0].upper() + verdict.number[1:]
    return Point(
        verdict.says, f"{number}; {verdict.limit}.", "Problem:" if problem else "Note:",
        RED if problem else MUTED, verdict.remedy,
    )  # fmt: skip


def _facts(diagnosis: Diagnosis) -> list[Fact]:
    facts = []
    for step, key, words, format in KEY_NUMBERS:
        value = _value(diagnosis, step, key)
        if value is not None:
            facts.append(Fact(words, _shown(value, format)))
    return facts


def _value(diagnosis: Diagnosis, step: str, key: str) -> float | None:
    outcome = diagnosis.outcomes.get(step)
    value = None if outcome is None else outcome.found.values.get(key)
    return None if value is None or value != value else value


def _shown(value: float, format: str) -> str:
    text = f"{value:{format}}"
    return (text[:-1] + " %" if text.endswith("%") else text).replace("-", "−")


def _compare(page: Page, runs: dict[str, Diagnosis]) -> None:
    """A row a number, so that many runs fit."""
    rows: list[list[object]] = [["problems", *(str(len(one.problems)) for one in runs.values())]]
    for step, key, words, format in KEY_NUMBERS:
        values = [_value(one, step, key) for one in runs.values()]
        if any(value is not None for value in values):
            shown = [None if value is None else _shown(value, format) for value in values]
            rows.append([words, *shown])
    columns = [Column(""), *(Column(name, align="right") for name in runs)]
    page.add_table(columns, rows, "The runs side by side.")


# -- the measures ----------------------------------------------------------------------------------


def _group(page: Page, group: Group, runs: dict[str, Diagnosis], colors: dict[str, Color]) -> None:
    """The section of a group, where any run has something to show or a reason why not."""
    if not any(step.name in one.outcomes for step in group.steps for one in runs.values()):
        return
    page.add_section(group.title)
    page.add_text(group.intro)
    for step in group.steps:
        taken: dict[str, Found] = {}
        for name, diagnosis in runs.items():
            outcome = diagnosis.outcomes.get(step.name)
            if outcome is not None and outcome.status == OK:
                taken[name] = outcome.found
        if taken:
            step.draw(page, taken, {name: colors[name] for name in taken})
        for reason, names in _reasons(step.name, runs).items():
            of = f" of {', '.join(names)}" if len(runs) > 1 else ""
            page.add_text(f"{step.title}{of}: {reason}.")


def _reasons(step: str, runs: dict[str, Diagnosis]) -> dict[str, list[str]]:
    """Why it is not there -> for which runs."""
    found: dict[str, list[str]] = {}
    for name, diagnosis in runs.items():
        outcome = diagnosis.outcomes.get(step)
        if outcome is not None and outcome.status != OK:
            word = "it failed" if outcome.status == FAILED else "not available"
            found.setdefault(f"{word}: {outcome.reason}", []).append(name)
    return found


# -- how it was measured ---------------------------------------------------------------------------


def _how(
    page: Page, runs: dict[str, Diagnosis], colors: dict[str, Color], command: str
) -> None:  # fmt: skip
    page.add_section("How it was measured")
    keys = list(dict.fromkeys(key for one in runs.values() for key in one.facts))
    rows: list[list[object]] = [
        [key, *(one.facts.get(key) for one in runs.values())] for key in keys
    ]
    rows.append(["samples", *(_samples(one) for one in runs.values())])
    page.add_table(["", *runs], rows, "What was diagnosed.")
    steps = list(dict.fromkeys(name for one in runs.values() for name in one.outcomes))
    page.add_table(
        ["step", *(Column(name, ".1f", "right", "seconds") for name in runs)],
        [[step, *(_seconds(one, step) for one in runs.values())] for step in steps],
        "What each step took; the first that needs an output waits for the forwards.",
    )
    if command:
        page.add_code(command, "What makes this page again:")


def _samples(diagnosis: Diagnosis) -> str | None:
    return ", ".join(f"{n} {kind}" for kind, n in diagnosis.samples.items()) or None


def _seconds(diagnosis: Diagnosis, step: str) -> float | None:
    outcome = diagnosis.outcomes.get(step)
    return outcome.seconds if outcome is not None and outcome.status == OK else None
