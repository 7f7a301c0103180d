"""Names of a package that are fetched on their first use, so that importing it costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package (PEP 562).

    Args:
        package: its ``__name__``.
        names: public name -> the module that has it.

    Example:
        >>> fetch = lazy_names("tether.x", {"nearest": "tether.words"})
        >>> fetch("nearest").__name__
        'nearest'
    """

    def fetch(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(names[name]), name)

    return fetch
