"""A page of results, written as one HTML file."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tether.files import write_text
from tether.report import palette
from tether.report.blocks import (
    Block,
    Code,
    Column,
    Fact,
    Facts,
    Figure,
    Plot,
    Point,
    Points,
    Section,
    Table,
    Text,
    as_cells,
)
from tether.report.extras import require
from tether.report.palette import Color
from tether.report.svg import embed, printable


class Page:
    """Collects blocks in reading order and writes them as one self-contained HTML file.

    Needs no network, no script and no other file; follows light and dark mode, fits a phone and
    prints. All texts are plain text: markup in them is shown, not interpreted. The same blocks
    give the same bytes.

    Args:
        title: heading and window title.
        subtitle: one sentence under the heading.
        footer: small print at the end, for example versions and seeds.

    Example:
        >>> page = Page("Digits with wrong labels", "Five seeds.")
        >>> page.add_section("Accuracy")
        >>> page.add_table(["method", "test accuracy"], [["plain", 0.62]], "Mean of five seeds.")
        >>> "<th scope=\\"row\\"" in page.html()
        True
    """

    def __init__(self, title: str, subtitle: str = "", *, footer: str = "") -> None:
        self.title = title
        self.subtitle = subtitle
        self.footer = footer
        self._blocks: list[Block] = []

    def add_section(self, title: str) -> None:
        """Start a section; pages with three or more get a table of contents."""
        self._blocks.append(Section(title, self._next_id(Section)))

    def add_text(self, *paragraphs: str) -> None:
        """Add paragraphs of plain text."""
        self._blocks.append(Text(paragraphs))

    def add_facts(self, *facts: Fact) -> None:
        """Add a row of large numbers: the few that a reader should take away."""
        self._blocks.append(Facts(facts))

    def add_points(self, *points: Point, title: str = "", color: Color | None = None) -> None:
        """Add what is found, one under another.

        Args:
            points: in the order of their weight.
            title: whose they are, where a page tells of several.
            color: colour of the mark before the title.
        """
        self._blocks.append(Points(points, title, color))

    def add_code(self, code: str, caption: str = "") -> None:
        """Add words to be shown exactly, such as the command that repeats the run."""
        self._blocks.append(Code(code, caption))

    def add_table(
        self,
        columns: Sequence[str | Column],
        rows: Sequence[Sequence[object]],
        caption: str,
        *,
        note: str = "",
    ) -> None:
        """Add a table; its first column names the rows.

        Args:
            columns: headers, or `Column` for a number format, an alignment or a note.
            rows: values, or `Cell` for a colour mark, emphasis or a note.
            caption: what the table shows.
            note: small print under it.

        Raises:
            ValueError: there is no column, or a row has another length than the header.
        """
        if not columns:
            raise ValueError("the table has no columns; give at least one header")
        heads = tuple(
            column if isinstance(column, Column) else Column(column) for column in columns
        )
        cells = as_cells(rows, len(heads))
        self._blocks.append(Table(heads, cells, caption, self._next_id(Table), note))

    def add_figure(self, plot: Plot, title: str, caption: str) -> None:
        """Add a plot.

        Args:
            plot: panels and legend, as made by the functions of `tether.report.plots`.
            title: what is plotted.
            caption: in plain words, what to see in it.

        Raises:
            ValueError: the plot has no panel.
        """
        if not plot.panels:
            raise ValueError(f"the figure {title!r} has no panels; give the plot some data")
        self._blocks.append(Figure(plot, title, caption, self._next_id(Figure)))

    def html(self) -> str:
        """Render the page."""
        jinja2 = require("jinja2")
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("tether.report", "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=lambda value: printable(value) if type(value) is str else value,
        )
        environment.filters["typeset"] = typeset
        markup = require("markupsafe").Markup
        text: str = environment.get_template("page.html.j2").render(
            page=self,
            blocks=self._blocks,
            sections=[block for block in self._blocks if isinstance(block, Section)],
            colors=palette.ALL,
            dashes=palette.DASHES,
            embed=lambda svg, prefix, label: markup(embed(svg, prefix, label)),
        )
        return text

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Render, then put the file in place in one step; a failure leaves an older file alone.

        Args:
            path: the HTML file; missing folders are made.
        """
        target = Path(path)
        write_text(target, self.html())
        return target

    def _next_id(self, kind: type[Section | Table | Figure]) -> str:
        number = 1 + sum(isinstance(block, kind) for block in self._blocks)
        return f"{kind.__name__.lower()}-{number}"


def typeset(text: str) -> str:
    """Keep a number and its percent sign on one line."""
    return re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", text)
