"""Whether the model is as often right as it is sure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import softmax

from tether.diagnose.steps import PROBLEM, Case, Found, Group, Step, Verdict, share
from tether.diagnose.subject import HELD_OUT
from tether.measure.calibration import calibration_report, reliability_curve
from tether.report.blocks import Column
from tether.report.plots import reliability_diagram

if TYPE_CHECKING:
    from tether.report import Color, Page

#: Confidence so far above the accuracy is a problem.
OVER = 0.1
BINS = 10


def measure_confidence(case: Case) -> Found:
    """All calibration numbers, and accuracy by bins of confidence."""
    out = case.passes.outputs(HELD_OUT)
    assert out.labels is not None
    values = calibration_report(out.logits, out.labels, bins=BINS)
    probabilities = softmax(out.logits.double(), 1)
    curve = reliability_curve(
        probabilities.amax(1), (out.predicted == out.labels).double(), BINS
    )  # fmt: skip
    more = {name: [None if v != v else v for v in part.tolist()] for name, part in curve.items()}
    return Found({**values, "over": values["confidence"] - values["accuracy"]}, more)


def judge_confidence(found: Found, others: Mapping[str, Found]) -> list[Verdict]:
    """Whether it is surer than it is right."""
    values = found.values
    over = values["over"]
    if over <= OVER:
        return []
    return [
        Verdict(
            PROBLEM,
            "The model is surer of itself than it is right.",
            f"mean confidence {share(values['confidence'])}, accuracy {share(values['accuracy'])}",
            f"a problem from {100 * OVER:.0f} points on",
            over / OVER, "label_smoothing",
            "Tell no class that it is certain: --method label_smoothing:smoothing=0.1.",
        )
    ]  # fmt: skip


def draw_confidence(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """The reliability diagram, and the numbers."""
    page.add_figure(
        reliability_diagram({name: found.more for name, found in runs.items()}, colors=colors),
        "Reliability",
        "How often it is right where it is so sure. Bars below the diagonal: over-confident.",
    )
    columns = [
        Column("run"), Column("accuracy", ".1%"), Column("confidence", ".1%"),
        Column("ECE", ".3f", note="equal width"), Column("ECE", ".3f", note="equal mass"),
        Column("NLL", ".3f"), Column("Brier", ".3f"),
    ]  # fmt: skip
    keys = ("accuracy", "confidence", "ece", "ece_mass", "nll", "brier")
    page.add_table(
        columns,
        [[name, *(found.values[key] for key in keys)] for name, found in runs.items()],
        "Calibration on the held-out samples.",
        note=f"ECE: mean gap between confidence and accuracy over {BINS} bins; biased upwards for "
        "few samples.",
    )


GROUP = Group(
    "Confidence",
    "Whether probabilities are what they say.",
    (
        Step(
            "confidence", "Confidence", ("finite", HELD_OUT, "labels", "classes"),
            measure_confidence, draw_confidence, judge_confidence,
        ),
    ),
)  # fmt: skip
