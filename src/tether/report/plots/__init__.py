"""Figures of a report: pure functions from plain numbers to `Plot`.

A figure is a few small panels with one legend. The page arranges the panels by the width of the
screen, so they stay legible on a phone. Every panel carries a sentence that says what it shows.
Pass the same `colors` to all plots of a page and every method keeps its colour.
"""

from tether.report.plots.bars import distance_profile
from tether.report.plots.classes import class_differences
from tether.report.plots.curves import curve_panels, feature_curves, memorization_curves, seed_band
from tether.report.plots.dots import dot_plot
from tether.report.plots.histograms import histogram_panels
from tether.report.plots.ranks import rank_plot
from tether.report.plots.reliability import reliability_diagram
from tether.report.plots.scaling import scaling_curves
from tether.report.plots.scatter import PCAAxes, feature_scatter, pca_axes
from tether.report.plots.sensitivity import Trials, sensitivity_scatter
from tether.report.plots.sweeps import sweep_panels

__all__ = [
    "PCAAxes",
    "Trials",
    "class_differences",
    "curve_panels",
    "distance_profile",
    "dot_plot",
    "feature_curves",
    "feature_scatter",
    "histogram_panels",
    "memorization_curves",
    "pca_axes",
    "rank_plot",
    "reliability_diagram",
    "scaling_curves",
    "seed_band",
    "sensitivity_scatter",
    "sweep_panels",
]
