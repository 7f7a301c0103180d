"""What a method does to every class."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tether.report.blocks import Key, Panel, Plot
from tether.report.palette import INK, MUTED, Color
from tether.report.plots.common import finite_range, format_ticks, label_colors, number, panel_width
from tether.report.svg import printable, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Estimate = tuple[float, float, float]


def class_differences(
    differences: Mapping[str, Mapping[str, Estimate]],
    *,
    x: str,
    title: str = "",
    colors: Mapping[str, Color] | None = None,
    beside: int = 1,
) -> Plot:
    """Difference to a baseline of every class, a row per class, a dot per method.

    Args:
        differences: method to class to `(mean, low, high)`; NaN ends where there is no interval.
        x: title of the axis, for example "accuracy minus that of plain, points".
        title: words above the panel.
        colors: colours of the methods, from `assign_colors`.
        beside: number of panels that will share the figure, which sets their size.

    Raises:
        ValueError: nothing to plot.

    Example:
        >>> plot = class_differences({"elr": {"cat": (1.5, 0.5, 2.5)}}, x="points")
        >>> plot.panels[0].label
        'points. cat: elr 1.5.'
    """
    used = label_colors(differences, colors)
    classes = list(dict.fromkeys(name for row in differences.values() for name in row))
    if not classes:
        raise ValueError("there is nothing to plot: no method has a difference of any class")
    width = panel_width(beside)
    count = len(differences)
    steps = {label: 0.6 * ((place + 0.5) / count - 0.5) for place, label in enumerate(differences)}

    def paint(axes: "Axes") -> None:
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.axvline(0, color=MUTED.light, linewidth=1.2)
        for label, row in differences.items():
            known = [place for place, name in enumerate(classes) if name in row]
            table = np.array([row[classes[place]] for place in known]).reshape(-1, 3)
            at = np.array(known) + steps[label]
            shade = used[label].light
            axes.hlines(at, table[:, 1], table[:, 2], color=shade, linewidth=1.2, alpha=0.7)
            axes.plot(table[:, 0], at, "o", markersize=6, markeredgewidth=0, color=shade)
        values = [np.array(list(row.values())).ravel() for row in differences.values()]
        low, high = finite_range([*values, np.zeros(1)]) or (0.0, 1.0)
        margin = 0.05 * (high - low) or 1.0
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(len(classes) - 0.4, -0.6)
        axes.set_yticks(range(len(classes)), [printable(_short(name)) for name in classes])
        axes.tick_params(axis="y", labelcolor=INK.light)
        axes.set_xlabel(printable(x))
        format_ticks(axes.xaxis, percent=False, log=False)

    words = "; ".join(
        f"{name}: "
        + ", ".join(
            f"{label} {number(row[name][0])}" for label, row in differences.items() if name in row
        )
        for name in classes
    )
    height = 46 + max(20, 12 * count) * max(2, len(classes))
    panel = Panel(render(width, height, paint), f"{title or x}. {words}.", width, title)
    return Plot((panel,), tuple(Key(label, used[label], "dot") for label in differences))


def _short(name: str, limit: int = 24) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"
