"""Two histograms in one panel: rightly and wrongly labelled samples."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tether.report.blocks import Key, Panel, Plot
from tether.report.palette import HUES
from tether.report.plots.common import Floats, format_ticks, number, panel_width
from tether.report.svg import render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Key of the counts -> its words and colour.
KINDS = {"clean": ("label is right", HUES[0]), "wrong": ("label is wrong", HUES[1])}


def histogram_panels(histograms: Mapping[str, Mapping[str, Any]], *, x: str = "loss") -> Plot:
    """Shares of rightly and of wrongly labelled samples by their loss, one panel a run.

    Args:
        histograms: for every run ``edges`` (one more than there are bins), ``clean`` and ``wrong``
            (counts), as :func:`tether.measure.loss_histograms` gives them.
        x: title of the axis.

    Raises:
        ValueError: nothing to plot, or counts that do not fit the edges.

    Example:
        >>> found = {"edges": [0.0, 1.0, 2.0], "clean": [3, 1], "wrong": [0, 2]}
        >>> histogram_panels({"plain": found}).panels[0].label[:60]
        'plain, loss: 4 samples whose label is right, most near 0.5; '
    """
    if not histograms:
        raise ValueError("there is nothing to plot: the mapping of runs to histograms is empty")
    width = panel_width(len(histograms))
    panels = []
    for name, found in histograms.items():
        edges = np.asarray(found["edges"], dtype=np.float64)
        counts = {kind: np.asarray(found[kind], dtype=np.float64) for kind in KINDS}
        if any(values.shape != (len(edges) - 1,) for values in counts.values()):
            raise ValueError(f"the histograms of {name!r} have not one count for each bin")
        svg = _draw(edges, counts, width, x)
        panels.append(Panel(svg, _describe(name, edges, counts, x), width, name))
    keys = tuple(Key(words, color, "bar") for words, color in KINDS.values())
    return Plot(tuple(panels), keys)


def _draw(edges: Floats, counts: Mapping[str, Floats], width: float, x: str) -> str:
    def paint(axes: "Axes") -> None:
        for kind, values in counts.items():
            shares = values / max(values.sum(), 1)
            axes.stairs(
                shares, edges, fill=True, color=KINDS[kind][1].light, alpha=0.55, linewidth=0
            )
            axes.stairs(shares, edges, color=KINDS[kind][1].light, linewidth=1.4)
        axes.set_xlim(float(edges[0]), float(edges[-1]))
        axes.set_ylim(bottom=0)
        axes.set_xlabel(x)
        axes.set_ylabel("share of them")
        format_ticks(axes.xaxis, percent=False, log=False)
        format_ticks(axes.yaxis, percent=True, log=False)

    return render(width, 0.62 * width, paint)


def _describe(name: str, edges: Floats, counts: Mapping[str, Floats], x: str) -> str:
    middles = (edges[:-1] + edges[1:]) / 2
    parts = []
    for place, (kind, values) in enumerate(counts.items()):
        near = f", most near {number(float(middles[values.argmax()]))}" if values.any() else ""
        what = "samples whose" if place == 0 else "whose"
        parts.append(f"{values.sum():.0f} {what} {KINDS[kind][0]}{near}")
    return f"{name}, {x}: " + "; ".join(parts) + "."
