"""Fenced code blocks of Markdown files, so that what is documented is what is tested."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_FENCE = re.compile(
    r"(?:<!-- *(?P<mark>[^>]*?) *-->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block; ``mark`` is the comment on the line above it, "" where there is none."""

    mark: str
    language: str
    code: str


def code_blocks(path: Path, language: str = "python") -> list[Block]:
    """The blocks of one language in the order of the page."""
    found = [
        Block(match["mark"] or "", match["language"], match["code"])
        for match in _FENCE.finditer(path.read_text(encoding="utf-8"))
    ]
    return [block for block in found if block.language == language]
