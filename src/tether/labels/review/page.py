"""The page itself: its HTML, its one style sheet and its one script."""

from __future__ import annotations

from importlib.resources import files

from tether.report import palette

#: In the order in which they are joined to one script.
SCRIPTS = (
    "base.js",
    "store.js",
    "sample.js",
    "list.js",
    "picker.js",
    "one.js",
    "grid.js",
    "main.js",
)


def html() -> str:
    """The page without data; places for them are marked in it."""
    return _text("page.html")


def style() -> str:
    """The colours of the reports, then the rules."""
    light = "".join(f"--{color.name}:{color.light};" for color in palette.ALL)
    dark = "".join(f"--{color.name}:{color.dark};" for color in palette.ALL)
    colours = f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    return colours + _text("style.css")


def script() -> str:
    """All scripts as one function, so that none of their names is global."""
    parts = "\n".join(_text(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


def _text(name: str) -> str:
    return files("tether.labels.review").joinpath("static", name).read_text(encoding="utf-8")
