"""Schedulable numbers: a constant, a written curve such as ``"cosine(0.1, 0)"``, or a callable."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Union

ScheduleLike = Union[float, int, str, Callable[[float], float]]

_CURVES: dict[str, tuple[int, Callable[..., float]]] = {
    "constant": (1, lambda t, a: a),
    "linear": (2, lambda t, a, b: a + (b - a) * t),
    "cosine": (2, lambda t, a, b: b + (a - b) * 0.5 * (1.0 + math.cos(math.pi * t))),
    "exponential": (2, lambda t, a, b: a * (b / a) ** t),
    "step": (3, lambda t, a, b, at: a if t < at else b),
    "warmup": (2, lambda t, a, share: a * min(1.0, t / share) if share > 0 else a),
}
_CALL = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*")


class Schedule:
    """A number that may follow the progress of training.

    Progress runs from 0 at the first step to 1 at the horizon (``epochs`` or ``total_steps`` of
    :func:`tether.attach`). The value is a Python float, worked out on the host once per use, so
    that a changing weight never recompiles and never waits for the device.

    Args:
        spec: a number; a curve, one of ``"constant(a)"``, ``"linear(a, b)"``, ``"cosine(a, b)"``,
            ``"exponential(a, b)"`` (from a to b over training), ``"step(a, b, at)"`` (b from the
            share ``at`` of training on), ``"warmup(a, share)"`` (0 to a over the first ``share``);
            or a callable from progress in [0, 1] to a number.

    Raises:
        ValueError: the text is not a known curve, or has the wrong number of values.

    Example:
        >>> Schedule("cosine(0.1, 0)")(0.5)
        0.05
        >>> Schedule(3)(0.7)
        3.0
    """

    def __init__(self, spec: ScheduleLike) -> None:
        self.spec = spec
        self.needs_horizon = True
        if isinstance(spec, bool) or not (isinstance(spec, (int, float, str)) or callable(spec)):
            raise ValueError(f"a schedule is a number, a curve or a callable, not {spec!r}")
        if isinstance(spec, (int, float)):
            self.needs_horizon = False
            number = float(spec)
            self._curve: Callable[[float], float] = lambda t: number
        elif isinstance(spec, str):
            self._curve, self.needs_horizon = _parse(spec)
        else:
            self._curve = spec

    def __call__(self, progress: float) -> float:
        """Value at a share of training."""
        return float(self._curve(min(max(progress, 0.0), 1.0)))

    def __repr__(self) -> str:
        return f"Schedule({self.spec!r})"


def _parse(text: str) -> tuple[Callable[[float], float], bool]:
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        return (lambda t: number), False
    match = _CALL.fullmatch(text)
    known = ", ".join(f"{name} ({count} values)" for name, (count, _) in _CURVES.items())
    if match is None or match[1] not in _CURVES:
        raise ValueError(f"unknown schedule {text!r}: write a number or one of {known}")
    count, curve = _CURVES[match[1]]
    try:
        values = [float(part) for part in match[2].split(",")] if match[2].strip() else []
    except ValueError:
        raise ValueError(f"schedule {text!r}: the values must be numbers") from None
    if len(values) != count:
        raise ValueError(f"schedule {text!r}: {match[1]} takes {count} values, got {len(values)}")
    if match[1] == "exponential" and not (values[0] > 0 and values[1] > 0):
        raise ValueError(f"schedule {text!r}: an exponential runs between positive values")
    return (lambda t: curve(t, *values)), match[1] != "constant"
