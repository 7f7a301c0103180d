"""Every seed as a dot, the mean as a tick, its interval as a line."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tether.report.blocks import Key, Panel, Plot
from tether.report.palette import INK, MUTED, Color
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

_DOT = 7.0  # diameter in pixels
_OFFSETS = (0.0, 0.17, -0.17, 0.34, -0.34)  # of a row; dots that would touch step aside


def dot_plot(
    values: Mapping[str, Sequence[float]],
    *,
    x: str = "",
    title: str = "",
    percent: bool = False,
    colors: Mapping[str, Color] | None = None,
    beside: int = 1,
    intervals: Mapping[str, tuple[float, float] | None] | None = None,
    zero: bool = False,
) -> Plot:
    """The result of every seed, by method, with the mean written out.

    Add two of them (`dot_plot(...) + dot_plot(...)`) to set two measures side by side.

    Args:
        values: for every method one value per seed; NaN for a run that failed.
        x: title of the value axis.
        title: words above the panel.
        percent: show fractions as percentages.
        colors: colours of the methods, from `assign_colors`.
        beside: number of panels that will share the figure, which sets their size.
        intervals: for methods that have one, the interval of the mean, drawn as a line.
        zero: mark zero with a line, for differences.

    Raises:
        ValueError: nothing to plot.

    Example:
        >>> dot_plot({"plain": [0.60, 0.64]}, x="test accuracy", percent=True).panels[0].label
        'test accuracy. plain: mean 62.0 %, from 60.0 % to 64.0 % over 2 seeds.'
    """
    used = label_colors(values, colors)
    data = {label: np.asarray(runs, dtype=np.float64).ravel() for label, runs in values.items()}
    width = panel_width(beside)
    means = {label: _mean(runs) for label, runs in data.items()}
    lines = {label: ends for label, ends in (intervals or {}).items() if ends and label in data}

    def paint(axes: "Axes") -> None:
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        seen = [*data.values(), np.array(list(lines.values())), np.zeros(int(zero))]
        low, high = finite_range(seen) or (0.0, 1.0)
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(len(data) - 0.4, -0.6)
        unit = (high - low + 2 * margin) / (0.6 * width)
        if zero:
            axes.axvline(0, color=MUTED.light, linewidth=1.2)
        for row, (label, runs) in enumerate(data.items()):
            finite = np.sort(runs[np.isfinite(runs)])
            axes.plot(
                finite,
                row + _offsets(finite, 1.1 * _DOT * unit),
                "o",
                markersize=_DOT,
                markeredgewidth=0,
                color=used[label].light,
                alpha=0.85,
                clip_on=False,
            )
            if label in lines:
                axes.hlines(row, *lines[label], color=INK.light, linewidth=1.4, zorder=1.5)
            axes.vlines(
                means[label],
                row - 0.36,
                row + 0.36,
                color=INK.light,
                linewidth=2.5,
                capstyle="butt",
            )
            axes.annotate(
                number(means[label], percent=percent),
                (1.0, row),
                xycoords=("axes fraction", "data"),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(data)), [printable(label) for label in data])
        axes.tick_params(axis="y", labelcolor=INK.light)
        axes.set_xlabel(printable(x))
        format_ticks(axes.xaxis, percent=percent, log=False)

    words = "; ".join(
        _describe(label, runs, percent=percent) + _between(lines.get(label), percent=percent)
        for label, runs in data.items()
    )
    keys = (Key("one seed", MUTED, "dot"), Key("mean, written at the right", INK, "tick"))
    name = title or x
    svg = render(width, 46 + 28 * max(2, len(data)), paint)
    return Plot(
        (Panel(svg, f"{name}. {words}." if name else f"{words}.", width, title),),
        (*keys, Key("95 % interval of the mean", INK)) if lines else keys,
    )


def _mean(runs: Floats) -> float:
    finite = runs[np.isfinite(runs)]
    return float(finite.mean()) if finite.size else float("nan")


def _between(ends: tuple[float, float] | None, *, percent: bool) -> str:
    if ends is None:
        return ""
    low, high = (number(end, percent=percent) for end in ends)
    return f", interval {low} to {high}"


def _offsets(ordered: Floats, reach: float) -> Floats:
    """Vertical steps that keep dots of nearly the same value apart, the same on every run."""
    taken: list[float] = [-np.inf] * len(_OFFSETS)
    steps = np.zeros(len(ordered))
    for place, value in enumerate(ordered.tolist()):
        free = [lane for lane, last in enumerate(taken) if value - last >= reach]
        lane = free[0] if free else int(np.argmin(taken))
        taken[lane] = value
        steps[place] = _OFFSETS[lane]
    return steps


def _describe(label: str, runs: Floats, *, percent: bool) -> str:
    finite = runs[np.isfinite(runs)]
    if not finite.size:
        return f"{label}: no values"
    mean, low, high = (
        number(float(part), percent=percent) for part in (finite.mean(), finite.min(), finite.max())
    )
    failed = f", {runs.size - finite.size} failed" if finite.size < runs.size else ""
    seeds = "1 seed" if finite.size == 1 else f"{finite.size} seeds"
    return f"{label}: mean {mean}, from {low} to {high} over {seeds}{failed}"
