"""The kinds of plots that a comparison brings."""

import re

import numpy as np
import pytest

from tests.compare.studies import NASTY
from tether.report import assign_colors
from tether.report.plots import (
    Trials,
    class_differences,
    dot_plot,
    rank_plot,
    scaling_curves,
    sensitivity_scatter,
)

pytest.importorskip("matplotlib")


def paths(svg, variable):
    return re.findall(rf"<(?:path|use)[^>]*var\(--{variable},[^>]*>", svg)


def texts(svg):
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_dot_plot_draws_intervals_and_zero():
    values = {"elr": [0.1, 0.2, 0.3], "l2": [0.1]}
    bare = dot_plot(values)
    full = dot_plot(values, intervals={"elr": (-0.5, 0.7), "l2": None}, zero=True)
    assert "interval −0.5 to 0.7" in full.panels[0].label
    assert full.panels[0].label.count("interval") == 1
    assert [key.label for key in full.keys][-1] == "95 % interval of the mean"
    assert len(paths(full.panels[0].svg, "ink")) == len(paths(bare.panels[0].svg, "ink")) + 1
    assert len(paths(full.panels[0].svg, "muted")) > len(paths(bare.panels[0].svg, "muted"))
    assert "−0.5" in texts(full.panels[0].svg)  # the axis reaches as far as the interval


def test_rank_plot_puts_the_best_on_top_and_joins_groups():
    average = {"plain": 2.9, "elr": 1.1, NASTY: 2.0}
    plot = rank_plot(average, 1.05, [("elr", NASTY), (NASTY, "plain")])
    svg = plot.panels[0].svg
    names = [text for text in texts(svg) if text in ("plain", "elr") or "script" in text]
    assert names[0] == "elr" and names[-1] == "plain"
    bars = [path for path in re.findall(r"<path[^>]*>", svg) if "stroke-width:4" in path]
    assert len(bars) == 2
    assert [key.label for key in plot.keys] == ["critical difference, 1.05", "not told apart"]
    assert "<script" not in svg
    assert not rank_plot(average).keys
    with pytest.raises(ValueError, match="no rank"):
        rank_plot(average, 1.0, [("elr", "gone")])
    with pytest.raises(ValueError, match="nothing to plot"):
        rank_plot({})


def test_scaling_curves_show_sizes_and_crossings():
    rows = [(100, 0.5, 0.4, 0.6), (1000, 0.7, np.nan, np.nan)]
    plot = scaling_curves(
        {"plain": rows, "elr": rows},
        x="training samples",
        y="accuracy",
        crossings=[("elr and plain", 300.0, (200.0, 400.0)), ("two", 500.0, None)],
        percent=True,
    )
    label = plot.panels[0].label
    assert "plain: 50.0 % at 100, 70.0 % at 1000" in label
    assert "elr and plain cross at 300." in label
    assert {"100", "1000"} <= set(texts(plot.panels[0].svg))
    assert plot.keys[-1].label == "crossing, with its interval"
    with pytest.raises(ValueError, match="above zero"):
        scaling_curves({"plain": [(0, 1, 1, 1)]}, x="n", y="a")


def test_sensitivity_draws_so_many_trials_and_no_more():
    rng = np.random.default_rng(0)
    many = [(float(10 ** rng.uniform(-4, -1)), float(rng.uniform())) for _ in range(2000)]
    plot = sensitivity_scatter([Trials("lr", {"a": many}, log=True)], y="accuracy", max_points=100)
    assert len(re.findall("<use", plot.panels[0].svg)) <= 130
    assert "2000 trials" in plot.panels[0].label
    assert "lr (log scale)" in texts(plot.panels[0].svg)


def test_sensitivity_knows_choices_and_direction():
    trials = Trials("kind", {"a": [("x", 0.2), ("y", 0.4)]}, chosen=["x"], choices=["x", "y", "z"])
    plot = sensitivity_scatter([trials], y="loss", higher_is_better=False)
    assert plot.panels[0].label == "loss by kind: 2 trials, best 0.2 at x; chosen x."
    assert [text for text in texts(plot.panels[0].svg) if text in "xyz"] == ["x", "y", "z"]
    assert plot.keys[-1].label == "chosen"
    failed = sensitivity_scatter([Trials("lr", {"a": [(1.0, np.nan)]})], y="loss")
    assert failed.panels[0].label == "loss by lr: no trial with a score."


def test_class_differences_keep_methods_apart():
    colors = assign_colors(["plain", "elr", "l2"], neutral="plain")
    plot = class_differences(
        {"elr": {"cat": (1.0, 0.5, 1.5), "dog": (-2.0, np.nan, np.nan)}, "l2": {"dog": (3, 2, 4)}},
        x="points",
        colors=colors,
    )
    assert plot.panels[0].label == "points. cat: elr 1; dog: elr −2, l2 3."
    svg = plot.panels[0].svg
    assert paths(svg, colors["elr"].name) and paths(svg, colors["l2"].name)
    assert [key.label for key in plot.keys] == ["elr", "l2"]
    with pytest.raises(ValueError, match="nothing to plot"):
        class_differences({"elr": {}}, x="points")
