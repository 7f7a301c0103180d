"""Where words go: results to stdout, all else to stderr, and only one rank speaks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDEST = 120


def rank() -> int:
    """This process's number among those that train together."""
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdigit() else 0


def say(command: str, message: str) -> None:
    """One message on stderr, signed by the command; ranks but the first give their number."""
    who = f"{command} (rank {rank()})" if rank() else command
    print(f"{who}: {message}", file=sys.stderr, flush=True)


def console() -> Console:
    """Stdout with styles where a person looks at it; ``NO_COLOR`` and ``CI`` leave it plain."""
    from rich.console import Console

    plain = bool(os.environ.get("CI")) or None
    made = Console(highlight=False, markup=False, emoji=False, no_color=plain)
    if made.width > WIDEST:
        made.width = WIDEST
    return made


def show_sections(sections: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Headings with their lines."""
    from rich.text import Text

    screen = console()
    for heading, lines in sections:
        screen.print(Text(heading, style="bold"))
        for line in lines:
            screen.print(Text(f"  {line}"), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print JSON; what JSON cannot hold is written as a text."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not float("-inf") < value < float("inf"):
        return str(value)
    return value if value is None or isinstance(value, (str, int, float)) else repr(value)
