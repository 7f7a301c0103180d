"""The option ``sequence`` taken apart; nothing heavy is imported here."""

from __future__ import annotations

import re
from pathlib import Path

from tether.errors import ConfigError


def items_of(text: str) -> list[str]:
    """The data sets of a sequence.

    Raises:
        ConfigError: one is empty, or stands twice.

    Example:
        >>> items_of("animals, tools")
        ['animals', 'tools']
    """
    items = [item.strip() for item in text.split(",")] if text.strip() else []
    if not all(items):
        raise ConfigError(f"option sequence: {text!r} has an empty entry between its commas")
    twice = [item for item in items if items.count(item) > 1]
    if twice:
        raise ConfigError(f"option sequence: {twice[0]} stands in it twice")
    return items


def check_sequence(sequence: str, data: str, stages: bool) -> None:
    """Refuse what does not go with a sequence.

    Raises:
        ConfigError: one task only; a data set or stages beside it.
    """
    items = items_of(sequence)
    if not items:
        return
    if len(items) < 2:
        raise ConfigError(
            f"option sequence: {sequence} is one task; name several, separated by commas, or give "
            "it as --data"
        )
    if data:
        raise ConfigError("--data and --sequence: give one of them; a sequence names its own data")
    if stages:
        raise ConfigError("stages and sequence: give one of them; each task is a stage of its own")


def name_of(sequence: str) -> str:
    """A short name for folders.

    Example:
        >>> name_of("photos/animals, tools.csv")
        'animals-tools'
    """
    return "-".join(re.sub(r"[^\w.+-]+", "_", Path(item).stem) for item in items_of(sequence))
