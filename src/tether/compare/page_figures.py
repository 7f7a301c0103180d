"""The figures of a comparison: what is drawn, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tether.compare.intervals import t_interval
from tether.compare.statistics import Floats
from tether.compare.summary import Summary
from tether.compare.summary_scaling import ScalingCheck
from tether.compare.summary_scores import Row, Score, number_of
from tether.report import Color, Plot
from tether.report.plots import (
    Trials,
    class_differences,
    curve_panels,
    dot_plot,
    scaling_curves,
    seed_band,
    sensitivity_scatter,
)

#: How much a page draws; everything else is in results.csv.
MOST_METHODS = 14
MOST_CASES = 6
MOST_CLASSES = 14
MOST_CLASS_CASES = 4
MOST_OPTION_PANELS = 20
MOST_DOTS = 60
MOST_POINTS = 60

Colors = Mapping[str, Color]


def leading_methods(summary: Summary, most: int = MOST_METHODS) -> list[str]:
    """The baseline and the methods with the best average score, in the order of the study.

    A method that is missing in a case is ranked by the cases that it has.

    Args:
        summary: the findings of a study.
        most: how many methods at most.
    """
    sign = 1.0 if summary.higher_is_better else -1.0
    means: dict[str, list[float]] = {}
    for score in summary.scores:
        if math.isfinite(score.mean):
            means.setdefault(score.method, []).append(sign * score.mean)
    best = sorted(means, key=lambda method: -float(np.mean(means[method])))
    kept = [summary.baseline, *(method for method in best if method != summary.baseline)][:most]
    return [method for method in summary.methods if method in kept and method in means]


def score_dots(summary: Summary, case: str, methods: Sequence[str], colors: Colors) -> Plot | None:
    """Scores of every seed, and their differences to the baseline; None without a score."""
    scores = {score.method: score for score in summary.scores if score.case == case}
    shown = [method for method in methods if method in scores and scores[method].values]
    if not shown:
        return None
    plot = dot_plot(
        {method: _thin(list(scores[method].values.values())) for method in shown},
        x=summary.metric.replace("_", " "),
        title="Score",
        percent=summary.fraction,
        colors=colors,
        beside=2,
        intervals={method: scores[method].interval for method in shown},
    )
    scale = 100.0 if summary.fraction else 1.0
    pairs = {
        each.method: each
        for each in summary.comparisons
        if each.case == case and each.against == summary.baseline and each.pairs
    }
    shown = [method for method in methods if method in pairs]
    if not shown:
        return plot
    differences = dot_plot(
        {m: [scale * d for d in _thin(list(pairs[m].differences.values()))] for m in shown},
        x="difference on the same seed" + (", points" if summary.fraction else ""),
        title=f"Minus {summary.baseline}",
        colors=colors,
        beside=2,
        intervals={
            method: (scale * ends[0], scale * ends[1]) if ends else None
            for method in shown
            for ends in [pairs[method].interval]
        },
        zero=True,
    )
    return plot + differences


def _thin(values: Sequence[float], most: int = MOST_DOTS) -> list[float]:
    """Evenly spaced order statistics where there are too many dots to see."""
    if len(values) <= most:
        return list(values)
    thinned: list[float] = np.quantile(values, np.linspace(0, 1, most)).tolist()
    return thinned


def learning_curves(
    summary: Summary, rows: Iterable[Row], methods: Sequence[str], colors: Colors
) -> Plot | None:
    """Validation metric over epochs of the final runs, a panel per case; None without a curve."""
    found: dict[str, dict[str, list[Floats]]] = {}
    cases = summary.cases[:MOST_CASES]
    for row in rows:
        case, method = str(row["case_id"]), str(row["method"])
        final = row.get("kind") == "final" and row.get("status") == "done"
        if final and method in methods and case in cases:
            points = _points(row.get("curve") or ())
            if len(points) > 1:
                found.setdefault(method, {}).setdefault(case, []).append(points)
    if not found:
        return None
    curves: dict[str, dict[str, Any]] = {}
    for method in (method for method in methods if method in found):
        grid = _grid([runs for case in found[method].values() for runs in case])
        curves[method] = {"epoch": grid}
        for case, runs in found[method].items():
            bands = np.array([_on_grid(grid, run) for run in runs])
            curves[method][case] = seed_band(bands)
    titles = {case: case for case in cases}
    return curve_panels(curves, titles, colors=colors, percent=summary.fraction)


def _points(curve: Iterable[Sequence[Any]]) -> Floats:
    points = np.array([[number_of(x), number_of(y)] for x, y in curve], np.float64).reshape(-1, 2)
    return points[np.isfinite(points).all(axis=1)]


def _grid(runs: Sequence[Floats]) -> Floats:
    epochs = np.unique(np.concatenate([run[:, 0] for run in runs]))
    if epochs.size <= MOST_POINTS:
        return epochs
    return np.linspace(epochs[0], epochs[-1], MOST_POINTS)


def _on_grid(grid: Floats, run: Floats) -> Floats:
    order = np.argsort(run[:, 0], kind="stable")
    x, y = run[order].T
    return np.asarray(np.interp(grid, x, y, left=np.nan, right=np.nan), np.float64)


def sensitivity(
    summary: Summary, rows: Sequence[Row], meta: Mapping[str, Any], colors: Colors
) -> dict[str, Plot]:
    """Score of the trials by each tuned option, a figure per method, coloured by case.

    The baseline and the best methods come first, until so many panels are drawn as a page bears.
    """
    cases = summary.cases[:MOST_CASES]
    trials: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("kind") == "trial" and row.get("case_id") in cases:
            trials.setdefault(str(row["method"]), []).append(row)
    chosen = {(score.method, score.case): score.settings for score in summary.scores}
    plots = {}
    left = MOST_OPTION_PANELS
    for method in leading_methods(summary):
        space = dict((meta.get("spaces") or {}).get(method) or {})
        settings = [chosen.get((method, case), {}) for case in cases]
        options = space or dict.fromkeys(
            key for row in trials.get(method, []) for key in (row.get("settings") or {})
        )
        found = [
            each
            for option in options
            if (
                each := _option(
                    option, space.get(option) or {}, trials.get(method, []), settings, summary
                )
            )
        ][:left]
        left -= len(found)
        if found:
            plots[method] = sensitivity_scatter(
                found,
                y=summary.metric.replace("_", " "),
                percent=summary.fraction,
                higher_is_better=summary.higher_is_better,
                colors=colors,
            )
    return plots


def _option(
    option: str,
    space: Mapping[str, Any],
    trials: Sequence[Row],
    settings: Sequence[Mapping[str, Any]],
    summary: Summary,
) -> Trials | None:
    series: dict[str, list[tuple[object, float]]] = {}
    for row in trials:
        score = number_of((row.get("validation") or {}).get(summary.metric))
        value = (row.get("settings") or {}).get(option)
        if value is not None and math.isfinite(score):
            series.setdefault(str(row["case_id"]), []).append((_value(value), score))
    values = [value for pairs in series.values() for value, _ in pairs]
    if len(set(values)) < 2:
        return None
    numeric = all(isinstance(value, float) for value in values)
    choices = [] if numeric else [_value(choice) for choice in space.get("choices") or ()]
    if not numeric:
        values = [str(value) for value in values]
        choices = list(dict.fromkeys([*map(str, choices), *values]))[:12]
        series = {case: [(str(v), s) for v, s in pairs] for case, pairs in series.items()}
    picked = [_value(each[option]) for each in settings if each.get(option) is not None]
    if not numeric:
        picked = [str(value) for value in picked]
    return Trials(option, series, bool(space.get("log")), picked, choices)


def _value(value: Any) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return str(value)


def class_dots(
    summary: Summary, rows: Iterable[Row], methods: Sequence[str], colors: Colors
) -> Plot | None:
    """Difference to the baseline of every class, a panel per case; None without such scores."""
    table: dict[tuple[str, str], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("kind") == "final" and row.get("status") == "done" and row.get("per_class"):
            seeds = table.setdefault((str(row["case_id"]), str(row["method"])), {})
            seeds[int(row.get("seed") or 0)] = row["per_class"]
    plot: Plot | None = None
    drawn = [case for case in summary.cases if (case, summary.baseline) in table]
    drawn = drawn[:MOST_CLASS_CASES]
    for case in drawn:
        base = table[case, summary.baseline]
        found = {
            method: _classes(table[case, method], base)
            for method in methods
            if method != summary.baseline and (case, method) in table
        }
        found = _largest({method: row for method, row in found.items() if row})
        if found:
            panel = class_differences(
                found,
                x=f"accuracy minus that of {summary.baseline}, points",
                title=case if len(summary.cases) > 1 else "",
                colors=colors,
                beside=min(len(drawn), 2),
            )
            plot = plot + panel if plot else panel
    return plot


def _classes(
    mine: Mapping[int, Mapping[str, Any]], base: Mapping[int, Mapping[str, Any]]
) -> dict[str, tuple[float, float, float]]:
    found: dict[str, list[float]] = {}
    for seed in mine:
        for name, value in mine[seed].items():
            gap = number_of(value) - number_of(base.get(seed, {}).get(name))
            if math.isfinite(gap):
                found.setdefault(str(name), []).append(100 * gap)
    return {
        name: (float(np.mean(gaps)), *(t_interval(gaps) or (math.nan, math.nan)))
        for name, gaps in found.items()
    }


def _largest(
    found: Mapping[str, dict[str, tuple[float, float, float]]],
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """The classes that differ most, in their own order."""
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    reach = {name: max(abs(r[name][0]) for r in found.values() if name in r) for name in names}
    kept = set(sorted(names, key=lambda name: -reach[name])[:MOST_CLASSES])
    return {
        method: {name: row[name] for name in names if name in row and name in kept}
        for method, row in found.items()
    }


def scale_plot(
    summary: Summary,
    checks: Sequence[ScalingCheck],
    sizes: Mapping[str, float],
    methods: Sequence[str],
    colors: Colors,
) -> Plot:
    """The methods over the sizes of one scale, with the crossings that are likely."""
    table: dict[str, list[Score]] = {}
    for score in summary.scores:
        if score.case in sizes and score.method in methods and math.isfinite(score.mean):
            table.setdefault(score.method, []).append(score)
    curves = {
        method: sorted(
            [
                (sizes[score.case], score.mean, *(score.interval or (math.nan, math.nan)))
                for score in table[method]
            ]
        )
        for method in methods
        if method in table
    }
    crossings = [
        (f"{check.method} and {check.against}", check.crossing.at, check.crossing.interval)
        for check in checks
        if check.crossing.at is not None and check.verdict in ("crossing", "crossing likely")
    ]
    return scaling_curves(
        curves,
        x=checks[0].axis,
        y=summary.metric.replace("_", " "),
        crossings=crossings[:3],
        percent=summary.fraction,
        colors=colors,
    )
