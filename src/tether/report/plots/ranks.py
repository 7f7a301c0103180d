"""Average ranks of methods over data sets, with the critical difference."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tether.report.blocks import Key, Panel, Plot
from tether.report.palette import INK, MUTED, Color
from tether.report.plots.common import format_ticks, label_colors, number
from tether.report.svg import printable, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 460.0


def rank_plot(
    average: Mapping[str, float],
    critical: float = math.nan,
    groups: Sequence[Sequence[str]] = (),
    *,
    colors: Mapping[str, Color] | None = None,
) -> Plot:
    """A critical-difference diagram, one row per method, the best rank at the top.

    Args:
        average: method to its average rank; 1 is best.
        critical: the critical difference, drawn as a scale under the rows; NaN for none.
        groups: methods whose ranks are not told apart, joined by a bar at the right.
        colors: colours of the methods, from `assign_colors`.

    Raises:
        ValueError: nothing to plot, or a group names a method without a rank.

    Example:
        >>> rank_plot({"elr": 1.2, "plain": 1.8}, 1.1, [("elr", "plain")]).panels[0].label
        'Average ranks: elr 1.2; plain 1.8. Critical difference 1.1. Not told apart: elr, plain.'
    """
    used = label_colors(average, colors)
    order = sorted(average, key=lambda label: average[label])
    unknown = [label for group in groups for label in group if label not in average]
    if unknown:
        raise ValueError(f"a group names {unknown}, which have no rank")
    scaled = math.isfinite(critical)
    span = max(float(len(order)), max(average.values()), 1.0 + (critical if scaled else 0.0))

    def paint(axes: "Axes") -> None:
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        right = span + 0.04 * span
        for row, label in enumerate(order):
            axes.hlines(row, 1, average[label], color=used[label].light, linewidth=1.2, alpha=0.5)
            axes.plot([average[label]], [row], "o", markersize=9, color=used[label].light)
            axes.annotate(
                number(average[label]),
                (average[label], row),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                gid="halo",
            )
        step = 0.035 * span
        for place, group in enumerate(groups):
            rows = [order.index(label) for label in group]
            at = right + step * (place + 1.5)
            axes.vlines(at, min(rows) - 0.25, max(rows) + 0.25, color=INK.light, linewidth=4)
        if scaled:
            low = len(order) - 0.1
            axes.hlines(low, 1, 1 + critical, color=MUTED.light, linewidth=2)
            axes.vlines([1, 1 + critical], low - 0.14, low + 0.14, color=MUTED.light, linewidth=2)
        axes.set_xlim(1 - 0.03 * span, right + step * (len(groups) + 1.5 if groups else 0.5))
        axes.set_ylim(len(order) - (0.4 if not scaled else -0.4), -0.6)
        axes.set_yticks(range(len(order)), [printable(_short(label)) for label in order])
        axes.tick_params(axis="y", labelcolor=INK.light)
        axes.set_xlabel("average rank (1 is best)")
        format_ticks(axes.xaxis, percent=False, log=False, whole=True)
        ticks = [tick for tick in axes.get_xticks() if 1 <= tick <= span]
        axes.set_xticks(ticks)

    words = "; ".join(f"{label} {number(average[label])}" for label in order)
    parts = [f"Average ranks: {words}."]
    keys = []
    if scaled:
        parts.append(f"Critical difference {number(critical)}.")
        keys.append(Key(f"critical difference, {number(critical)}", MUTED))
    if groups:
        parts.append("Not told apart: " + "; ".join(", ".join(group) for group in groups) + ".")
        keys.append(Key("not told apart", INK, "tick"))
    svg = render(_WIDTH, 52 + 26 * (len(order) + int(scaled)), paint)
    return Plot((Panel(svg, " ".join(parts), _WIDTH),), tuple(keys))


def _short(label: str, limit: int = 32) -> str:
    return label if len(label) <= limit else label[: limit - 1] + "…"
