"""How far every layer moved, one panel per method."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tether.report.blocks import Key, Panel, Plot
from tether.report.palette import INK, MUTED, SURFACE, Color
from tether.report.plots.common import (
    finite_range,
    format_ticks,
    label_colors,
    number,
    panel_width,
)
from tether.report.svg import printable, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Estimate = float | tuple[float, float, float]


def distance_profile(
    profiles: Mapping[str, Mapping[str, Estimate]],
    radii: Mapping[str, Mapping[str, float]] | None = None,
    *,
    reference: str | None = None,
    log: bool = False,
    colors: Mapping[str, Color] | None = None,
    x: str = "distance from the pretrained weights",
) -> Plot:
    """Distance of every layer from its pretrained weights, in the order of depth.

    Args:
        profiles: for every method, group of layers to distance, or `(mean, low, high)`; groups
            in order of depth, the first at the top. A group that a method lacks stays empty.
        radii: for methods under a constraint, group to the bound, drawn as a tick.
        reference: the method whose profile is outlined behind all others.
        log: logarithmic distance axis; distances of zero have no bar.
        colors: colours of the methods, from `assign_colors`.
        x: title of the distance axis.

    Raises:
        ValueError: nothing to plot, or `reference` or a key of `radii` is not in `profiles`.

    Example:
        >>> plot = distance_profile({"plain": {"stem": 0.1, "head": 2.0}})
        >>> plot.panels[0].label
        'plain, distance from the pretrained weights: stem 0.1, head 2.'
    """
    used = label_colors(profiles, colors)
    bounds = radii or {}
    for name in [*bounds, *([reference] if reference is not None else [])]:
        if name not in profiles:
            raise ValueError(f"{name!r} is not among the profiles {list(profiles)}")
    groups = list(dict.fromkeys(group for profile in profiles.values() for group in profile))
    estimates = {
        label: np.array([_estimate(profile.get(group)) for group in groups]).reshape(-1, 3)
        for label, profile in profiles.items()
    }
    limits = np.array([list(_bounds(bounds.get(label, {}), groups)) for label in profiles])
    limits = limits.reshape(len(profiles), -1)
    span = _span([*estimates.values(), limits], log=log)
    width = panel_width(len(profiles))
    panels = []
    for place, label in enumerate(profiles):
        behind = None if reference in (None, label) else estimates[str(reference)][:, 0]
        svg = _draw(
            groups, estimates[label], limits[place], behind, used[label], width, span, log=log, x=x
        )
        words = _describe(label, groups, estimates[label], limits[place], x)
        panels.append(Panel(svg, words, width, label, used[label]))
    keys = []
    if reference is not None and len(profiles) > 1:
        keys.append(Key(f"{reference}, for comparison", MUTED, "outline"))
    if any((rows[:, 2] > rows[:, 1]).any() for rows in estimates.values()):
        keys.append(Key("spread over the seeds", INK))
    if np.isfinite(limits).any():
        keys.append(Key("bound of the constraint", INK, "tick"))
    return Plot(tuple(panels), tuple(keys))


def _estimate(value: Estimate | None) -> tuple[float, float, float]:
    if value is None:
        return (np.nan,) * 3
    parts = np.asarray(value, dtype=np.float64)
    if parts.shape not in ((), (3,)):
        raise ValueError(f"a distance must be a number or (mean, low, high), not {value!r}")
    mean, low, high = np.broadcast_to(parts, 3).tolist()
    return mean, low, high


def _bounds(radii: Mapping[str, float], groups: Sequence[str]) -> list[float]:
    bounds = [float(radii.get(group, np.nan)) for group in groups]
    return [bound if np.isfinite(bound) else np.nan for bound in bounds]


def _span(values: Sequence[np.ndarray], *, log: bool) -> tuple[float, float]:
    """One axis for all panels."""
    if log:
        found = finite_range(value[value > 0] for value in values)
        return (found[0] / 1.5, found[1] * 1.3) if found else (0.1, 1.0)
    found = finite_range(values)
    return (0.0, 1.05 * found[1] if found and found[1] > 0 else 1.0)


def _draw(
    groups: Sequence[str],
    estimates: np.ndarray,
    limits: np.ndarray,
    behind: np.ndarray | None,
    color: Color,
    width: float,
    span: tuple[float, float],
    *,
    log: bool,
    x: str,
) -> str:
    rows = np.arange(len(groups))
    start = span[0]

    def paint(axes: "Axes") -> None:
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        if log:
            axes.set_xscale("log")
        axes.barh(rows, np.nan_to_num(estimates[:, 0] - start), 0.62, start, color=color.light)
        if behind is not None:
            axes.barh(
                rows,
                np.nan_to_num(behind - start),
                0.86,
                start,
                facecolor="none",
                edgecolor=MUTED.light,
                linewidth=1,
            )
        spread = estimates[:, 2] > estimates[:, 1]
        for shade, thickness in ((SURFACE.light, 3.0), (INK.light, 1.2)):  # legible on any bar
            axes.hlines(
                rows[spread],
                estimates[spread, 1],
                estimates[spread, 2],
                color=shade,
                linewidth=thickness,
            )
        bounded = np.isfinite(limits)
        axes.vlines(
            limits[bounded],
            rows[bounded] - 0.46,
            rows[bounded] + 0.46,
            color=INK.light,
            linewidth=2.5,
            capstyle="butt",
        )
        axes.set_xlim(*span)
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.set_yticks(rows, [printable(group) for group in groups])
        axes.set_xlabel(printable(x) + (" (log scale)" if log else ""))
        format_ticks(axes.xaxis, percent=False, log=log)

    return render(width, 48 + 20 * max(2, len(groups)), paint)


def _describe(
    label: str, groups: Sequence[str], estimates: np.ndarray, limits: np.ndarray, x: str
) -> str:
    parts = [
        f"{group} {number(float(mean))}"
        + (f" (bound {number(float(limit))})" if np.isfinite(limit) else "")
        for group, mean, limit in zip(groups, estimates[:, 0], limits, strict=True)
    ]
    return f"{label}, {x}: " + ", ".join(parts) + "."
