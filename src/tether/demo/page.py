"""The page: what happened, in words, tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tether.demo.experiments import FEW_SHOT, NOISY, PLAIN
from tether.demo.summary import Results
from tether.methods.targets.regsl import RegSL
from tether.report import Cell, Color, Column, Fact, Page, Plot, assign_colors
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

TITLES = {
    NOISY.name: "Wrong labels: 400 training samples, 36 % of them labelled wrongly",
    FEW_SHOT.name: "Few labels: 10 training samples a class, all labelled rightly",
}

#: Heading, note, quantity, format, and which end of the column is the good one (None: neither).
Row = tuple[str, str, str, Callable[[float], str], Callable[..., float] | None]


def percent(value: float) -> str:
    """A share as a reader would write it.

    Example:
        >>> percent(0.6363)
        '63.6 %'
    """
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of two shares.

    Example:
        >>> points(0.2493), points(-0.012)
        ('+24.9 points', '−1.2 points')
    """
    return f"{100 * value:+.1f} points".replace("-", "\N{MINUS SIGN}")


def make_page(
    results: Mapping[str, Results], *, machine: Mapping[str, str], seconds: float, command: str
) -> Page:
    """The page of both experiments.

    Args:
        results: name of the experiment -> its results.
        machine: what the numbers were measured on.
        seconds: time that all runs took together.
        command: what makes the page again.
    """
    noisy, few = results[NOISY.name], results[FEW_SHOT.name]
    colors = assign_colors([*noisy.methods, *few.methods], neutral=PLAIN)
    page = Page(
        "Fine-tuning on wrong labels, and on few",
        "A small network that has learnt handwritten digits is fine-tuned on digits that look "
        "different: plainly, and with the methods of tether.",
        footer=_small_print(noisy, machine, seconds),
    )
    page.add_facts(
        Fact("Plain, wrong labels", percent(noisy.mean(PLAIN, "accuracy_last")), "test accuracy"),
        _gain("ELR, wrong labels", noisy, "ELR"),
        _gain("RegSL, wrong labels", noisy, "RegSL"),
        _gain("AdaRand, few labels", few, "AdaRand"),
    )
    _wrong_labels(page, noisy, colors)
    _features(page, noisy, colors)
    _few_labels(page, few, colors)
    _method(page, results, command)
    return page


def _gain(label: str, results: Results, method: str) -> Fact:
    gains = results.gains(method)
    ahead = sum(gain > 0 for gain in gains)
    return Fact(
        label,
        points(float(np.mean(gains))),
        f"over plain; ahead on {ahead} of {len(gains)} seeds",
    )


def _wrong_labels(page: Page, noisy: Results, colors: Mapping[str, Color]) -> None:
    last, best = noisy.mean(PLAIN, "accuracy_last"), noisy.mean(PLAIN, "accuracy_best")
    page.add_section("Wrong labels")
    page.add_text(
        "The network sees 400 digits of the new kind. Labels of 40 % of them are drawn at random, "
        "so that 36 % are wrong. It is tested on clean labels.",
        f"Plain fine-tuning reaches {percent(best)} in its best epoch and ends at {percent(last)}, "
        f"with {percent(noisy.mean(PLAIN, 'memorized'))} of the wrong labels learnt by heart. ELR "
        f"ends at {percent(noisy.mean('ELR', 'accuracy_last'))}, RegSL at "
        f"{percent(noisy.mean('RegSL', 'accuracy_last'))}. AdaRand is made for few labels that are "
        f"right, not for wrong ones: here it ends at "
        f"{percent(noisy.mean('AdaRand', 'accuracy_last'))}.",
    )
    _table(
        page,
        noisy,
        colors,
        [
            ("test accuracy", "last epoch", "accuracy_last", percent, max),
            ("test accuracy", "best epoch", "accuracy_best", percent, None),
            ("memorised", "wrong labels", "memorized", percent, min),
            ("precision", "of corrections", "correction_precision", percent, None),
            ("recall", "of corrections", "correction_recall", percent, None),
            ("feature norm", f"{noisy.mean(PLAIN, 'norm_before'):.1f} before", "norm", _one, None),
            ("seconds", "training", "seconds", _one, None),
        ],
        note="± is the standard deviation over the seeds. The best epoch is chosen on the test "
        "set, which nobody can do in practice: it shows what was lost by training on. Corrections "
        "are labels that a method puts in place of the given ones: precision is the share of them "
        "that are right, recall the share of wrong labels that are put right.",
    )
    page.add_figure(
        _dots(noisy, colors),
        "Test accuracy of every seed at the last epoch",
        "Each dot is one run. All methods start from the same network, with the same wrong labels "
        "and the same order of samples, on each seed.",
    )
    page.add_figure(
        memorization_curves(_curves(noisy, "test_accuracy", "clean_fitted", "memorized"), colors=colors),
        "Who fits what, and when",
        "Right labels are learnt within the first epochs by every method. Wrong labels are learnt "
        "later, by heart, and as they are, test accuracy is lost: a method that keeps the third "
        "panel low keeps the first one high.",
    )  # fmt: skip
    radii = _radii(noisy)
    bound = " RegSL may not go beyond its bounds." if radii else ""
    page.add_figure(
        distance_profile(
            {method: _distances(noisy, method) for method in noisy.methods},
            radii,
            reference=PLAIN,
            colors=colors,
            x="distance from the start",
        ),
        "How far every layer moved",
        "Frobenius norm of the change of each weight matrix; the new head has no pretrained value "
        "and is measured from zero. Learning wrong labels by heart takes long ways in weight "
        "space: methods that hold the weights back, L2-SP by a pull and RegSL by a hard bound, "
        f"leave no room for it.{bound} ELR needs no short way: it changes what is asked of the "
        "network, not how far it may go.",
    )


def _features(page: Page, noisy: Results, colors: Mapping[str, Color]) -> None:
    page.add_section("What became of the features")
    page.add_figure(
        _scatter(noisy, colors),
        "Features of the training samples, before and after",
        f"Seed {noisy.seeds[0]}. Each mark is a training sample in its true colour, a cross where "
        "its label is wrong, seen along the two main directions of the pretrained features. "
        "Crosses among dots of their own colour: the network sees what the digit is, whatever its "
        "label says. Crosses carried off to another colour: the wrong label was learnt by heart.",
    )
    page.add_figure(
        feature_curves(_curves(noisy, "norm", "entropy"), colors=colors),
        "Size and spread of the features on test samples",
        "The norm is the mean length of a feature vector, the entropy (in nats) says how far the "
        "vectors spread out. Fitting wrong labels stretches both; so does the growing confidence "
        "of ELR in labels that are right. Read them beside the accuracy, not instead of it.",
    )


def _few_labels(page: Page, few: Results, colors: Mapping[str, Color]) -> None:
    page.add_section("Few labels")
    before = few.mean(PLAIN, "norm_before")
    page.add_text(
        "Ten samples of each class, all labelled rightly, tested on the rest. Three methods that "
        "act on the features: FNP makes them small, RandReg draws them to random vectors N(0, I), "
        "AdaRand to random vectors whose distribution starts at what pretraining knew about each "
        "class and moves along.",
        f"Over plain fine-tuning ({percent(few.mean(PLAIN, 'accuracy_last'))}), AdaRand gains "
        f"{points(_mean_gain(few, 'AdaRand'))}, FNP {points(_mean_gain(few, 'FNP'))} and RandReg "
        f"{points(_mean_gain(few, 'RandReg'))}. What sets them apart is the features: their norm, "
        f"{before:.1f} after pretraining, ends at {few.mean('AdaRand', 'norm'):.1f} with AdaRand, "
        f"at {few.mean('FNP', 'norm'):.1f} with FNP and at {few.mean('RandReg', 'norm'):.1f} with "
        "RandReg. On a task as small as this, shrinking does no harm to accuracy; the published "
        "gains of AdaRand over both are on photographs and larger networks.",
    )
    _table(
        page,
        few,
        colors,
        [
            ("test accuracy", "last epoch", "accuracy_last", percent, max),
            ("test accuracy", "best epoch", "accuracy_best", percent, None),
            ("feature norm", f"{before:.1f} before", "norm", _one, None),
            ("entropy", f"{few.mean(PLAIN, 'entropy_before'):.0f} before", "entropy", _whole, None),
            ("seconds", "training", "seconds", _one, None),
        ],
        note="± is the standard deviation over the seeds.",
    )
    page.add_figure(
        _dots(few, colors),
        "Test accuracy of every seed at the last epoch",
        "Each dot is one run.",
    )
    page.add_figure(
        curve_panels(
            _curves(few, "test_accuracy"), {"test_accuracy": "Test accuracy"}, colors=colors,
            percent=True,
        )
        + feature_curves(_curves(few, "norm", "entropy"), colors=colors),
        "Accuracy, norm and entropy of the features",
        "FNP and RandReg press the features together within the first epochs: norm and entropy "
        "collapse, and never recover. Under AdaRand they stay near where pretraining left them.",
    )  # fmt: skip


def _method(page: Page, results: Mapping[str, Results], command: str) -> None:
    noisy = results[NOISY.name]
    page.add_section("How it was made")
    page.add_text(
        "Data: the 1797 digits of 8 x 8 pixels that come with scikit-learn. 900 are the source "
        "task, on which a network 64-256-64-10 with rectifiers is trained (30 epochs). The others, "
        "shifted by a column and transposed, are the target task; the network gets a new head.",
        "Every seed draws anew which digits are source, training and test samples, the pretrained "
        "network, the head, the wrong labels and the order of samples. All methods share these on "
        "one seed, and differences are taken seed by seed.",
        "Hyper-parameters were chosen on other seeds (from 100 on): one weight of 0.3, 1 or 3 for "
        "the methods on features, of 0.003, 0.01 or 0.03 for L2-SP, of 1, 3 or 7 for ELR, and one "
        "of five settings of the radii of RegSL. Optimiser and epochs are the same for all; a "
        "learning rate a quarter as large would let plain fine-tuning memorise little within the "
        "same epochs, as would stopping early. What follows shows what long training does.",
    )
    for result in results.values():
        page.add_table(
            ["method", "options"],
            [[method, result.options(method) or None] for method in result.methods],
            f"{TITLES[result.experiment.name].partition(':')[0]}: {result.experiment.recipe}; "
            f"{result.epochs} epochs.",
        )
    seeds = noisy.seeds
    words = f"seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"
    page.add_code(command, f"This page, from {words}, is made again by:")


def _table(
    page: Page, results: Results, colors: Mapping[str, Color], rows: list[Row], note: str
) -> None:
    columns = [Column("method"), *(Column(head, align="right", note=sub) for head, sub, *_ in rows)]
    goals = {
        quantity: best([results.mean(method, quantity) for method in results.methods])
        for _, _, quantity, _, best in rows
        if best is not None
    }
    cells: list[list[object]] = []
    for method in results.methods:
        line: list[object] = [Cell(method, color=colors[method])]
        for _, _, quantity, show, _ in rows:
            mean, spread = results.mean(method, quantity), results.spread(method, quantity)
            line.append(
                Cell(
                    None if np.isnan(mean) else show(mean),
                    strong=goals.get(quantity) == mean,
                    note=""
                    if np.isnan(spread) or quantity == "seconds"
                    else f"± {_bare(show, spread)}",
                )
            )
        cells.append(line)
    seeds = f"Means over {len(results.seeds)} seeds" if len(results.seeds) > 1 else "One seed"
    page.add_table(columns, cells, f"{seeds}, {results.epochs} epochs.", note=note)


def _dots(results: Results, colors: Mapping[str, Color]) -> Plot:
    values = {method: results.values(method, "accuracy_last") for method in results.methods}
    return dot_plot(values, x="test accuracy", percent=True, colors=colors)


def _curves(results: Results, *quantities: str) -> dict[str, dict[str, Any]]:
    """Mean and range over the seeds, by method."""
    epochs = np.arange(results.epochs + 1)
    return {
        method: {
            "epoch": epochs,
            **{quantity: seed_band(results.curves(method, quantity)) for quantity in quantities},
        }
        for method in results.methods
    }


def _distances(results: Results, method: str) -> dict[str, tuple[float, float, float]]:
    runs = results.runs[method]
    return {
        layer: (float(np.mean(far)), min(far), max(far))
        for layer in runs[0].distances
        for far in [[run.distances[layer] for run in runs]]
    }


def _radii(results: Results) -> dict[str, dict[str, float]]:
    """Bounds of the methods that have some."""
    found = {}
    for method, make in results.experiment.methods.items():
        for one in make():
            if isinstance(one, RegSL) and one.radius is not None and one.head_radius is not None:
                found[method] = {
                    "layer1": one.radius,
                    "layer2": one.radius * one.growth,
                    "head": one.head_radius,
                }
    return found


def _scatter(results: Results, colors: Mapping[str, Color]) -> Plot:
    """The first seed: the pretrained features, which all methods share, and what came of them."""
    firsts = {method: runs[0] for method, runs in results.runs.items()}
    start = firsts[PLAIN].features["start"]
    noisy = results.experiment.task(results.seeds[0]).noisy
    return feature_scatter(
        {m: {"start": start, "end": firsts[m].features["end"]} for m in (PLAIN, "ELR", "RegSL")},
        noisy.true.numpy(),
        pca_axes(start),
        wrong=noisy.mask.numpy(),
        colors=colors,
    )


def _small_print(results: Results, machine: Mapping[str, str], seconds: float) -> str:
    versions = ", ".join(
        f"{name} {machine[name]}"
        for name in ("tether", "python", "torch", "numpy", "scikit-learn")
        if name in machine
    )
    return (
        f"{len(results.seeds)} seeds from {results.seeds[0]} on; {seconds:.0f} seconds on "
        f"{machine['processor']} ({machine['cores']} cores, at most two used, {machine['system']}); "
        f"{versions}."
    )


def _mean_gain(results: Results, method: str) -> float:
    return float(np.mean(results.gains(method)))


def _one(value: float) -> str:
    return f"{value:.1f}"


def _whole(value: float) -> str:
    return f"{value:.0f}"


def _bare(show: Callable[[float], str], value: float) -> str:
    """A spread in the unit of its mean."""
    return show(value).removesuffix(" %")
