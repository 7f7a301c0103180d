"""Names and texts in messages: short, on one line, without control signs; what was meant."""

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


def nearest(
    name: str, known: Iterable[str], *, before: str = "; ", most: int = 1, listing: bool = False
) -> str:
    """What may have been meant, as the end of a message; empty where nothing is near.

    Args:
        name: what is not there.
        known: what is.
        before: put before the words.
        most: how many names are told.
        listing: tell all that is known where nothing is near.

    Example:
        >>> nearest("lrr", ["lr", "seed"]), nearest("x", ["lr", "seed"])
        ("; did you mean 'lr'?", '')
        >>> nearest("x", ["lr", "seed"], before=": ", listing=True)
        ': known: lr, seed'
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=most)
    if near:
        return f"{before}did you mean {', '.join(repr(printable(each)) for each in near)}?"
    return f"{before}known: {', '.join(known)}" if listing else ""
