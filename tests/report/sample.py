"""A page with every kind of block, from invented numbers; also run as a script."""

import sys

import numpy as np

from tether.report import Cell, Column, Fact, Page, assign_colors
from tether.report.plots import (
    distance_profile,
    dot_plot,
    feature_curves,
    feature_scatter,
    memorization_curves,
    pca_axes,
    seed_band,
)

METHODS = [
    "plain",
    "elr",
    "adarand",
    "layerwise constraint",
    "mixup",
    "self-distillation",
    "co-teaching",
    "l2-sp",
]
LAYERS = ["stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "norm", "head"]
EPOCHS = np.arange(31)
FIGURES = 6


def _runs(rng, curve, noise=0.015):
    noisy = [curve + noise * rng.normal(size=curve.size) for _ in range(3)]
    return seed_band(np.clip(noisy, 0, 1))


def _curves(rng, place):
    memorized = 0.9 * (1 - np.exp(-np.maximum(EPOCHS - 6, 0) / 9)) * (1 - 0.11 * place)
    learned = 1 - np.exp(-EPOCHS / 2.5)
    return {
        "epoch": EPOCHS,
        "test_accuracy": _runs(rng, 0.93 * learned - 0.3 * memorized),
        "clean_fitted": _runs(rng, learned),
        "memorized": _runs(rng, memorized),
        "resisted": _runs(rng, learned * (1 - memorized)),
        "norm": _runs(rng, 0.3 + 0.02 * place + 0.3 * learned),
        "entropy": _runs(rng, 0.9 - 0.5 * learned),
    }


def sample_page(methods=METHODS):
    rng = np.random.default_rng(0)
    colors = assign_colors(methods, neutral=methods[0])
    curves = {method: _curves(rng, place) for place, method in enumerate(methods)}
    results = {m: list(0.6 + 0.04 * k + 0.01 * rng.normal(size=5)) for k, m in enumerate(methods)}
    profiles = {
        method: {
            layer: (0.9 * far, far, 1.1 * far)
            for layer, far in zip(LAYERS, 0.05 * 2.0 ** np.arange(7) * (1 - 0.1 * k), strict=True)
        }
        for k, method in enumerate(methods)
    }
    classes = rng.integers(0, 10, 300)
    centres = rng.normal(size=(10, 16))
    start = centres[classes] + rng.normal(size=(300, 16))
    end = 2 * centres[classes] + 0.5 * rng.normal(size=(300, 16))

    page = Page(
        "Digits with 35 % wrong labels", "Eight methods, five seeds.", footer="Seeds 0 to 4."
    )
    page.add_facts(Fact("Best test accuracy", "91.3 %", "mean of 5 seeds"), Fact("Time", "41 s"))
    page.add_section("In short")
    page.add_text("What happened.", "What it means.")
    page.add_table(
        ["method", Column("test accuracy", ".1%", note="last epoch"), "seeds", "paper", "remark"],
        [
            [
                Cell(method, color=colors[method]),
                Cell(np.mean(results[method]), note="± 0.1", strong=True),
                5,
                "arXiv:0000.00000",
                "a remark that makes this table wider than a phone",
            ]
            for method in methods
        ],
        "Results at the last epoch.",
        note="Higher is better.",
    )
    page.add_figure(
        dot_plot(results, x="test accuracy", percent=True, colors=colors),
        "Test accuracy of every seed",
        "Each dot is one run.",
    )
    page.add_section("Memorisation")
    marks = {"early learning ends": 7, "learning rate falls": 20}
    page.add_figure(
        memorization_curves(curves, marks=marks, colors=colors),
        "Who fits the wrong labels, and when",
        "Memorisation rises after epoch 7.",
    )
    page.add_figure(
        memorization_curves(
            {method: curves[method] for method in methods[:3]},
            marks=[7],
            by="label",
            colors=colors,
        ),
        "Method by method",
        "Solid against dotted.",
    )
    page.add_section("Features")
    page.add_figure(
        feature_curves(curves, colors=colors), "Norm and entropy", "The norm grows everywhere."
    )
    page.add_figure(
        feature_scatter(
            {method: {"start": start, "end": end} for method in methods[:3]},
            classes,
            pca_axes(start),
            wrong=rng.random(300) < 0.35,
            colors=colors,
        ),
        "Features before and after",
        "Classes tighten.",
    )
    page.add_section("Distances")
    page.add_figure(
        distance_profile(
            profiles,
            {methods[3]: dict.fromkeys(LAYERS, 1.0)},
            reference=methods[0],
            log=True,
            colors=colors,
        ),
        "How far each layer moved",
        "Late layers move most.",
    )
    page.add_code("tether tune " + "--option value " * 20, "Repeat a run:")
    return page


if __name__ == "__main__":
    sample_page().write(sys.argv[1])
