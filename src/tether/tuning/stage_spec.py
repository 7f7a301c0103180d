"""Stages of a run: each a set of options of its own, and where it starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tether.continual.items import items_of
from tether.errors import ConfigError
from tether.tuning.options import TuneConfig
from tether.tuning.table import FIELDS, canonical, entries
from tether.words import nearest

STARTS = ("last", "best", "pretrained")
RESETS = ("head", "optimizer", "schedule")
#: A stage trains with an optimiser and a schedule of its own.
ALWAYS_RESET = ("optimizer", "schedule")
#: What holds for the whole run: one model, one place, one output folder.
FIXED = (
    "device", "precision", "workers", "seed", "compile", "fsdp", "stages", "output_dir", "sequence",
)  # fmt: skip
STAGE_OPTIONS = tuple(
    name
    for name, field in FIELDS.items()
    if name not in FIXED and field.metadata["group"] not in ("Model", "Output") and name != "model"
)


@dataclass(frozen=True)
class StageSpec:
    """One stage of a run.

    Attributes:
        index: its place, counted from 0.
        config: the run's options with those of the stage; without ``stages``.
        start_from: whose weights it begins with: ``"last"`` or ``"best"`` of the stage before, or
            ``"pretrained"`` (always so in the first stage).
        reset: what begins anew, out of ``RESETS``; optimiser and schedule always do.
    """

    index: int
    config: TuneConfig
    start_from: str
    reset: tuple[str, ...] = ALWAYS_RESET


def normal_stages(given: Sequence[Any], where: str = "") -> list[dict[str, Any]]:
    """The stages with canonical keys and checked values.

    Raises:
        ConfigError: a stage is no mapping, or holds a key or value that does not do.
    """
    return [_normal(one, number, where) for number, one in enumerate(given, start=1)]


def _normal(given: Any, number: int, where: str) -> dict[str, Any]:
    where = f" (stage {number}){where}"
    if not isinstance(given, Mapping):
        raise ConfigError(f"a stage is a mapping of options, got {given!r}{where}")
    own: dict[str, Any] = {}
    options: dict[Any, Any] = {}
    for key, value in given.items():
        name = canonical(key)
        if name == "start_from":
            own[name] = _start(value, number, where)
        elif name == "reset":
            own[name] = _reset(value, where)
        elif name in FIELDS:
            options[key] = value
        else:
            known = [*STAGE_OPTIONS, "start_from", "reset"]
            hint = nearest(name, known, before=": ", listing=True)
            raise ConfigError(f"unknown key {key!r}{where}{hint}")
    return {**entries(options, where, only=STAGE_OPTIONS), **own}


def _start(value: Any, number: int, where: str) -> str:
    if value not in STARTS:
        raise ConfigError(f"start_from must be one of {', '.join(STARTS)}, got {value!r}{where}")
    if number == 1 and value != "pretrained":
        raise ConfigError(
            f"start_from: {value} needs a stage before; the first starts from pretrained{where}"
        )
    return str(value)


def _reset(value: Any, where: str) -> list[str]:
    if value is None or value == "none":
        return []
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        raise ConfigError(f"reset is a list out of {', '.join(RESETS)}, got {value!r}{where}")
    names = [str(part).strip() for part in parts]
    for name in names:
        if name == "weights":
            raise ConfigError(f"reset: for other weights write start_from: pretrained{where}")
        if name not in RESETS:
            hint = nearest(name, RESETS, before=": ", listing=True)
            raise ConfigError(f"reset: {name!r} is unknown{where}{hint}")
    return names


def stage_configs(config: TuneConfig) -> list[StageSpec]:
    """The stages of a run, each with its options worked out; one where none are written.

    Example:
        >>> config = TuneConfig(lr=0.1, stages=[{"epochs": 2}, {"lr": 0.01, "reset": ["head"]}])
        >>> [(spec.config.lr, spec.start_from, spec.reset[0]) for spec in stage_configs(config)]
        [(0.1, 'pretrained', 'optimizer'), (0.01, 'last', 'head')]
    """
    specs = []
    if config.sequence:
        return _tasks(config)
    for index, stage in enumerate(normal_stages(config.stages) or [{}]):
        options = {key: value for key, value in stage.items() if key in FIELDS}
        reset = [*stage.get("reset", ()), *ALWAYS_RESET]
        specs.append(
            StageSpec(
                index,
                replace(config, **options, stages=[]),
                stage.get("start_from", "last" if index else "pretrained"),
                tuple(dict.fromkeys(reset)),
            )
        )
    return specs


def _tasks(config: TuneConfig) -> list[StageSpec]:
    """A stage for each task of a sequence, which knows the tasks up to it."""
    items = items_of(config.sequence)
    return [
        StageSpec(
            index,
            # the record of samples is a table of one training set
            replace(
                config, data=item, sequence=",".join(items[: index + 1]), stages=[], record=False
            ),
            "last" if index else "pretrained",
        )
        for index, item in enumerate(items)
    ]
