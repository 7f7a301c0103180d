"""What a page is made of: plain data, rendered by the templates."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal

from tether.report.palette import Color

Align = Literal["auto", "left", "right"]


@dataclass(frozen=True)
class Key:
    """One entry of a figure's legend.

    Args:
        label: the words.
        color: the colour of the mark.
        mark: `"line"`, `"dot"`, `"cross"`, `"bar"`, `"outline"`, `"tick"` or `"band"`.
    """

    label: str
    color: Color
    mark: Literal["line", "dot", "cross", "bar", "outline", "tick", "band"] = "line"


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure.

    Args:
        svg: a drawing made by `tether.report.svg.render`.
        label: what the drawing shows, in words, for readers who cannot see it.
        width: width in CSS pixels at which its text has its natural size.
        title: words above the drawing.
        color: colour of the mark before the title.
        group: neighbouring panels of one group stay side by side under this title.
    """

    svg: str
    label: str
    width: float
    title: str = ""
    color: Color | None = None
    group: str = ""


@dataclass(frozen=True)
class Plot:
    """Panels and their common legend; the page arranges them by the width of the screen."""

    panels: tuple[Panel, ...]
    keys: tuple[Key, ...] = ()

    def groups(self) -> list[tuple[str, list[Panel]]]:
        """The panels as runs of neighbours with the same group; alone where there is none."""
        runs: list[tuple[str, list[Panel]]] = []
        for panel in self.panels:
            if panel.group and runs and runs[-1][0] == panel.group:
                runs[-1][1].append(panel)
            else:
                runs.append((panel.group, [panel]))
        return runs

    def __add__(self, other: "Plot") -> "Plot":
        """Both plots as one figure: all panels, each legend entry once."""
        return Plot(self.panels + other.panels, tuple(dict.fromkeys(self.keys + other.keys)))


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: its header.
        format: a format specification for numbers (`".1%"`) or a function from value to text.
        align: `"auto"` sets columns of numbers to the right and the others to the left.
        note: words under the header, for example the unit.
    """

    title: str
    format: str | Callable[[object], str] = ""
    align: Align = "auto"
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell with more than a value.

    Args:
        value: number, text or None (shown as a dash).
        color: colour of a mark before the value.
        strong: emphasise it, for example the best of its column.
        note: smaller words after the value, for example a spread.
    """

    value: object
    color: Color | None = None
    strong: bool = False
    note: str = ""


@dataclass(frozen=True)
class Fact:
    """One number worth a large print: what it is, the value, and a note on it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Point:
    """One thing that is found, told in words with the number behind it.

    Args:
        title: what is found.
        text: the number behind it, and what it is held against.
        label: a word on its kind, for example `"problem"`; colour alone says nothing.
        color: colour of its mark.
        remedy: what to do about it.
    """

    title: str
    text: str = ""
    label: str = ""
    color: Color | None = None
    remedy: str = ""


@dataclass(frozen=True)
class Section:
    """A heading."""

    title: str
    id: str
    kind: str = "section"


@dataclass(frozen=True)
class Text:
    """Paragraphs."""

    paragraphs: tuple[str, ...]
    kind: str = "text"


@dataclass(frozen=True)
class Code:
    """Words to be shown exactly, for example a command."""

    code: str
    caption: str
    kind: str = "code"


@dataclass(frozen=True)
class Facts:
    """A row of large numbers."""

    facts: tuple[Fact, ...]
    kind: str = "facts"


@dataclass(frozen=True)
class Points:
    """What is found, one under another."""

    points: tuple[Point, ...]
    title: str = ""
    color: Color | None = None
    kind: str = "points"


@dataclass(frozen=True)
class Figure:
    """A plot with its title and the words that say what to see."""

    plot: Plot
    title: str
    caption: str
    id: str
    kind: str = "figure"


@dataclass(frozen=True)
class ShownCell:
    """A cell as the template prints it."""

    text: str
    right: bool
    cell: Cell


@dataclass(frozen=True)
class Table:
    """Rows under headers, the first column naming the row."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str
    id: str
    note: str = ""
    kind: str = "table"

    def right(self) -> list[bool]:
        """For every column, whether it is set to the right."""
        return [
            column.align == "right"
            or (column.align == "auto" and _numeric([row[place].value for row in self.rows]))
            for place, column in enumerate(self.columns)
        ]

    def shown(self) -> list[list[ShownCell]]:
        """The cells as text with their alignment."""
        right = self.right()
        return [
            [
                ShownCell(show(cell.value, column.format), is_right, cell)
                for cell, column, is_right in zip(row, self.columns, right, strict=True)
            ]
            for row in self.rows
        ]


Block = Section | Text | Code | Facts | Points | Figure | Table


def as_cells(rows: Sequence[Sequence[object]], columns: int) -> tuple[tuple[Cell, ...], ...]:
    """Wrap bare values; refuse rows of another length than the header."""
    for place, row in enumerate(rows):
        if len(row) != columns:
            raise ValueError(
                f"row {place} of the table has {len(row)} cells but there are {columns} columns; "
                "give one value per column, None where there is none"
            )
    return tuple(
        tuple(value if isinstance(value, Cell) else Cell(value) for value in row) for row in rows
    )


def show(value: object, format: str | Callable[[object], str] = "") -> str:
    """A value as text: a dash for nothing, four significant digits for other numbers.

    Example:
        >>> show(0.9137, ".1%"), show(None), show(1234), show(0.123456)
        ('91.4 %', '–', '1234', '0.1235')
    """
    if value is None or (isinstance(value, Real) and math.isnan(float(value))):
        return "–"
    if callable(format):
        return format(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):{format}}"
    if isinstance(value, Real):
        text = f"{float(value):{format or '.4g'}}"
        return text[:-1] + " %" if text.endswith("%") else text
    return str(value)


def _numeric(values: list[object]) -> bool:
    numbers = [value for value in values if value is not None]
    return bool(numbers) and all(
        isinstance(value, Real) and not isinstance(value, bool) for value in numbers
    )
