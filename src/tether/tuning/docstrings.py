"""What the docstring of a method says, part by part."""

from __future__ import annotations

import inspect
import re
import textwrap

HEADINGS = (
    "Args", "Attributes", "Cost", "Example", "Examples", "Formula", "Note", "Raises", "References",
    "Returns", "Shape", "State", "When it helps", "When it hurts",
)  # fmt: skip
_HEADING = re.compile(rf"({'|'.join(HEADINGS)})::?(?:\s+(.*))?")
_ENTRY = re.compile(r"(\w+)(?: \([^)]*\))?: (.*)")
_ROLE = re.compile(r":\w+:`~?([^`]+)`")


def sections(of: object) -> dict[str, str]:
    """Heading -> text; under ``""`` what stands before the first heading.

    Example:
        >>> def work():
        ...     '''Do it.
        ...
        ...     Args:
        ...         none: of them.
        ...     '''
        >>> sections(work)
        {'': 'Do it.', 'Args': 'none: of them.'}
    """
    found: dict[str, list[str]] = {"": []}
    now = ""
    for line in (inspect.getdoc(of) or "").splitlines():
        heading = _HEADING.fullmatch(line)
        if heading:
            now = heading[1]
            found[now] = [f"    {heading[2]}"] if heading[2] else []
        else:
            found[now].append(line)
    return {name: textwrap.dedent("\n".join(lines)).strip() for name, lines in found.items()}


def option_texts(of: object) -> dict[str, str]:
    """Option -> what the section ``Args`` says of it, on one line."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in sections(of).get("Args", "").splitlines():
        entry = _ENTRY.fullmatch(line)
        if entry:
            name = entry[1]
            found[name] = [entry[2]]
        elif name and line.strip():
            found[name].append(line.strip())
    return {name: plain(" ".join(lines)) for name, lines in found.items()}


def plain(text: str) -> str:
    """Text without the marks that are meant for the documentation.

    Example:
        >>> plain("see :class:`~tether.L2SP`, with ``weight=0``")
        'see L2SP, with weight=0'
    """
    named = _ROLE.sub(lambda match: match[1].rpartition(".")[2], text)
    return named.replace("``", "").replace("`", "").replace("::\n", ":\n")
