"""Names and texts of other people's data in messages: short, on one line, without control signs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def printable(text: object, limit: int = 80) -> str:
    """One line of at most ``limit`` signs; what a terminal would obey is written as an escape.

    Example:
        >>> printable("cat\\n\\x1b[31m.jpg")
        'cat\\\\n\\\\x1b[31m.jpg'
    """
    signs = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    line = "".join(signs)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def listed(items: Sequence[object], most: int = 5) -> str:
    """The first few of them, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    shown = ", ".join(f"'{printable(item)}'" for item in items[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, empty where nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{printable(near[0])}'?" if near else ""
