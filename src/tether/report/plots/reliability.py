"""Accuracy against confidence."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tether.report.blocks import Key, Panel, Plot
from tether.report.palette import MUTED, Color
from tether.report.plots.common import Floats, format_ticks, label_colors, number, panel_width
from tether.report.svg import render

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reliability_diagram(
    curves: Mapping[str, Mapping[str, Any]], *, colors: Mapping[str, Color] | None = None
) -> Plot:
    """How often the model is right where it is so sure, one panel a run.

    Bars are the bins of confidence; a bar below the diagonal is over-confident. The bars' width
    is that of the bins; bins without samples have none. Grey: where the samples are, not to scale.

    Args:
        curves: for every run `edges` (one more than there are bins), `count`, `confidence` and
            `accuracy` (NaN or None where a bin is empty), as
            `tether.measure.reliability_curve` gives them.
        colors: colours of the runs, from `assign_colors`.

    Raises:
        ValueError: nothing to plot.

    Example:
        >>> curve = {"edges": [0, 0.5, 1], "count": [0, 4], "confidence": [None, 0.9],
        ...          "accuracy": [None, 0.75]}
        >>> reliability_diagram({"plain": curve}).panels[0].label
        'plain: accuracy by confidence. 75.0 % right where it is 90.0 % sure (4 samples).'
    """
    used = label_colors(curves, colors)
    width = panel_width(len(curves))
    panels = []
    for name, curve in curves.items():
        parts = {
            key: np.array([np.nan if v is None else v for v in curve[key]], dtype=np.float64)
            for key in ("edges", "count", "confidence", "accuracy")
        }
        panels.append(
            Panel(_draw(parts, used[name], width), _describe(name, parts), width, name, used[name])
        )
    keys = (
        Key("perfect calibration", Color(MUTED.name, MUTED.light, MUTED.dark, "dashed")),
        Key("where the samples are", MUTED, "band"),
    )
    return Plot(tuple(panels), keys)


def _draw(parts: Mapping[str, Floats], color: Color, width: float) -> str:
    edges, count, accuracy = parts["edges"], parts["count"], parts["accuracy"]
    held = count > 0

    def paint(axes: "Axes") -> None:
        wide = np.diff(edges)
        axes.bar(
            edges[:-1][held], accuracy[held], wide[held], align="edge", color=color.light,
            alpha=0.85, linewidth=0,
        )  # fmt: skip
        shares = 0.25 * count / max(float(count.max()), 1.0)
        axes.bar(
            edges[:-1][held], shares[held], wide[held] * 0.5, align="edge", color=MUTED.light,
            alpha=0.55, linewidth=0,
        )  # fmt: skip
        axes.plot([0, 1], [0, 1], color=MUTED.light, linestyle=(0, (5, 3)), linewidth=1.2)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        format_ticks(axes.xaxis, percent=True, log=False)
        format_ticks(axes.yaxis, percent=True, log=False)

    return render(width, 0.8 * width, paint)


def _describe(name: str, parts: Mapping[str, Floats]) -> str:
    told = [
        f"{number(float(a), percent=True)} right where it is {number(float(c), percent=True)} "
        f"sure ({n:.0f} samples)"
        for n, c, a in zip(parts["count"], parts["confidence"], parts["accuracy"], strict=True)
        if n > 0
    ]
    return f"{name}: accuracy by confidence. " + ", ".join(told) + "."
