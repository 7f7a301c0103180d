"""Whether a study is still the one whose runs are kept: what differs, and what may be added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tether.compare.entries import Entry
from tether.compare.plan import Case, cases
from tether.compare.study import Study, load_study, study_values
from tether.errors import ConfigError
from tether.optional import require

#: Keys that bear on no run.
FREE = ("name", "baseline", "leaks")
#: Keys to which something may be added without a bearing on the runs that are there.
GROWING = ("models", "data", "noise", "shots", "methods", "seeds", "trials")


def read_stored(text: str) -> Study:
    """A study as a storage or folder holds it.

    Raises:
        ConfigError: it cannot be read.
    """
    yaml = require("yaml", "cli")
    try:
        return load_study(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError(f"the stored study cannot be read: {error}") from None


def check_unchanged(before: Study, now: Study, *, extend: bool, place: str) -> None:
    """Refuse to go on with another study than the one that has runs.

    Args:
        before: the study of the runs that are there.
        now: what is asked for.
        extend: things may be added.
        place: where the runs are, for messages.

    Raises:
        ConfigError: says what changed, and what can be done.
    """
    lines = changes(before, now)
    if not lines:
        return
    lost = removed(before, now)
    if not lost and extend:
        return
    remedy = "begin anew with --new (its runs are removed), or name another output folder"
    if not lost:
        remedy = f"keep its runs and add to them with --extend, or {remedy}"
    elif extend:
        lines, remedy = lost, f"--extend only adds; {remedy}"
    raise ConfigError(f"{place} has runs of another study: {'; '.join(lines[:6])}. {remedy}")


def changes(before: Study, now: Study) -> list[str]:
    """What differs, as readable lines."""
    was, is_now = study_values(before), study_values(now)
    lines = []
    for key in was:
        if key in FREE or was[key] == is_now[key]:
            continue
        if isinstance(was[key], dict):
            lines += _parts(key, was[key], is_now[key])
        elif isinstance(was[key], list):
            lines += _items(key, was[key], is_now[key])
        else:
            lines.append(f"{key}: {_shown(was[key])} before, {_shown(is_now[key])} now")
    return lines


def _parts(key: str, was: Mapping[str, Any], is_now: Mapping[str, Any]) -> list[str]:
    names = [*was, *(name for name in is_now if name not in was)]
    return [
        f"{key}.{name}: {_shown(was.get(name))} before, {_shown(is_now.get(name))} now"
        for name in names
        if was.get(name) != is_now.get(name)
    ]


def _items(key: str, was: list[Any], is_now: list[Any]) -> list[str]:
    before, now = _named(was), _named(is_now)
    lines = [f"{key}: {name} is new" for name in now if name not in before]
    lines += [f"{key}: {name} is gone" for name in before if name not in now]
    lines += [
        f"{key}: {name} is {_shown(now[name])}, before it was {_shown(before[name])}"
        for name in before
        if name in now and before[name] != now[name]
    ]
    return lines or [f"{key}: the order is another one"]


def _named(items: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in items:
        if isinstance(one, Mapping) and "name" in one:
            found[str(one["name"])] = {key: part for key, part in one.items() if key != "name"}
        elif isinstance(one, Mapping):
            found.update({str(label): about for label, about in one.items()})
        else:
            found[str(one) or "none"] = one
    return found


def _shown(value: Any) -> str:
    return "none" if value in (None, "", [], {}) else str(value)


def removed(before: Study, now: Study) -> list[str]:
    """What keeps the runs of one study from being runs of the other."""
    was, is_now = study_values(before), study_values(now)
    keys = [key for key in was if key not in (*FREE, *GROWING)]
    lines = changes(before, load_study({**was, **{key: is_now[key] for key in keys}}))
    cases_now = {case.case_id: case for case in cases(now)}
    for case in cases(before):
        there = cases_now.get(case.case_id)
        if there is None:
            lines.append(f"case {case.case_id!r} is gone or would be called otherwise")
        elif _differs(case, there, now, before):
            lines.append(f"case {case.case_id!r} has other settings")
    entries_now = {one.label: one for one in now.methods}
    for one in before.methods:
        mine = entries_now.get(one.label)
        if mine is None or not _same_entry(one, mine):
            lines.append(f"method {one.label!r} is {'gone' if mine is None else 'another one'}")
    lines += [f"seed {seed} is gone" for seed in before.seeds if seed not in now.seeds]
    if now.trials < before.trials:
        lines.append(f"trials: {before.trials} before, {now.trials} now")
    return lines


def _differs(one: Case, other: Case, now: Study, before: Study) -> bool:
    """Common settings are told of by themselves."""

    def own(case: Case, study: Study) -> dict[str, Any]:
        return {k: v for k, v in case.settings.items() if study.settings.get(k) != v}

    return own(one, before) != own(other, now)


def _same_entry(one: Entry, other: Entry) -> bool:
    return (list(one.methods), dict(one.settings), dict(one.space)) == (
        list(other.methods), dict(other.settings), dict(other.space)
    )  # fmt: skip
