"""What a comparison is told: models, data, methods, seeds, trials; read from YAML and flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tether.compare.entries import (
    OURS,
    Entry,
    Named,
    as_list,
    read_entries,
    read_named,
    read_options,
)
from tether.compare.episode_spec import read_episodes
from tether.compare.space import Range, range_text, read_range
from tether.errors import ConfigError
from tether.tuning.config import read_config_file
from tether.tuning.method_spec import entry, method_text
from tether.tuning.table import FIELDS, canonical
from tether.tuning.values import read_value, split_top
from tether.words import nearest


@dataclass(frozen=True)
class Study:
    """A comparison; every field is a key of its YAML.

    Attributes:
        models: what is fine-tuned.
        data: on what.
        noise: label noise put into the training data, ``""``: none.
        shots: training samples a class, 0: all.
        methods: what is compared.
        seeds: of the runs whose test scores are compared.
        trials: tuning trials of every method, the baseline included.
        space: ranges of options that every method is tuned over.
        settings: options of every run.
        metric: what is compared; ``""``: the task's own.
        score: which weights are scored, those of the ``"last"`` or of the ``"best"`` epoch.
        baseline: the method that others are compared with.
        tuning_seed: the seed of all tuning trials.
        prune: break trials off that do worse than the median.
        wave: trials of a method that are tried at once after the first four.
        threads: of every run; numbers may depend on it.
        episodes: few-shot episodes instead of ordinary runs: ``{way, shot, count, queries}``;
            ``count`` of them are shared out among the seeds.
        leaks: what to do where test samples occur in other splits: ``"refuse"`` or ``"allow"``.
        name: of the study.
    """

    models: tuple[Named, ...]
    data: tuple[Named, ...]
    methods: tuple[Entry, ...]
    noise: tuple[str, ...] = ("",)
    shots: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    trials: int = 10
    space: Mapping[str, Range] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    metric: str = ""
    score: str = "last"
    baseline: str = "plain"
    tuning_seed: int = 1000
    prune: bool = True
    wave: int = 1
    threads: int = 1
    episodes: Mapping[str, Any] = field(default_factory=dict)
    leaks: str = "refuse"
    name: str = "study"


KEYS = tuple(f.name for f in fields(Study))
_SINGULAR = {"model": "models", "method": "methods", "seed": "seeds"}


def load_study(
    source: Study | Mapping[str, Any] | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    name: str = "study",
) -> Study:
    """A study from a YAML or TOML file, a mapping or an object; every value is checked.

    Args:
        source: where it is written.
        overrides: keys that win over ``source``; ``settings`` and ``space`` are merged. A value
            of None leaves a key as it is.
        name: of the study where it has none.

    Raises:
        ConfigError: a file cannot be read, a key is unknown, or a value does not do.

    Example:
        >>> study = load_study({
        ...     "models": "demo:digits", "data": "demo:digits", "methods": "plain, adarand+elr",
        ...     "seeds": 3, "trials": 2,
        ... })
        >>> [entry.label for entry in study.methods], study.seeds
        (['plain', 'adarand+elr'], (0, 1, 2))
    """
    if isinstance(source, Study):
        source = study_values(source)
    where = ""
    given: dict[Any, Any] = {}
    if isinstance(source, Mapping):
        given = dict(source)
    elif source is not None:
        given, where = read_config_file(Path(source)), f" ({source})"
    values = _spelt(given, where)
    for key, value in _spelt(overrides or {}, "").items():
        if key in ("settings", "space") and isinstance(values.get(key), Mapping):
            value = {**values[key], **value}
        values[key] = value
    return _made({"name": name, **values}, where)


def _spelt(given: Mapping[Any, Any], where: str) -> dict[str, Any]:
    """Keys in their one spelling, values of None left out."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = str(key).strip().replace("-", "_")
        name = _SINGULAR.get(name, name)
        if name not in KEYS:
            if canonical(name) in FIELDS:
                hint = f": options of the runs stand under settings: {{{canonical(name)}: …}}"
            else:
                hint = nearest(name, KEYS, before=": ", listing=True)
            raise ConfigError(f"unknown key {key!r} of a study{where}{hint}")
        if name in found:
            raise ConfigError(f"key {name} of a study is given twice{where}")
        if value is not None:
            found[name] = value
    return found


def _made(values: dict[str, Any], where: str) -> Study:
    lacking = [key for key in ("models", "data", "methods") if not values.get(key)]
    if lacking:
        flags = " and ".join(f"--{key.removesuffix('s')}" for key in lacking)
        raise ConfigError(f"a comparison needs {' and '.join(lacking)}{where}: give {flags}")
    settings = read_options(values.get("settings", {}), f" under settings{where}")
    made: dict[str, Any] = {
        **values,
        "settings": settings,
        "models": read_named("models", "model", values["models"], where),
        "data": read_named("data", "data", values["data"], where),
        "methods": read_entries(values["methods"], where),
        "noise": tuple(str(n or "") for n in as_list(values.get("noise", ("",)))),
        "shots": tuple(_whole("shots", n, 0) for n in as_list(values.get("shots", (0,)))),
        "seeds": _seeds(values.get("seeds", 5)),
        "space": _space(values.get("space"), settings, where),
    }
    for key, least in (("trials", 1), ("tuning_seed", 0), ("wave", 1), ("threads", 1)):
        if key in made:
            made[key] = _whole(key, made[key], least)
    for key, choices in (("score", ("last", "best")), ("leaks", ("refuse", "allow"))):
        if made.get(key, choices[0]) not in choices:
            hint = nearest(str(made[key]), choices)
            raise ConfigError(f"{key} must be {' or '.join(choices)}, got {made[key]!r}{hint}")
    if not isinstance(made.get("prune", True), bool):
        raise ConfigError(f"prune must be true or false, got {made['prune']!r}")
    for key in ("metric", "name", "baseline"):
        if key in made:
            made[key] = str(made[key])
    made["episodes"] = dict(values.get("episodes") or {})
    study = Study(**made)
    return _checked(study, named="baseline" in values)


def _checked(study: Study, named: bool) -> Study:
    """What holds between the keys."""
    if study.episodes:
        for kind in read_episodes(study.episodes):
            if kind.count < 2 * len(study.seeds):
                raise ConfigError(
                    f"episodes: count {kind.count} gives fewer than two episodes for each of "
                    f"{len(study.seeds)} seeds"
                )
        if any(study.noise) or any(study.shots) or any(m.features_of for m in study.models):
            raise ConfigError("episodes go with neither noise, shots nor features_of")
    labels = [one.label for one in study.methods]
    if study.baseline not in labels:
        if named:
            raise ConfigError(
                f"baseline {study.baseline!r} is none of the methods"
                f"{nearest(study.baseline, labels, before=': ', listing=True)}"
            )
        study = replace(study, baseline=labels[0])
    if len(study.seeds) < 2:
        raise ConfigError(
            f"seeds: an interval needs two seeds at least (five or more tell more), got "
            f"{len(study.seeds)}"
        )
    if study.tuning_seed in study.seeds:
        raise ConfigError(
            f"tuning_seed {study.tuning_seed} is one of the seeds: what is tuned on a seed must "
            "not be judged on it"
        )
    for what, items in (
        ("methods", labels), ("models", [m.name for m in study.models]),
        ("data", [d.name for d in study.data]), ("noise", study.noise), ("shots", study.shots),
        ("seeds", study.seeds),
    ):  # fmt: skip
        twice = sorted({str(one) for one in items if list(items).count(one) > 1})
        if twice:
            raise ConfigError(f"{what}: {twice[0]!r} is given twice; give one a name of its own")
    return study


# -- parts ---------------------------------------------------------------------------------------


def _space(given: Any, settings: Mapping[str, Any], where: str) -> dict[str, Range]:
    """Ranges of options of the runs; by default the learning rate's and the epochs'."""
    if given is None:
        rate = settings.get("lr", FIELDS["lr"].default)
        epochs = settings.get("epochs", FIELDS["epochs"].default)
        half = epochs / 2 if epochs % 2 else epochs // 2
        return {
            "lr": ("log", rate / 10, rate * 10),
            "epochs": ("choice", *sorted({float(max(half, 1.0)), float(epochs)})),
        }
    if not isinstance(given, Mapping):
        raise ConfigError(f"space: expected 'option: range' lines{where}, got {given!r}")
    found = {}
    for key, value in given.items():
        name = canonical(key)
        if name not in FIELDS or name in OURS:
            known = [field for field in FIELDS if field not in OURS]
            hint = nearest(name, known, before=": ") or ": it is no option of tether tune"
            raise ConfigError(f"space: {key!r} cannot be tuned{where}{hint}")
        found[name] = read_range(name, value)
    return found


def _seeds(given: Any) -> tuple[int, ...]:
    """A number of seeds, or the seeds."""
    if isinstance(given, str):
        given = [read_value(part) for part in split_top(given) if part]
        given = given[0] if len(given) == 1 else given
    if isinstance(given, (list, tuple)):
        return tuple(_whole("seeds", one, 0) for one in given)
    return tuple(range(_whole("seeds", given, 0)))


def _whole(key: str, value: Any, least: int) -> int:
    number = read_value(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number != int(number):
        raise ConfigError(f"{key}: expected a whole number, got {value!r}")
    if number < least:
        raise ConfigError(f"{key} must be at least {least}, got {value}")
    return int(number)


# -- writing ---------------------------------------------------------------------------------------


def study_values(study: Study) -> dict[str, Any]:
    """The study as plain values, as its YAML holds them; :func:`load_study` reads them back."""
    return {
        "name": study.name,
        "models": [_named_values(one) for one in study.models],
        "data": [_named_values(one) for one in study.data],
        "noise": list(study.noise),
        "shots": list(study.shots),
        "methods": [_entry_values(one) for one in study.methods],
        "baseline": study.baseline,
        "seeds": list(study.seeds),
        "trials": study.trials,
        "space": {key: range_text(value) for key, value in study.space.items()},
        "settings": dict(study.settings),
        **{
            key: getattr(study, key)
            for key in ("metric", "score", "tuning_seed", "prune", "wave", "threads", "leaks")
        },
        "episodes": dict(study.episodes),
    }


def _named_values(one: Named) -> dict[str, Any]:
    of = {"features_of": dict(one.features_of)} if one.features_of else {}
    return {"name": one.name, **one.settings, **of}


def _entry_values(one: Entry) -> dict[str, Any]:
    about = {
        "methods": [method_text(*entry(method)) for method in one.methods],
        "settings": dict(one.settings),
        "space": {key: range_text(value) for key, value in one.space.items()},
    }
    return {one.label: about}


def dump_study(study: Study) -> str:
    """The study as YAML."""
    import yaml

    text: str = yaml.safe_dump(study_values(study), sort_keys=False, allow_unicode=True, width=100)
    return text
