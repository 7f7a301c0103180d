"""How few-shot episodes are written in a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tether.errors import ConfigError
from tether.words import nearest

QUERIES = 15  # samples of a class that an episode is judged on, as the literature has it


@dataclass(frozen=True)
class Episodes:
    """What episodes are like.

    Attributes:
        way: classes of an episode, at least 2.
        shot: training samples of each of them, at least 1.
        count: episodes.
        queries: samples of each class that are told apart after training, at least 1.
    """

    way: int
    shot: int
    count: int
    queries: int = QUERIES


def read_episodes(given: Any) -> list[Episodes]:
    """``{way: 5, shot: [1, 5], count: 600}`` of a study: one kind of episodes for each shot.

    Raises:
        ConfigError: an unknown key, or a value out of range.

    Example:
        >>> [one.shot for one in read_episodes({"way": 5, "shot": [1, 5], "count": 600})]
        [1, 5]
    """
    known = ("way", "shot", "count", "queries")
    if not isinstance(given, Mapping):
        raise ConfigError(f"episodes: expected {{way: 5, shot: [1, 5], count: 600}}, got {given!r}")
    unknown = [str(key) for key in given if key not in known]
    if unknown:
        hint = nearest(unknown[0], known, before=": ", listing=True)
        raise ConfigError(f"episodes: unknown key {unknown[0]!r}{hint}")
    shots = given.get("shot", [1, 5])
    shots = list(shots) if isinstance(shots, (list, tuple)) else [shots]
    rest = {"way": given.get("way", 5), "count": given.get("count", 600),
            "queries": given.get("queries", QUERIES)}  # fmt: skip
    least = {"way": 2, "count": 2, "queries": 1, "shot": 1}
    for key, value in [*rest.items(), *(("shot", shot) for shot in shots)]:
        if isinstance(value, bool) or not isinstance(value, int) or value < least[key]:
            raise ConfigError(
                f"episodes: {key} is a whole number, at least {least[key]}, not {value!r}"
            )
    return [Episodes(shot=shot, **rest) for shot in shots]
