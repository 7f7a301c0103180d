"""Curves over epochs: small multiples with bands over the seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from tether.report.blocks import Key, Panel, Plot
from tether.report.extras import require
from tether.report.palette import DASHES, INK, MUTED, Color
from tether.report.plots.common import (
    Floats,
    finite_range,
    format_ticks,
    label_colors,
    number,
    panel_width,
)
from tether.report.svg import printable, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curves = Mapping[str, Mapping[str, Any]]
Marks = Mapping[str, float] | Sequence[float]
By = Literal["quantity", "label"]

MEMORIZATION = {
    "test_accuracy": "Test accuracy",
    "clean_fitted": "Correct labels fitted",
    "memorized": "Wrong labels memorised",
    "resisted": "Wrong labels resisted",
}
FEATURES = {"norm": "Feature norm", "entropy": "Feature entropy"}


@dataclass(frozen=True)
class _Line:
    name: str
    x: Floats
    mean: Floats
    low: Floats
    high: Floats
    color: Color
    dash: str


def seed_band(runs: ArrayLike, *, spread: Literal["range", "sd"] = "range") -> tuple[Floats, ...]:
    """Mean, low and high over the seeds, ready to be plotted as a curve with its band.

    Args:
        runs: one row per seed; missing values are NaN.
        spread: `"range"` for smallest and largest, `"sd"` for one standard deviation.

    Shape:
        `(seeds, epochs)` to three arrays `(epochs,)`.

    Raises:
        ValueError: `runs` is not two-dimensional or has no row.

    Example:
        >>> mean, low, high = seed_band([[0.0, 1.0], [0.5, 0.5]])
        >>> mean.tolist(), low.tolist(), high.tolist()
        ([0.25, 0.75], [0.0, 0.5], [0.5, 1.0])
    """
    values = np.asarray(runs, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"runs must have shape (seeds, epochs) but has {values.shape}")
    kept = np.ma.masked_invalid(values)
    mean = kept.mean(axis=0)
    if spread == "range":
        low, high = kept.min(axis=0), kept.max(axis=0)
    else:
        deviation = kept.std(axis=0, ddof=min(1, len(values) - 1))
        low, high = mean - deviation, mean + deviation
    return tuple(np.ma.filled(part, np.nan).astype(np.float64) for part in (mean, low, high))


def memorization_curves(
    curves: Curves,
    *,
    marks: Marks = (),
    by: By = "quantity",
    colors: Mapping[str, Color] | None = None,
) -> Plot:
    """Correct and wrong labels over training: who fits what, and when.

    Args:
        curves: for every method `"epoch"` and any of `"test_accuracy"`, `"clean_fitted"`,
            `"memorized"`, `"resisted"`: fractions, one curve or `(mean, low, high)`.
        marks: epochs to mark with a vertical line, named when given as a mapping.
        by: a panel per `"quantity"` compares methods; a panel per `"label"` sets the
            quantities of one method against each other.
        colors: colours of the methods, from `assign_colors`.

    Raises:
        ValueError: nothing to plot, or a curve whose length is not that of its epochs.
    """
    return curve_panels(
        curves, MEMORIZATION, marks=marks, by=by, colors=colors, percent=True, limits=(0.0, 1.0)
    )


def feature_curves(
    curves: Curves,
    *,
    marks: Marks = (),
    colors: Mapping[str, Color] | None = None,
    log: bool = False,
) -> Plot:
    """Norm and entropy of the features over training.

    Args:
        curves: for every method `"epoch"`, and `"norm"`, `"entropy"` or both: one curve or
            `(mean, low, high)`.
        marks: epochs to mark with a vertical line, named when given as a mapping.
        colors: colours of the methods, from `assign_colors`.
        log: logarithmic scales.

    Raises:
        ValueError: nothing to plot, or a curve whose length is not that of its epochs.
    """
    return curve_panels(curves, FEATURES, marks=marks, colors=colors, log=log)


def curve_panels(
    curves: Curves,
    quantities: Mapping[str, str],
    *,
    marks: Marks = (),
    by: By = "quantity",
    colors: Mapping[str, Color] | None = None,
    percent: bool = False,
    limits: tuple[float, float] | None = None,
    log: bool = False,
    x: str = "epoch",
) -> Plot:
    """Any quantities over epochs or steps, as small multiples.

    Args:
        curves: for every label `x` and its quantities: one curve, or `(mean, low, high)`.
        quantities: key in `curves` to title; those that no label has are left out.
        marks: places on the x axis to mark, named when given as a mapping.
        by: a panel per `"quantity"` or per `"label"`.
        colors: colours of the labels, from `assign_colors`.
        percent: show fractions as percentages.
        limits: range of the y axis; by default that of the data of each panel.
        log: logarithmic y axis.
        x: key of the x values in `curves`, and title of the x axis.

    Raises:
        ValueError: nothing to plot, or a curve whose length is not that of its x values.
    """
    used = label_colors(curves, colors)
    present = [key for key in quantities if any(key in curve for curve in curves.values())]
    if not present:
        raise ValueError(f"no curve has any of {list(quantities)}; give at least one of them")
    dashes = dict(zip(present, cycle(DASHES)))
    panels: list[tuple[str, Color | None, list[_Line]]] = []
    if by == "quantity":
        for key in present:
            lines = [
                _line(label, key, curves[label], x, name=label, color=used[label])
                for label in curves
                if key in curves[label]
            ]
            panels.append((quantities[key], None, lines))
        keys = tuple(Key(label, used[label]) for label in curves)
    else:
        for label in curves:
            lines = [
                _line(label, key, curves[label], x, quantities[key], used[label], dashes[key])
                for key in present
                if key in curves[label]
            ]
            panels.append((label, used[label], lines))
        keys = tuple(
            Key(quantities[key], Color(INK.name, INK.light, INK.dark, dashes[key]))
            for key in present
        )
    if any(_banded(line) for _, _, lines in panels for line in lines):
        keys += (Key("spread over the seeds", MUTED, "band"),)
    width = panel_width(len(panels))
    places = list(marks.items()) if isinstance(marks, Mapping) else [("", mark) for mark in marks]
    return Plot(
        tuple(
            Panel(
                _draw(lines, width, places, percent=percent, limits=limits, log=log, x=x),
                _describe(title, lines, x, percent=percent),
                width,
                title,
                color,
            )
            for title, color, lines in panels
        ),
        keys,
    )


def _line(
    label: str,
    key: str,
    curve: Mapping[str, Any],
    x: str,
    name: str,
    color: Color,
    dash: str | None = None,
) -> _Line:
    if x not in curve:
        raise ValueError(f"the curves of {label!r} lack {x!r}, the values of the x axis")
    places = np.asarray(curve[x], dtype=np.float64)
    values = np.asarray(curve[key], dtype=np.float64)
    mean, low, high = (values,) * 3 if values.ndim == 1 else _three(values, label, key)
    if places.ndim != 1 or mean.shape != places.shape:
        raise ValueError(
            f"{key!r} of {label!r} has {mean.shape[-1]} values for {places.size} of {x!r}; "
            "give one value for each, or (mean, low, high) with one value for each"
        )
    return _Line(name, places, mean, low, high, color, dash or color.dash)


def _three(values: Floats, label: str, key: str) -> Floats:
    if values.ndim != 2 or len(values) != 3:
        raise ValueError(
            f"{key!r} of {label!r} has shape {values.shape}; "
            "give one curve or (mean, low, high), see seed_band"
        )
    return values


def _banded(line: _Line) -> bool:
    return bool(np.any(line.high > line.low))


def _draw(
    lines: Sequence[_Line],
    width: float,
    marks: Sequence[tuple[str, float]],
    *,
    percent: bool,
    limits: tuple[float, float] | None,
    log: bool,
    x: str,
) -> str:
    log = log and any((line.mean > 0).any() for line in lines)

    def paint(axes: "Axes") -> None:
        patches = require("matplotlib.patches")
        for line in lines:
            for points in _outlines(line):
                axes.add_patch(patches.Polygon(points, color=line.color.light, alpha=0.16, lw=0))
        for line in lines:
            axes.plot(
                line.x,
                line.mean,
                color=line.color.light,
                linestyle=(0, DASHES[line.dash]) if DASHES[line.dash] else "solid",
                marker="o" if line.x.size == 1 else "",
            )
        if log:
            axes.set_yscale("log")
        reach = finite_range(line.x for line in lines)
        if reach and reach[1] > reach[0]:
            axes.set_xlim(*reach)
        _set_range(axes, lines, limits, log=log)
        _mark(axes, marks, width)
        axes.set_xlabel(printable(x))
        format_ticks(axes.xaxis, percent=False, log=False, whole=True)
        format_ticks(axes.yaxis, percent=percent, log=log)

    return render(width, 0.62 * width, paint)


def _outlines(line: _Line) -> list[Floats]:
    """The band as closed polygons, one for each run of epochs without a gap."""
    if not _banded(line):
        return []
    finite = np.isfinite(line.low) & np.isfinite(line.high)
    runs = np.split(np.arange(line.x.size), np.flatnonzero(np.diff(finite.astype(int))) + 1)
    return [
        np.concatenate(
            [
                np.stack([line.x[run], line.low[run]], axis=1),
                np.stack([line.x[run], line.high[run]], axis=1)[::-1],
            ]
        )
        for run in runs
        if run.size > 1 and finite[run[0]]
    ]


def _set_range(
    axes: "Axes", lines: Sequence[_Line], limits: tuple[float, float] | None, *, log: bool
) -> None:
    parts = [part for line in lines for part in (line.low, line.mean, line.high)]
    found = limits or finite_range(part[part > 0] if log else part for part in parts)
    if found is None:
        return
    low, high = found
    if log:
        axes.set_ylim(low / 1.2, high * 1.2)
    else:
        margin = 0.03 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)


def _mark(axes: "Axes", marks: Sequence[tuple[str, float]], width: float) -> None:
    """Vertical lines, named above the axes where they cover no data."""
    left, right = axes.get_xlim()
    ends: list[float] = []  # where the last name of each row of names ends
    for name, place in sorted(marks, key=lambda mark: mark[1]):
        if not left <= place <= right:
            continue
        axes.axvline(place, color=MUTED.light, linewidth=0.8)
        at = (place - left) / (right - left)
        length = 6.0 * len(name) / width
        start = at if at + length < 1 else at - length
        row = next((row for row, end in enumerate(ends) if end < start), len(ends))
        ends[row : row + 1] = [start + length + 0.02]
        axes.annotate(
            printable(name),
            (at, 1.0),
            xycoords="axes fraction",
            xytext=(0, 3 + 13 * row),
            textcoords="offset points",
            ha="left" if at + length < 1 else "right",
            va="bottom",
            color=MUTED.light,
            fontsize=10,
        )


def _describe(title: str, lines: Sequence[_Line], x: str, *, percent: bool) -> str:
    parts = []
    for line in lines:
        finite = np.flatnonzero(np.isfinite(line.mean))
        if not finite.size:
            parts.append(f"{line.name}: no values")
            continue
        first, last = (number(float(line.mean[at]), percent=percent) for at in finite[[0, -1]])
        peak = number(float(np.nanmax(line.mean)), percent=percent)
        parts.append(f"{line.name}: from {first} to {last}, at most {peak}")
    return f"{title} by {x}. " + "; ".join(parts) + "."
