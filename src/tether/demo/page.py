"""The page: what happened, in words, tables and pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping

import numpy as np

from tether.demo.experiments import FEW_SHOT, NOISY, PLAIN
from tether.demo.figures import curves, distances, dots, radii, scatter
from tether.demo.summary import Results
from tether.report import Cell, Color, Column, Fact, Page, assign_colors
from tether.report.plots import distance_profile, feature_curves, memorization_curves


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
        Fact(
            "Plain, wrong labels",
            percent(noisy.mean(PLAIN, "accuracy_last")),
            f"test accuracy at the end; {percent(noisy.mean(PLAIN, 'accuracy_best'))} at its best",
        ),
        _gain("ELR, wrong labels", noisy, "ELR"),
        _gain("RegSL, wrong labels", noisy, "RegSL"),
        _gain("AdaRand, few labels", few, "AdaRand"),
    )
    _wrong_labels(page, noisy, colors)
    _features(page, noisy, colors)
    _few_labels(page, few, colors)
    _how_made(page, results, command)
    return page


# -- the sections ----------------------------------------------------------------------------------


def _wrong_labels(page: Page, noisy: Results, colors: Mapping[str, Color]) -> None:
    ends = {method: percent(noisy.mean(method, "accuracy_last")) for method in noisy.methods}
    page.add_section("Wrong labels")
    page.add_text(
        f"The network sees 400 digits of the new kind. {percent(noisy.wrong_share, 0)} of their "
        "labels are wrong, drawn at random. It is tested on other digits, with clean labels.",
        f"Plain fine-tuning reaches {percent(noisy.mean(PLAIN, 'accuracy_best'))} in its best "
        f"epoch and ends at {ends[PLAIN]}, with {percent(noisy.mean(PLAIN, 'memorized'))} of the "
        f"wrong labels learnt by heart. ELR ends at {ends['ELR']}, RegSL at {ends['RegSL']}"
        f"{_if_close(noisy, 'ELR', 'RegSL')}, and L2-SP at {ends['L2-SP']}. AdaRand is made for "
        "few labels that are right, not for wrong ones: it lets "
        f"{percent(noisy.mean('AdaRand', 'memorized'))} of them be learnt by heart and ends at "
        f"{ends['AdaRand']}.",
    )
    _table(
        page,
        noisy,
        colors,
        {
            "accuracy_last": ("test accuracy", "last epoch", percent),
            "accuracy_best": ("test accuracy", "best epoch", percent),
            "memorized": ("memorised", "wrong labels", percent),
            "correction_precision": ("precision", "of corrections", percent),
            "correction_recall": ("recall", "of corrections", percent),
            "norm": ("feature norm", f"{noisy.mean(PLAIN, 'norm_before'):.1f} before", _one),
            "seconds": ("seconds", "training", _one),
        },
        note="± is the standard deviation over the seeds. The best epoch is chosen on the test "
        "set, which nobody can do in practice: it shows what was lost by training on. Corrections "
        "are labels that a method puts in place of the given ones: precision is the share of them "
        "that are right, recall the share of wrong labels that are put right.",
    )
    page.add_figure(
        dots(
            noisy,
            {
                "accuracy_last": ("test accuracy, last epoch", True),
                "memorized": ("wrong labels memorised, last epoch", True),
            },
            colors,
        ),
        "Every seed",
        "On each seed all methods start from the same network and see the same wrong labels in "
        "the same order.",
    )
    page.add_figure(
        memorization_curves(
            curves(noisy, "test_accuracy", "clean_fitted", "memorized"), colors=colors
        ),
        "Who fits what, and when",
        "Correct labels are fitted in the first epochs, by every method. Wrong labels follow "
        "later, by heart, and test accuracy is lost with them: a method whose third panel stays "
        "low keeps what the first one gained.",
    )
    page.add_figure(
        distance_profile(
            {method: distances(noisy, method) for method in noisy.methods},
            radii(noisy),
            reference=PLAIN,
            colors=colors,
            x="distance from the start",
        ),
        "How far every layer moved",
        "Frobenius norm of the change of each weight matrix; the new head has no pretrained value "
        "and is measured from zero. L2-SP pulls the weights back and RegSL sets them a bound, "
        "which leaves little room for learning by heart. ELR goes as far as plain fine-tuning: it "
        "changes what the network is asked, not how far it may go.",
    )


def _features(page: Page, noisy: Results, colors: Mapping[str, Color]) -> None:
    page.add_section("What became of the features")
    page.add_figure(
        scatter(noisy, (PLAIN, "ELR", "RegSL"), colors),
        "Features of the training samples, before and after",
        f"Seed {noisy.seeds[0]}, each panel along the two main directions of its own features. "
        "The colour is the true class, a cross stands where the label is wrong. Crosses among "
        "dots of their colour: the network sees what the digit is, whatever its label says. "
        "Crosses strewn among other colours: it has learnt to tell the wrong labels.",
    )
    page.add_figure(
        feature_curves(curves(noisy, "norm", "entropy"), colors=colors),
        "Size and spread of the features on test samples",
        "The norm is the mean length of a feature vector; the entropy, in nats, says how far the "
        "vectors spread out. Both grow with confidence, in right labels as in wrong ones: read "
        "them beside the accuracy, not instead of it.",
    )


def _few_labels(page: Page, few: Results, colors: Mapping[str, Color]) -> None:
    norm = {method: few.mean(method, "norm") for method in few.methods}
    before = few.mean(PLAIN, "norm_before")
    page.add_section("Few labels")
    page.add_text(
        "Ten samples of each class, all labelled rightly; the other digits of the new kind are the "
        "test. Three methods act on the features: FNP makes them small, RandReg draws them to "
        "random vectors N(0, I), AdaRand to random vectors of each class, whose distribution "
        "starts at what the pretrained network made of that class and moves along.",
        f"Plain fine-tuning ends at {percent(few.mean(PLAIN, 'accuracy_last'))}. AdaRand gains "
        f"{points(_mean_gain(few, 'AdaRand'))}, FNP {points(_mean_gain(few, 'FNP'))} and RandReg "
        f"{points(_mean_gain(few, 'RandReg'))}{_if_close(few, 'AdaRand', 'FNP', 'RandReg')}. "
        f"What sets them apart is the features: their norm, {before:.1f} after pretraining, ends "
        f"at {norm['AdaRand']:.1f} with AdaRand, at {norm['FNP']:.1f} with FNP and at "
        f"{norm['RandReg']:.1f} with RandReg. In a task as small as this one, shrinking them does "
        "no harm.",
    )
    _table(
        page,
        few,
        colors,
        {
            "accuracy_last": ("test accuracy", "last epoch", percent),
            "accuracy_best": ("test accuracy", "best epoch", percent),
            "norm": ("feature norm", f"{before:.1f} before", _one),
            "entropy": ("entropy", f"{few.mean(PLAIN, 'entropy_before'):.0f} before", _whole),
            "seconds": ("seconds", "training", _one),
        },
        note="± is the standard deviation over the seeds.",
    )
    page.add_figure(
        dots(
            few,
            {
                "accuracy_last": ("test accuracy, last epoch", True),
                "norm": ("feature norm, last epoch", False),
            },
            colors,
        ),
        "Every seed",
        "Seeds differ in the ten samples of each class, and some lots are luckier than others: "
        "compare methods seed by seed.",
    )
    page.add_figure(
        feature_curves(curves(few, "norm", "entropy"), colors=colors),
        "Size and spread of the features on test samples",
        f"FNP and RandReg, whose curves lie on each other, press the features together: the norm "
        f"falls from {before:.1f} to {norm['FNP']:.1f}, the entropy from "
        f"{few.mean(PLAIN, 'entropy_before'):.0f} to {few.mean('FNP', 'entropy'):.0f} nats. Under "
        f"AdaRand they end at {norm['AdaRand']:.1f} and {few.mean('AdaRand', 'entropy'):.0f}, "
        f"under plain fine-tuning at {norm[PLAIN]:.1f} and {few.mean(PLAIN, 'entropy'):.0f}.",
    )


def _how_made(page: Page, results: Mapping[str, Results], command: str) -> None:
    page.add_section("How it was made")
    page.add_text(
        "Data: the 1797 digits of 8 x 8 pixels that come with scikit-learn. A network 64-256-64-10 "
        "with rectifiers learns 900 of them (30 epochs of SGD). The others, shifted by a column "
        "and transposed, are the digits of the new kind; for them the network gets a new head.",
        "Every seed draws anew which digits are for pretraining, training and test, the pretrained "
        "network, the head, the wrong labels and the order of samples. All methods share these on "
        "one seed, and gains are differences on one seed.",
        "Hyper-parameters were chosen on other seeds, from 100 on: the weight of the methods on "
        "features from 0.3, 1 and 3, of L2-SP from 0.003, 0.01 and 0.03, of ELR from 1, 3 and 7. "
        "The radii of RegSL are about a fifth and a third of the distances that plain fine-tuning "
        "went on those seeds. Optimiser and epochs are the same for all, and long enough to "
        "memorise. There are other remedies: with a quarter of the learning "
        "rate, plain fine-tuning ended near 85 % on those seeds, and stopping early helps whoever "
        "has clean labels to tell when.",
    )
    for result in results.values():
        page.add_code(
            "\n".join(_recipe(result)),
            f"{result.experiment.title}: {result.experiment.recipe}, {result.epochs} epochs",
        )
    page.add_code(command, "This page is made again by")


# -- pieces ----------------------------------------------------------------------------------------


def _table(
    page: Page,
    results: Results,
    colors: Mapping[str, Color],
    columns: Mapping[str, tuple[str, str, Callable[[float], str]]],
    note: str,
) -> None:
    """Quantity -> header, words under it, and how its numbers are written."""

    def cell(method: str, quantity: str, write: Callable[[float], str]) -> Cell:
        mean, spread = results.mean(method, quantity), results.spread(method, quantity)
        shown = None if np.isnan(mean) else write(mean)
        known = not np.isnan(spread) and quantity != "seconds"
        return Cell(shown, note=f"± {write(spread).removesuffix(' %')}" if known else "")

    page.add_table(
        ["method", *(Column(head, align="right", note=sub) for head, sub, _ in columns.values())],
        [
            [
                Cell(method, color=colors[method]),
                *(cell(method, quantity, write) for quantity, (_, _, write) in columns.items()),
            ]
            for method in results.methods
        ],
        f"{_seeds(results)}, {results.epochs} epochs",
        note=note,
    )


def _recipe(results: Results) -> list[str]:
    """Every method as code, long ones broken."""
    margin = 2 + max(map(len, results.methods))
    lines = []
    for method in results.methods:
        code = results.options(method) or "attach(model, [], optimizer)"
        lines += textwrap.wrap(
            code, 88, initial_indent=method.ljust(margin), subsequent_indent=" " * (margin + 4)
        )
    return lines


def _gain(label: str, results: Results, method: str) -> Fact:
    gains = results.gains(method)
    ahead = sum(gain > 0 for gain in gains)
    return Fact(
        label,
        points(_mean_gain(results, method)),
        f"over plain; ahead on {ahead} of {len(gains)} seeds",
    )


def _mean_gain(results: Results, method: str) -> float:
    return float(np.mean(results.gains(method)))


def _if_close(results: Results, *methods: str) -> str:
    """Words for methods whose differences may be chance: below two standard errors, in pairs."""
    first, *others = (np.asarray(results.gains(method)) for method in methods)
    apart = [first - other for other in others]
    if len(first) > 1 and all(
        abs(d.mean()) < 2 * d.std(ddof=1) / np.sqrt(len(d)) + 1e-9 for d in apart
    ):
        return f" ({len(first)} seeds cannot tell {'these' if others[1:] else 'the two'} apart)"
    return ""


def _seeds(results: Results) -> str:
    seeds = results.seeds
    return f"Means over seeds {seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"Seed {seeds[0]}"


def _small_print(results: Results, machine: Mapping[str, str], seconds: float) -> str:
    named = ("tether", "python", "torch", "numpy", "scikit-learn")
    versions = ", ".join(f"{name} {machine[name]}" for name in named if name in machine)
    cores = f"{machine['cores']} cores, at most two used"
    return (
        f"{_seeds(results)}. {seconds:.0f} seconds on {machine['processor']} ({cores}, "
        f"{machine['system']}); {versions}."
    )


def percent(value: float, digits: int = 1) -> str:
    """A share as a reader would write it.

    Example:
        >>> percent(0.6363), percent(0.6363, 0)
        ('63.6 %', '64 %')
    """
    return f"{100 * value:.{digits}f} %"


def points(value: float) -> str:
    """A difference of two shares.

    Example:
        >>> points(0.2493), points(-0.012)
        ('+24.9 points', '−1.2 points')
    """
    return f"{100 * value:+.1f} points".replace("-", "\N{MINUS SIGN}")


def _one(value: float) -> str:
    return f"{value:.1f}"


def _whole(value: float) -> str:
    return f"{value:.0f}"
