"""Search spaces: ranges as they are written, and what a trial takes out of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tether.errors import ConfigError
from tether.tuning.values import read_value, split_top

KINDS = ("log", "uniform", "int", "choice")
#: One range: ``("log", low, high)``, ``("uniform", low, high)``, ``("int", low, high)`` or
#: ``("choice", a, b, …)``.
Range = tuple[Any, ...]
_WRITTEN = re.compile(r"\s*(\w+)\s*\((.*)\)\s*", re.DOTALL)


def read_range(option: str, given: Any) -> Range:
    """A range from ``"log(1e-4, 1e-2)"``, ``[log, 1e-4, 1e-2]`` or ``{log: [1e-4, 1e-2]}``.

    Raises:
        ConfigError: it is written otherwise, or empty.

    Example:
        >>> read_range("lr", "log(1e-4, 1e-2)")
        ('log', 0.0001, 0.01)
        >>> read_range("epochs", ["choice", 5, 10])
        ('choice', 5, 10)
    """
    parts = _parts(given)
    if not parts or parts[0] not in KINDS:
        raise ConfigError(
            f"space {option}: {given!r} is no range; write log(LOW, HIGH), uniform(LOW, HIGH), "
            "int(LOW, HIGH) or choice(A, B, …)"
        )
    kind, values = parts[0], parts[1:]
    if kind == "choice":
        if not values or len(set(map(repr, values))) < len(values):
            raise ConfigError(f"space {option}: a choice has one or more values, each once")
        return (kind, *values)
    numbers = [_number(value) for value in values]
    if len(numbers) != 2 or any(number is None for number in numbers):
        raise ConfigError(f"space {option}: {kind} takes two numbers, got {listed_values(values)}")
    low, high = (number for number in numbers if number is not None)
    if not low < high or (kind == "log" and low <= 0):
        more = " above 0" if kind == "log" else ""
        raise ConfigError(
            f"space {option}: {kind}({low:g}, {high:g}) must go from a smaller number{more} to a "
            "larger one"
        )
    if kind == "int":
        if low != int(low) or high != int(high):
            raise ConfigError(f"space {option}: int takes whole numbers, got {low:g}, {high:g}")
        return kind, int(low), int(high)
    return kind, float(low), float(high)


def listed_values(values: list[Any]) -> str:
    """Values as in a message; "nothing" where there are none."""
    return ", ".join(map(str, values)) or "nothing"


def _parts(given: Any) -> list[Any]:
    if isinstance(given, str):
        found = _WRITTEN.fullmatch(given)
        if not found:
            return []
        try:
            return [found[1], *(read_value(part) for part in split_top(found[2]) if part)]
        except ValueError:
            return []
    if isinstance(given, Mapping) and len(given) == 1:
        kind, values = next(iter(given.items()))
        return [kind, *values] if isinstance(values, (list, tuple)) else []
    return list(given) if isinstance(given, (list, tuple)) else []


def _number(value: Any) -> float | int | None:
    if isinstance(value, str):  # YAML reads 1e-3 as a text
        value = read_value(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def range_text(found: Range) -> str:
    """A range as :func:`read_range` reads it.

    Example:
        >>> range_text(("log", 0.0001, 0.01))
        'log(0.0001, 0.01)'
    """
    kind, *values = found
    return f"{kind}({', '.join(map(str, values))})"


def describe_range(found: Range) -> dict[str, Any]:
    """A range as the report's data hold it."""
    kind, *values = found
    if kind == "choice":
        return {"type": kind, "low": None, "high": None, "log": False, "choices": list(values)}
    return {
        "type": "int" if kind == "int" else "float", "low": values[0], "high": values[1],
        "log": kind == "log", "choices": [],
    }  # fmt: skip


def inside(value: Any, found: Range) -> bool:
    """Whether a value lies in a range."""
    kind, *values = found
    if kind == "choice":
        return value in values
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return bool(values[0] <= value <= values[1]) and (kind != "int" or value == int(value))
