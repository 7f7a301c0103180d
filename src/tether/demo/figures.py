"""The runs in the form that the plots of a report take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tether import RegSL
from tether.demo.experiments import PLAIN
from tether.demo.summary import Results
from tether.report import Color, Plot
from tether.report.palette import MUTED
from tether.report.plots import dot_plot, feature_scatter, pca_axes, seed_band


def dots(
    results: Results, quantities: Mapping[str, tuple[str, bool]], colors: Mapping[str, Color]
) -> Plot:
    """Quantity -> title of the axis, and whether it is a share."""
    plot = Plot(())
    for quantity, (title, share) in quantities.items():
        plot += dot_plot(
            {method: results.values(method, quantity) for method in results.methods},
            x=title,
            percent=share,
            colors=colors,
            beside=len(quantities),
        )
    return plot


def curves(results: Results, *quantities: str) -> dict[str, dict[str, Any]]:
    """Mean and range over the seeds, by method."""
    epochs = np.arange(results.epochs + 1)
    return {
        method: {
            "epoch": epochs,
            **{quantity: seed_band(results.curves(method, quantity)) for quantity in quantities},
        }
        for method in results.methods
    }


def distances(results: Results, method: str) -> dict[str, tuple[float, float, float]]:
    """Mean, least and largest of every layer."""
    far = [run.distances for run in results.runs[method]]
    by_layer = {layer: [one[layer] for one in far] for layer in far[0]}
    return {layer: (float(np.mean(d)), min(d), max(d)) for layer, d in by_layer.items()}


def radii(results: Results) -> dict[str, dict[str, float]]:
    """Bounds of the methods that have some."""
    return {
        method: {
            "layer1": part.radius,
            "layer2": part.radius * part.growth,
            "head": part.head_radius,
        }
        for method in results.methods
        for part in results.experiment.make(method)
        if isinstance(part, RegSL) and part.radius is not None and part.head_radius is not None
    }


def scatter(results: Results, methods: Sequence[str], colors: Mapping[str, Color]) -> Plot:
    """The first seed: the pretrained features, which all methods share, and what came of them."""
    firsts = {method: results.runs[method][0] for method in methods}
    labels = firsts[PLAIN].labels
    clouds = {"pretrained": firsts[PLAIN].features["start"]}
    clouds |= {method: run.features["end"] for method, run in firsts.items()}
    plot = Plot(())
    for title, cloud in clouds.items():
        color = colors.get(title, MUTED)
        drawn = feature_scatter(
            {title: {"end": cloud}},
            labels["true"],
            pca_axes(cloud),
            wrong=labels["given"] != labels["true"],
            colors={title: color},
        )
        # one panel a method: its name is title enough
        alone = tuple(replace(panel, title=title, group="") for panel in drawn.panels)
        plot += replace(drawn, panels=alone)
    return plot
