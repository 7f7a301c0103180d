"""``--set KEY=VALUE``, which several commands take."""

from __future__ import annotations

from collections.abc import Iterable

from tether.errors import ConfigError
from tether.tuning.config import canonical


def read_settings(given: Iterable[str] | None) -> dict[str, str]:
    """Option -> text; of one that is given twice the last counts.

    Raises:
        ConfigError: there is no ``=`` in it.

    Example:
        >>> read_settings(["batch-size=8", "sched=linear"])
        {'batch_size': '8', 'lr_scheduler': 'linear'}
    """
    values = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text}: write --set KEY=VALUE")
        values[canonical(key)] = value
    return values
