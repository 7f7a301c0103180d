"""Noise named in a word, as on a command line."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

from tether.noise.asymmetric import asymmetric_noise, pair_noise
from tether.noise.auxiliary import auxiliary_noise
from tether.noise.base import NoisyLabels, check_rate
from tether.noise.instance import instance_noise
from tether.noise.symmetric import class_agnostic_noise, symmetric_noise

_NAMES: dict[str, Callable[..., NoisyLabels]] = {
    "symmetric": symmetric_noise,
    "pair": pair_noise,
    "asymmetric": asymmetric_noise,
    "asymmetric_cifar10": partial(asymmetric_noise, mapping="cifar10"),
    "asymmetric_cifar100": partial(asymmetric_noise, mapping="cifar100"),
    "class_agnostic": class_agnostic_noise,
    "instance": instance_noise,
    "auxiliary": auxiliary_noise,
}

#: Names that :func:`parse_noise` understands.
NOISE_NAMES: tuple[str, ...] = tuple(_NAMES)


def parse_noise(text: str) -> tuple[Callable[..., NoisyLabels], float | None]:
    """Reads a noise protocol written as ``name:rate``.

    Every function that comes back is called as ``function(labels, rate=rate, seed=...)``, with
    what it needs besides: ``mapping`` for ``"asymmetric"``, ``inputs`` for ``"instance"``,
    ``probs`` for ``"auxiliary"`` (the only one that may be named without a rate).

    Args:
        text: for instance ``"symmetric:0.4"``.

    Raises:
        ValueError: an unknown name, a missing rate, a rate that is not a number in [0, 1].

    Example:
        >>> function, rate = parse_noise("pair:0.5")
        >>> function([0, 1, 2, 3], rate=rate, seed=0).rate
        0.5
    """
    name, colon, number = (part.strip() for part in text.partition(":"))
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(_NAMES)}"
        raise ValueError(f"noise {name!r} is unknown: {hint}")
    if not colon and name == "auxiliary":
        return _NAMES[name], None
    try:
        rate = float(number)
    except ValueError:
        raise ValueError(f"noise {text!r} needs a rate after the colon, as in {name}:0.4") from None
    return _NAMES[name], check_rate(rate)
