"""One quantity against a size that is varied over decades, a line for each run or layer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tether.report.blocks import Key, Panel, Plot
from tether.report.palette import DASHES, MUTED, Color, assign_colors
from tether.report.plots.common import Floats, finite_range, format_ticks, number, panel_width
from tether.report.svg import printable, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Lines = Mapping[str, Any]


def sweep_panels(
    panels: Mapping[str, Lines],
    x: Sequence[float],
    *,
    x_title: str,
    y_title: str,
    colors: Mapping[str, Color] | None = None,
) -> Plot:
    """Lines over a logarithmic axis, both axes logarithmic where all values allow it.

    Args:
        panels: title of a panel to its lines: name to one value for each x, or
            `(mean, low, high)`. Values of zero and below have no place on a logarithmic axis and
            are left out of the line.
        x: the sizes, above 0, rising.
        x_title: title of the horizontal axis.
        y_title: title of the vertical axis.
        colors: colours of the lines, from `assign_colors`.

    Raises:
        ValueError: nothing to plot, sizes that are not above 0, or lines of another length.

    Example:
        >>> plot = sweep_panels({"all": {"plain": [0.1, 0.2]}}, [1, 10], x_title="s", y_title="S")
        >>> plot.panels[0].label
        'all: S over s. plain: 0.1 at 1, 0.2 at 10.'
    """
    sizes = np.asarray(x, dtype=np.float64)
    if not panels or not sizes.size or not (sizes > 0).all():
        raise ValueError("there is nothing to plot: give panels of lines, and sizes above 0")
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    used = colors or assign_colors(names)
    values = {
        title: {name: _line(line, sizes, name) for name, line in lines.items()}
        for title, lines in panels.items()
    }
    span = finite_range(
        part[part > 0] for lines in values.values() for line in lines.values() for part in line[:1]
    )
    width = panel_width(len(panels))
    drawn = tuple(
        Panel(
            _draw(lines, sizes, used, width, span, x_title, y_title),
            _describe(title, lines, sizes, x_title, y_title),
            width,
            title,
        )
        for title, lines in values.items()
    )
    keys: tuple[Key, ...] = ()
    if len(names) > 1:
        keys = tuple(Key(name, used[name]) for name in names)
    if any(np.any(line[2] > line[1]) for lines in values.values() for line in lines.values()):
        keys += (Key("interval over the draws", MUTED, "band"),)
    return Plot(drawn, keys)


def _line(line: Any, sizes: Floats, name: str) -> Floats:
    values = np.asarray(line, dtype=np.float64)
    rows = np.stack([values] * 3) if values.ndim == 1 else values
    if rows.shape != (3, sizes.size):
        raise ValueError(f"line {name!r} has shape {values.shape} for {sizes.size} sizes")
    return rows


def _draw(
    lines: Mapping[str, Floats],
    sizes: Floats,
    colors: Mapping[str, Color],
    width: float,
    span: tuple[float, float] | None,
    x_title: str,
    y_title: str,
) -> str:
    low, high = span or (0.1, 1.0)
    log = span is not None

    def paint(axes: "Axes") -> None:
        axes.set_xscale("log")
        if log:
            axes.set_yscale("log")
        for name, (mean, lower, upper) in lines.items():
            shown = mean > 0 if log else np.isfinite(mean)
            if not shown.any():
                continue
            color, dash = colors[name].light, DASHES[colors[name].dash]
            if np.any(upper > lower):
                floor = np.maximum(lower, low / 1.3) if log else lower
                axes.fill_between(
                    sizes[shown], floor[shown], upper[shown], color=color, alpha=0.16, linewidth=0
                )
            axes.plot(
                sizes[shown], mean[shown], color=color, markersize=4,
                marker="o" if sizes.size <= 12 else "",
                linestyle=(0, dash) if dash else "solid",
            )  # fmt: skip
        if sizes.size > 1:
            axes.set_xlim(float(sizes[0]) / 1.15, float(sizes[-1]) * 1.15)
        if log:
            axes.set_ylim(low / 1.3, high * 1.3)
        axes.set_xlabel(printable(x_title))
        axes.set_ylabel(printable(y_title))
        format_ticks(axes.xaxis, percent=False, log=True)
        format_ticks(axes.yaxis, percent=False, log=log)

    return render(width, 0.68 * width, paint)


def _describe(
    title: str, lines: Mapping[str, Floats], sizes: Floats, x_title: str, y_title: str
) -> str:
    few = np.unique(np.linspace(0, sizes.size - 1, min(sizes.size, 8)).astype(int))
    parts = [
        f"{name}: "
        + ", ".join(f"{number(float(mean[at]))} at {number(float(sizes[at]))}" for at in few)
        for name, (mean, _, _) in lines.items()
    ]
    return f"{title}: {y_title} over {x_title}. " + "; ".join(parts) + "."
