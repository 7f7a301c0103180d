"""The plots that a diagnosis brings: what they draw, say, and refuse."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tether.measure import loss_histograms
from tether.measure.calibration import reliability_curve
from tether.report import assign_colors
from tether.report.palette import HUES
from tether.report.plots import histogram_panels, reliability_diagram, sweep_panels

AXES = {"x_title": "sigma", "y_title": "rise"}


def test_sweep_leaves_out_what_a_logarithm_cannot_show():
    lines = {"plain": [-1.0, 0.1, 1.0], "elr": [[0.01] * 3, [0.005] * 3, [0.02] * 3]}
    plot = sweep_panels({"all": lines}, [0.01, 0.1, 1.0], **AXES)
    assert [key.label for key in plot.keys] == ["plain", "elr", "interval over the draws"]
    assert "plain: −1 at 0.01, 0.1 at 0.1, 1 at 1" in plot.panels[0].label
    colors = assign_colors(["plain", "elr"])
    for name in ("plain", "elr"):
        assert f"var(--{colors[name].name}," in plot.panels[0].svg
    drawn = re.findall(r'd="(M[^"]*)"[^>]*style="[^"]*stroke:var\(--' + colors["plain"].name,
                       plot.panels[0].svg)  # fmt: skip
    assert any(len(re.findall(r"-?\d+\.?\d* -?\d+\.?\d*", path)) == 2 for path in drawn)


def test_sweep_of_nothing_above_zero_is_drawn_all_the_same():
    plot = sweep_panels({"all": {"plain": [-0.1, 0.0]}}, [0.1, 1.0], **AXES)
    assert "−0.1 at 0.1, 0 at 1" in plot.panels[0].label


@pytest.mark.parametrize(
    ("panels", "x", "message"),
    [
        ({}, [1.0], "nothing to plot"),
        ({"a": {"b": [1.0]}}, [0.0], "sizes above 0"),
        ({"a": {"b": [1.0, 2.0]}}, [1.0], "has shape"),
    ],
)
def test_sweep_refuses(panels, x, message):
    with pytest.raises(ValueError, match=message):
        sweep_panels(panels, x, **AXES)


def test_reliability_shows_bins_that_hold_samples():
    confidence = np.array([0.95, 0.92, 0.55, 0.58])
    curve = reliability_curve(confidence, np.array([1, 0, 1, 1]), 10)
    plot = reliability_diagram({"plain": curve})
    assert plot.panels[0].label == (
        "plain: accuracy by confidence. 100.0 % right where it is 56.5 % sure (2 samples), "
        "50.0 % right where it is 93.5 % sure (2 samples)."
    )
    kept = {name: [None if v != v else v for v in part.tolist()] for name, part in curve.items()}
    assert reliability_diagram({"plain": kept}).panels[0].svg == plot.panels[0].svg
    with pytest.raises(ValueError, match="nothing to plot"):
        reliability_diagram({})


def test_histograms_of_both_kinds():
    found = loss_histograms([0.1, 0.2, 3.0, 4.0], [0, 1, 0, 1], [0, 1, 1, 0], bins=4)
    plot = histogram_panels({"plain": found})
    assert "2 samples whose label is right, most near 0.5; 2 whose label is wrong" in (
        plot.panels[0].label
    )
    assert all(f"var(--{hue.name}," in plot.panels[0].svg for hue in HUES[:2])
    with pytest.raises(ValueError, match="one count for each bin"):
        histogram_panels({"plain": {**found, "clean": [1]}})
    with pytest.raises(ValueError, match="nothing to plot"):
        histogram_panels({})
