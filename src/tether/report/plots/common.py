"""What the plots share: sizes, numbers as text, colours of the labels."""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tether.report.extras import require
from tether.report.palette import Color, assign_colors
from tether.report.svg import printable

if TYPE_CHECKING:
    from matplotlib.axis import Axis

Floats = NDArray[np.float64]


def panel_width(panels: int) -> float:
    """Width at which a panel of a figure with so many is drawn: 1, 2 or 3 to a row."""
    return {1: 460.0, 2: 400.0, 4: 400.0}.get(panels, 340.0)


def label_colors(labels: Iterable[str], colors: Mapping[str, Color] | None) -> dict[str, Color]:
    """The colour of every label, or a clear error for a label without one."""
    names = list(labels)
    if not names:
        raise ValueError("there is nothing to plot: the mapping of labels to values is empty")
    if colors is None:
        return assign_colors(names)
    missing = [name for name in names if name not in colors]
    if missing:
        raise ValueError(
            f"no colour for {missing}; make `colors` with assign_colors over all labels of the page"
        )
    return {name: colors[name] for name in names}


def number(value: float, *, percent: bool = False) -> str:
    """A number as a reader would write it.

    Example:
        >>> number(0.9137, percent=True), number(0.00012), number(12.0), number(float("nan"))
        ('91.4 %', '0.00012', '12', 'missing')
    """
    if not math.isfinite(value):
        return "missing"
    if percent:
        return f"{100 * value:.1f} %"
    return printable(f"{value:.3g}").replace("-", "−") if value else "0"


def format_ticks(axis: "Axis", *, percent: bool, log: bool, whole: bool = False) -> None:
    """Tick labels without mathematical text: 20 %, 0.01, 1000."""
    ticker: Any = require("matplotlib.ticker")
    if log:
        low, high = sorted(axis.get_view_interval())
        axis.set_major_locator(ticker.LogLocator(subs=(1, 3) if high < 1e3 * low else (1,)))
        axis.set_minor_formatter(ticker.NullFormatter())
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: number(value)))
        return
    axis.set_major_locator(ticker.MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=whole))
    axis.set_major_formatter(
        ticker.FuncFormatter(lambda value, _: f"{100 * value:g} %" if percent else number(value))
    )


def finite_range(values: Iterable[Floats]) -> tuple[float, float] | None:
    """Smallest and largest finite number, or None where there is none."""
    everything = np.concatenate([np.ravel(value) for value in values] or [np.empty(0)])
    finite = everything[np.isfinite(everything)]
    return (float(finite.min()), float(finite.max())) if finite.size else None
