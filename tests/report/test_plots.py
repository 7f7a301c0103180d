import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tether.report import Key, assign_colors
from tether.report.palette import CATEGORICAL, INK
from tether.report.plots import (
    curve_panels,
    distance_profile,
    dot_plot,
    feature_curves,
    feature_scatter,
    memorization_curves,
    pca_axes,
    seed_band,
)
from tether.report.svg import embed, render


def elements(svg, tag):
    return list(ElementTree.fromstring(svg).iter(tag))


def texts(svg):
    return [element.text for element in elements(svg, "text")]


def styled(svg, tag, variable, needle=""):
    return [
        element
        for element in elements(svg, tag)
        if f"var(--{variable}," in element.get("style", "") and needle in element.get("style", "")
    ]


def numbers(path):
    return np.array([float(part) for part in re.findall(r"-?\d+\.?\d*", path.get("d"))])


def curve(last=1.0, epochs=5):
    line = np.linspace(0, last, epochs)
    return (line, line - 0.05, line + 0.05)


CURVES = {
    "plain": {"epoch": range(5), "test_accuracy": curve(0.6), "memorized": curve(0.9)},
    "elr": {"epoch": range(5), "test_accuracy": curve(0.9), "memorized": curve(0.2)},
}


# --- svg ---------------------------------------------------------------------------------------


def test_drawings_are_lean():
    svg = render(300, 200, lambda axes: axes.plot([0, 1, 2], [1, 3, 2], "o", color=INK.light))
    assert "<?xml" not in svg and "xmlns" not in svg and "metadata" not in svg
    assert "font-family" not in svg and "<style" not in svg and "<image" not in svg
    assert not re.search(r"\d\.\d{3}", svg)
    ids = re.findall(r' id="([^"]*)"', svg)
    assert all(f"#{name}" in svg for name in ids)
    assert ElementTree.fromstring(svg).get("viewBox") == "0 0 300 200"


def test_colours_follow_the_page():
    def paint(axes):
        for place, color in enumerate(CATEGORICAL):
            axes.plot([0, 1], [place, place], color=color.light)

    svg = render(300, 200, paint)
    for color in CATEGORICAL:
        assert len(styled(svg, "path", color.name, "stroke:")) == 1
    bare = re.sub(r"var\(--[a-z0-9-]+,#[0-9a-f]{6}\)", "", svg)
    assert "#" not in re.sub(r'(href="|url\()#', "", bare)


def test_embedding_names_and_prefixes():
    svg = embed(dot_plot({"a": [1.0, 2.0]}).panels[0].svg, "figure-1-", 'say "hi" <b>')
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == 'say "hi" <b>'
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    assert ids and all(name.startswith("figure-1-") for name in ids)
    uses = {element.get("href")[1:] for element in root.iter("use")}
    assert uses and uses <= ids


# --- curves ------------------------------------------------------------------------------------


def test_a_panel_per_quantity_with_a_line_and_a_band_per_method():
    colors = assign_colors(CURVES)
    plot = memorization_curves(CURVES, colors=colors, marks={"turn": 2})
    assert [panel.title for panel in plot.panels] == ["Test accuracy", "Wrong labels memorised"]
    for panel in plot.panels:
        for color in colors.values():
            assert len(styled(panel.svg, "path", color.name, "fill:none")) == 1
            assert len(styled(panel.svg, "path", color.name, "opacity:0.16")) == 1
        assert "turn" in texts(panel.svg)
    assert [key.label for key in plot.keys] == ["plain", "elr", "spread over the seeds"]
    assert "elr: from 0.0 % to 20.0 %, at most 20.0 %" in plot.panels[1].label


def test_lines_are_where_the_data_are():
    svg = (
        memorization_curves({"a": {"epoch": [0, 1, 2], "memorized": [0.0, 1.0, 0.5]}}).panels[0].svg
    )
    (line,) = styled(svg, "path", "hue-1", "fill:none")
    x, y = numbers(line).reshape(-1, 2).T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert y[0] - y[2] == pytest.approx(y[2] - y[1], abs=0.2)
    assert y[1] < y[2] < y[0]


def test_a_panel_per_method_tells_quantities_by_dash():
    plot = memorization_curves(CURVES, by="label")
    assert [panel.title for panel in plot.panels] == ["plain", "elr"]
    assert [key.color.dash for key in plot.keys[:2]] == ["solid", "dashed"]
    lines = styled(plot.panels[0].svg, "path", "hue-1", "fill:none")
    assert ["stroke-dasharray" in line.get("style") for line in lines] == [False, True]


def test_feature_curves_leave_out_what_nobody_has():
    plot = feature_curves({"a": {"epoch": [0, 1, 2], "norm": [1.0, 10.0, 100.0]}}, log=True)
    assert [panel.title for panel in plot.panels] == ["Feature norm"]
    (line,) = styled(plot.panels[0].svg, "path", "hue-1", "fill:none")
    coordinates = numbers(line)
    steps = np.diff(coordinates[1::2]) if coordinates.size == 6 else np.array([coordinates[3]])
    assert coordinates.size in (4, 6)  # a straight line may lose its middle
    assert (steps != 0).all()
    assert {"1", "10", "100"} <= set(texts(plot.panels[0].svg))


@pytest.mark.parametrize(
    "values",
    [
        [np.nan, 0.5, np.nan, 0.7, 0.8],
        [np.nan] * 5,
        (np.full(5, 0.5), np.array([0.4, 0.4, np.nan, 0.4, 0.4]), np.full(5, 0.6)),
        [0.0] * 5,
    ],
)
@pytest.mark.parametrize("log", [False, True])
def test_gaps_and_flat_curves_are_drawn(values, log):
    curves = {"a": {"epoch": range(5), "q": values}}
    svg = curve_panels(curves, {"q": "Q"}, log=log).panels[0].svg
    assert "nan" not in svg and "inf" not in svg


def test_one_epoch_is_a_dot():
    svg = memorization_curves({"a": {"epoch": [3], "memorized": [0.5]}}).panels[0].svg
    assert styled(svg, "use", "hue-1")


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({}, "nothing to plot"),
        ({"a": {"epoch": [0, 1]}}, "no curve has any of"),
        ({"a": {"memorized": [0, 1]}}, "lack 'epoch'"),
        ({"a": {"epoch": [0, 1, 2], "memorized": [0, 1]}}, "has 2 values for 3 of 'epoch'"),
        ({"a": {"epoch": [0, 1], "memorized": [[0, 1], [0, 1]]}}, r"shape \(2, 2\)"),
    ],
)
def test_bad_curves_are_explained(curves, message):
    with pytest.raises(ValueError, match=message):
        memorization_curves(curves)


def test_a_label_without_colour_is_an_error():
    with pytest.raises(ValueError, match=r"no colour for \['elr'\]"):
        memorization_curves(CURVES, colors=assign_colors(["plain"]))


@given(
    arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 8)), elements=st.floats(-9, 9))
)
def test_seed_band_encloses_every_seed(runs):
    mean, low, high = seed_band(runs)
    assert (low <= runs).all() and (runs <= high).all()
    np.testing.assert_allclose(mean, runs.mean(axis=0), atol=1e-12)
    middle, below, above = seed_band(runs, spread="sd")
    deviation = runs.std(axis=0, ddof=1) if len(runs) > 1 else 0 * mean
    np.testing.assert_allclose([middle - below, above - middle], [deviation] * 2, atol=1e-9)


def test_seed_band_skips_what_is_missing():
    mean, low, high = seed_band([[1.0, np.nan], [3.0, np.nan]])
    assert (mean[0], low[0], high[0]) == (2.0, 1.0, 3.0)
    assert np.isnan([mean[1], low[1], high[1]]).all()
    with pytest.raises(ValueError, match="seeds, epochs"):
        seed_band([1.0, 2.0])


# --- bars and dots -----------------------------------------------------------------------------


def bars(svg, variable):
    found = styled(svg, "path", variable, "fill:var")
    return [np.ptp(numbers(path)[::2]) for path in found]


def test_bars_are_as_long_as_the_distances_in_order_of_depth():
    plot = distance_profile({"a": {"stem": 1.0, "mid": 2.0, "head": 4.0}, "b": {"head": 2.0}})
    lengths = bars(plot.panels[0].svg, "hue-1")
    np.testing.assert_allclose(np.array(lengths) / lengths[0], [1, 2, 4], rtol=0.02)
    assert texts(plot.panels[0].svg)[-3:] == ["stem", "mid", "head"]
    assert max(bars(plot.panels[1].svg, "hue-2")) == pytest.approx(lengths[1], abs=0.2)
    assert "stem missing" in plot.panels[1].label


def test_log_bars_grow_by_equal_steps():
    lengths = bars(
        distance_profile({"a": {"x": 0.01, "y": 0.1, "z": 1.0}}, log=True).panels[0].svg, "hue-1"
    )
    assert lengths[1] - lengths[0] == pytest.approx(lengths[2] - lengths[1], abs=0.3)
    zero = distance_profile({"a": {"x": 0.0, "y": 1.0}}, log=True).panels[0].svg
    assert "nan" not in zero and "inf" not in zero


def test_bounds_and_reference_are_drawn_only_where_they_belong():
    profiles = {"plain": {"x": 1.0, "y": 2.0}, "held": {"x": 0.5, "y": 1.0}}
    plot = distance_profile(profiles, {"held": {"y": 1.0, "x": np.inf}}, reference="plain")
    ticks = [styled(panel.svg, "path", "ink", "stroke-width:2.5") for panel in plot.panels]
    assert [len(tick) for tick in ticks] == [0, 1]
    outlines = [styled(panel.svg, "path", "muted", "fill:none") for panel in plot.panels]
    assert [len(outline) for outline in outlines] == [0, 2]
    assert [key.label for key in plot.keys] == ["plain, for comparison", "bound of the constraint"]
    assert "y 1 (bound 1)" in plot.panels[1].label
    right = styled(plot.panels[1].svg, "path", "hue-2", "fill:var")[1]
    assert numbers(ticks[1][0])[0] == pytest.approx(numbers(right)[::2].max(), abs=0.2)


def test_spread_over_seeds_is_a_whisker():
    plot = distance_profile({"a": {"x": (2.0, 1.0, 3.0)}})
    (whisker,) = styled(plot.panels[0].svg, "path", "ink", "stroke-width:1.2")
    (bar,) = bars(plot.panels[0].svg, "hue-1")
    assert np.ptp(numbers(whisker)[::2]) == pytest.approx(bar, abs=0.2)


def test_bad_profiles_are_explained():
    with pytest.raises(ValueError, match="'b' is not among the profiles"):
        distance_profile({"a": {"x": 1.0}}, {"b": {"x": 1.0}})
    with pytest.raises(ValueError, match="number or"):
        distance_profile({"a": {"x": (1.0, 2.0)}})


def test_every_seed_is_a_dot_and_the_mean_is_written():
    plot = dot_plot({"plain": [0.60, 0.64, np.nan], "elr": [0.9] * 5}, x="accuracy", percent=True)
    svg = plot.panels[0].svg
    assert len(styled(svg, "use", "hue-1")) == 2
    dots = [(use.get("x"), use.get("y")) for use in styled(svg, "use", "hue-2")]
    assert len(set(dots)) == 5  # equal results stay visible
    assert {"62.0 %", "90.0 %"} <= set(texts(svg))
    assert "over 2 seeds, 1 failed" in plot.panels[0].label
    assert plot.keys[0] == Key("one seed", plot.keys[0].color, "dot")


def test_dots_of_nothing():
    assert "no values" in dot_plot({"a": [], "b": [np.nan]}).panels[0].label
    with pytest.raises(ValueError, match="nothing to plot"):
        dot_plot({})


def test_plots_add_up():
    one = dot_plot({"a": [1.0]}, title="One", beside=2)
    both = one + dot_plot({"a": [2.0]}, title="Two", beside=2)
    assert [panel.title for panel in both.panels] == ["One", "Two"]
    assert both.keys == one.keys


# --- features ----------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 1000))
def test_pca_axes_against_the_covariance(n, d, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) * rng.uniform(0.5, 3, size=d) + 5
    axes = pca_axes(features)
    projected = axes.project(features)
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-9)
    values = np.sort(np.linalg.eigvalsh(np.atleast_2d(np.cov(features.T))))[::-1][:2]
    expected = np.zeros(2)
    expected[: values.size] = values
    np.testing.assert_allclose(projected.var(axis=0, ddof=1), expected, atol=1e-8)
    np.testing.assert_allclose(axes.directions[0] @ axes.directions[1], 0, atol=1e-9)
    mirrored = pca_axes(features[::-1])
    np.testing.assert_allclose(mirrored.directions[0], axes.directions[0], atol=1e-6)


def test_pca_axes_refuse_what_has_no_axes():
    for bad in ([[1.0, 2.0]], [1.0, 2.0], [[np.nan, 1.0], [0.0, 1.0]]):
        with pytest.raises(ValueError, match="finite and have shape"):
            pca_axes(bad)
    assert pca_axes(np.ones((4, 3))).explained.tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match=r"shape \(n, 3\)"):
        pca_axes(np.eye(3)).project(np.ones((2, 4)))


def dots(svg, variable):
    return sum(path.get("d").count("h0") for path in styled(svg, "path", variable))


def test_scatter_draws_every_sample_once_on_common_axes():
    rng = np.random.default_rng(0)
    start = rng.normal(size=(40, 5))
    classes = np.arange(40) % 4
    wrong = np.arange(40) < 12
    plot = feature_scatter(
        {"plain": {"start": start, "end": 2 * start}, "elr": {"start": start, "end": start}},
        classes,
        pca_axes(start),
        class_names=["cat", "dog", "cow", "owl"],
        wrong=wrong,
    )
    titles = [(panel.group, panel.title) for panel in plot.panels]
    assert titles == [("plain", "start"), ("plain", "end"), ("elr", "start"), ("elr", "end")]
    assert [len(members) for _, members in plot.groups()] == [2, 2]
    for panel in plot.panels:
        assert [dots(panel.svg, f"hue-{k}") for k in (1, 2, 3, 4)] == [7] * 4
        assert set(texts(panel.svg)) == {"cat", "dog", "cow", "owl"}
    first, last = plot.panels[2].svg, plot.panels[3].svg
    assert first == last == plot.panels[0].svg
    assert plot.panels[1].svg != plot.panels[0].svg
    names = [key.label for key in plot.keys]
    assert names == ["cat", "dog", "cow", "owl", "label is wrong"]


def test_scatter_thins_large_sets_and_refuses_other_lengths():
    features = np.random.default_rng(0).normal(size=(1000, 3))
    axes = pca_axes(features)
    plot = feature_scatter({"a": {"end": features}}, np.zeros(1000), axes, max_points=100)
    assert dots(plot.panels[0].svg, "hue-1") == 100
    with pytest.raises(ValueError, match="one row per sample"):
        feature_scatter({"a": {"end": features}}, np.zeros(9), axes)
    with pytest.raises(ValueError, match="between 0 and 1"):
        feature_scatter({"a": {"end": features}}, np.full(1000, 2), axes, class_names=["x", "y"])
