"""Scores over the size of the data or the model."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from tether.report.blocks import Key, Panel, Plot
from tether.report.palette import DASHES, MUTED, Color
from tether.report.plots.common import finite_range, format_ticks, label_colors, number
from tether.report.svg import printable, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 460.0


def scaling_curves(
    curves: Mapping[str, ArrayLike],
    *,
    x: str,
    y: str,
    crossings: Sequence[tuple[str, float, tuple[float, float] | None]] = (),
    percent: bool = False,
    colors: Mapping[str, Color] | None = None,
) -> Plot:
    """One curve per method over a logarithmic axis of sizes, with intervals.

    Args:
        curves: method to rows `(size, mean, low, high)`; NaN where there is no interval.
        x: what the sizes count.
        y: what the scores are.
        crossings: name, size and interval of the places where two curves cross.
        percent: show fractions as percentages.
        colors: colours of the methods, from `assign_colors`.

    Shape:
        Each curve `(sizes, 4)`.

    Raises:
        ValueError: nothing to plot, or a size that is not positive.

    Example:
        >>> plot = scaling_curves({"plain": [[100, 0.5, 0.4, 0.6]]}, x="samples", y="accuracy")
        >>> plot.panels[0].label
        'accuracy over samples. plain: 0.5 at 100.'
    """
    used = label_colors(curves, colors)
    tables = {label: np.asarray(rows, np.float64).reshape(-1, 4) for label, rows in curves.items()}
    sizes = np.unique(np.concatenate([rows[:, 0] for rows in tables.values()]))
    if not sizes.size or not (sizes > 0).all():
        raise ValueError("every curve needs sizes above zero")

    def paint(axes: "Axes") -> None:
        axes.set_xscale("log")
        for _, _, ends in crossings:
            if ends is not None:
                axes.axvspan(*ends, color=MUTED.light, alpha=0.12, linewidth=0)
        for _, at, _ in crossings:
            axes.axvline(at, color=MUTED.light, linewidth=1, linestyle=(0, (4, 3)))
        for place, (label, rows) in enumerate(tables.items()):
            aside = 1.012 ** (place - (len(tables) - 1) / 2)  # intervals must not hide each other
            color = used[label]
            dash = DASHES[color.dash]
            axes.vlines(rows[:, 0] * aside, rows[:, 2], rows[:, 3], color=color.light, alpha=0.7)
            axes.plot(
                rows[:, 0] * aside,
                rows[:, 1],
                marker="o",
                markersize=5,
                color=color.light,
                linestyle=(0, dash) if dash else "solid",
            )
        low, high = finite_range([rows[:, 1:] for rows in tables.values()]) or (0.0, 1.0)
        margin = 0.05 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)
        axes.set_xlim(sizes[0] / 1.15, sizes[-1] * 1.15)
        axes.set_xticks(sizes if sizes.size <= 6 else sizes[:: -(-sizes.size // 6)])
        axes.set_xticklabels([_size(tick) for tick in axes.get_xticks()])
        axes.minorticks_off()
        axes.set_xlabel(printable(x) + " (log scale)")
        axes.set_ylabel(printable(y))
        format_ticks(axes.yaxis, percent=percent, log=False)

    words = "; ".join(
        f"{label}: "
        + ", ".join(f"{number(row[1], percent=percent)} at {_size(row[0])}" for row in rows)
        for label, rows in tables.items()
    )
    crossed = "".join(f" {name} cross at {_size(at)}." for name, at, _ in crossings)
    keys = [Key(label, used[label]) for label in curves]
    if crossings:
        keys.append(Key("crossing, with its interval", MUTED, "band"))
    svg = render(_WIDTH, 0.6 * _WIDTH, paint)
    return Plot((Panel(svg, f"{y} over {x}. {words}.{crossed}", _WIDTH),), tuple(keys))


def _size(value: float) -> str:
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.3g}{letter}"
    return f"{value:.4g}"
