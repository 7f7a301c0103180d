"""The noises that a PAC-Bayes bound chooses from, and what choosing costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tether.errors import ConfigError
from tether.measure.weights import root_mean_squares

FAMILIES = ("isotropic", "start", "distance")
#: Powers of two that the sigmas of the family "distance" are rounded to, paid for a tensor.
_LOWEST, _HIGHEST = -20, 10


def check_choices(sigmas: Sequence[float], families: Sequence[str]) -> None:
    """ConfigError unless there is something to choose from.

    Args:
        sigmas: sizes of the noise, above 0.
        families: some of :data:`FAMILIES`, each once.
    """
    if not len(sigmas) or not all(0 < sigma < math.inf for sigma in sigmas):
        raise ConfigError(f"sigmas must be numbers above 0, got {list(sigmas)}")
    unknown = [family for family in families if family not in FAMILIES]
    if unknown or not families or len(set(families)) < len(families):
        raise ConfigError(f"families must be some of {', '.join(FAMILIES)}, got {list(families)}")


@dataclass(frozen=True)
class Choice:
    """A prior that may be chosen.

    Attributes:
        family: one of :data:`FAMILIES`, or ``"none"``.
        size: as in the argument ``sigmas``.
        sigmas: standard deviation for each tensor.
        grid: what choosing it costs, in nats.
    """

    family: str
    size: float
    sigmas: list[float]
    grid: float


def choices_of(
    moved: Mapping[str, Tensor], start: Mapping[str, Tensor], distances: list[float],
    sizes: Sequence[float], families: Sequence[str],
) -> list[Choice]:  # fmt: skip
    """Every size of every family, as :func:`tether.measure.pac_bayes_bound` describes them.

    Args:
        moved: tensors that moved from the reference, by name.
        start: all tensors of the reference.
        distances: of the tensors that moved.
        sizes: of the noise.
        families: some of :data:`FAMILIES`.
    """
    if not moved:
        return [Choice("none", 0.0, [], 0.0)]
    among_all = math.log(len(families) * len(sizes))
    scales = root_mean_squares([start[name] for name in moved])
    every = list(start.values())
    squares = sum(r * r * t.numel() for r, t in zip(root_mean_squares(every), every, strict=True))
    overall = math.sqrt(squares / sum(t.numel() for t in every)) or 1.0
    scales = [scale or overall for scale in scales]
    levels = math.log(len(families)) + len(moved) * math.log(_HIGHEST - _LOWEST + 1)
    made = []
    for family in families:
        for size in map(float, sizes):
            if family == "isotropic":
                made.append(Choice(family, size, [size] * len(moved), among_all))
            elif family == "start":
                made.append(Choice(family, size, [size * s for s in scales], among_all))
            else:
                made.append(Choice(family, size, [_level(size * d) for d in distances], levels))
    return made


def _level(sigma: float) -> float:
    """The nearest of the powers of two that do not depend on the samples."""
    return 2.0 ** min(max(round(math.log2(sigma)), _LOWEST), _HIGHEST)
