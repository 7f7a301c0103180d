"""What every tuned option did to the score: one dot per trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tether.report.blocks import Key, Panel, Plot
from tether.report.palette import INK, Color
from tether.report.plots.common import finite_range, format_ticks, label_colors, number, panel_width
from tether.report.svg import printable, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Trials:
    """The trials of one option.

    Args:
        option: its name.
        series: label (for example the data set) to pairs of value and score; values are
            numbers, or texts for an option with choices.
        log: logarithmic axis of values.
        chosen: values that were chosen, marked by a line.
        choices: the choices in order, for an option without an order of its own.
    """

    option: str
    series: Mapping[str, Sequence[tuple[object, float]]]
    log: bool = False
    chosen: Sequence[object] = ()
    choices: Sequence[object] = ()


def sensitivity_scatter(
    trials: Sequence[Trials],
    *,
    y: str,
    percent: bool = False,
    higher_is_better: bool = True,
    colors: Mapping[str, Color] | None = None,
    max_points: int = 300,
) -> Plot:
    """Score against the value of every tuned option, a panel per option.

    Args:
        trials: one entry per option.
        y: what the score is.
        percent: show fractions as percentages.
        higher_is_better: whether larger scores are better, for the words.
        colors: colours of the labels of the series, from `assign_colors`.
        max_points: draw at most so many trials of a panel, evenly spaced.

    Raises:
        ValueError: nothing to plot.

    Example:
        >>> lr = Trials("lr", {"digits": [(0.001, 0.8), (0.01, 0.9)]}, log=True, chosen=[0.01])
        >>> sensitivity_scatter([lr], y="accuracy").panels[0].label
        'accuracy by lr: 2 trials, best 0.9 at 0.01; chosen 0.01.'
    """
    labels = list(dict.fromkeys(label for each in trials for label in each.series))
    used = label_colors(labels, colors)
    width = panel_width(max(len(trials), 3))
    panels = tuple(
        Panel(
            _draw(each, used, width, y, percent=percent, most=max_points),
            _describe(each, y, percent=percent, up=higher_is_better),
            width,
            each.option,
        )
        for each in trials
    )
    keys = [Key(label, used[label], "dot") for label in labels]
    if any(each.chosen for each in trials):
        keys.append(Key("chosen", INK, "tick"))
    return Plot(panels, tuple(keys))


def _draw(
    each: Trials,
    used: Mapping[str, Color],
    width: float,
    y: str,
    *,
    percent: bool,
    most: int,
) -> str:
    places = {_text(choice): float(at) for at, choice in enumerate(each.choices)}

    def place(value: object) -> float:
        if places:
            return places.get(_text(value), float("nan"))
        return float(value) if isinstance(value, (int, float)) else float("nan")

    total = sum(len(pairs) for pairs in each.series.values())
    step = max(1, -(-total // most))

    def paint(axes: "Axes") -> None:
        clouds = {
            label: np.array([(place(value), score) for value, score in pairs[::step]]).reshape(
                -1, 2
            )
            for label, pairs in each.series.items()
        }
        across = finite_range([cloud[:, 0] for cloud in clouds.values()])
        log = each.log and across is not None and across[0] > 0
        if log:
            axes.set_xscale("log")
        for at in dict.fromkeys(place(value) for value in each.chosen):
            axes.axvline(at, color=INK.light, linewidth=1, zorder=0.5)
        for label, cloud in clouds.items():
            axes.plot(
                cloud[:, 0],
                cloud[:, 1],
                "o",
                markersize=5,
                markeredgewidth=0,
                color=used[label].light,
                alpha=0.75,
            )
        if across is not None and not places:
            low, high = across
            if log:
                axes.set_xlim(low / 1.25, high * 1.25)
            else:
                margin = 0.06 * (high - low) or 0.1 * abs(high) or 0.5
                axes.set_xlim(low - margin, high + margin)
        up = finite_range([cloud[:, 1] for cloud in clouds.values()])
        if up is not None:
            margin = 0.06 * (up[1] - up[0]) or 0.05 * abs(up[1]) or 0.5
            axes.set_ylim(up[0] - margin, up[1] + margin)
        axes.set_xlabel(printable(each.option) + (" (log scale)" if log else ""))
        axes.set_ylabel(printable(y))
        if places:
            axes.set_xticks(list(places.values()), [printable(text)[:14] for text in places])
            axes.set_xlim(-0.5, len(places) - 0.5)
        else:
            format_ticks(axes.xaxis, percent=False, log=log)
        format_ticks(axes.yaxis, percent=percent, log=False)

    return render(width, 0.66 * width, paint)


def _text(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _describe(each: Trials, y: str, *, percent: bool, up: bool) -> str:
    found = [
        (score, value)
        for pairs in each.series.values()
        for value, score in pairs
        if np.isfinite(score)
    ]
    if not found:
        return f"{y} by {each.option}: no trial with a score."
    scores = [score for score, _ in found]
    best = found[int(np.argmax(scores) if up else np.argmin(scores))]
    chosen = ", ".join(dict.fromkeys(_text(value) for value in each.chosen))
    return (
        f"{y} by {each.option}: {len(found)} trials, best {number(best[0], percent=percent)} "
        f"at {_text(best[1])}" + (f"; chosen {chosen}." if chosen else ".")
    )
