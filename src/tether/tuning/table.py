"""The table of options as look-ups: spellings, and a mapping's values checked one by one."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import Field, fields
from typing import Any

from tether.errors import ConfigError
from tether.tuning.method_spec import normal_methods
from tether.tuning.options import TuneConfig
from tether.tuning.values import convert
from tether.words import nearest

FIELDS: dict[str, Field[Any]] = {field.name: field for field in fields(TuneConfig)}
ALIASES: dict[str, str] = {
    "method": "methods",
    **{alias: name for name, field in FIELDS.items() for alias in field.metadata["aliases"]},
}


def canonical(key: Any) -> str:
    """An option's key in its one spelling: underscores, no alias; unknown keys pass.

    Example:
        >>> canonical("lr-scheduler-type")
        'lr_scheduler'
    """
    name = str(key).strip().replace("-", "_")
    return ALIASES.get(name, name)


def entries(
    given: Mapping[Any, Any],
    where: str = "",
    *,
    only: Container[str] = FIELDS,
    what: str = "option",
) -> dict[str, Any]:
    """The values of a mapping under their canonical keys, in their types and ranges.

    Args:
        given: what a file, a stage or a caller says; a value of None leaves the default.
        where: ends a message, for example ``" (run.yaml)"``.
        only: the options that may stand here.
        what: how a message calls a key.

    Raises:
        ConfigError: an unknown key, one that is given twice, or a value that does not do.
    """
    values: dict[str, Any] = {}
    spelt: dict[str, Any] = {}
    for key, value in given.items():
        name = canonical(key)
        if name not in FIELDS:
            hint = nearest(name, FIELDS, before=": ", listing=True)
            raise ConfigError(f"unknown {what} {key!r}{where}{hint}")
        if name not in only:
            raise ConfigError(
                f"{what} {key!r} cannot be set here{where}: it holds for the whole run"
            )
        if name in spelt:
            raise ConfigError(
                f"option {name} is given twice{where}: as {spelt[name]!r} and {key!r}"
            )
        spelt[name] = key
        if value is None:
            continue
        field = FIELDS[name]
        values[name] = convert(name, str(field.type), field.metadata, value, where)
        if name == "methods":
            values[name] = normal_methods(values[name], where)
    return values
