"""What the model makes of inputs that are blurred, noisy, or changed on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tether.diagnose.steps import Case, Found, Group, Step, Unavailable
from tether.diagnose.subject import HELD_OUT
from tether.measure.perturbations import Attack
from tether.measure.robustness import robust_accuracy
from tether.report.blocks import Cell, Column

if TYPE_CHECKING:
    from tether.report import Color, Page

SAMPLES = 128
BLUR, NOISE = (0.5, 1.0, 2.0), (0.05, 0.1, 0.2)
STEPS = 5
ATTACKS = (Attack(1 / 255), Attack(1 / 255, steps=STEPS), Attack(0.25, "l2", steps=STEPS))
WORDS = {"clean": "as they are", "blur": "blurred, sigma", "noise": "normal noise, sigma"}


def measure_robustness(case: Case) -> Found:
    """Accuracy under blur (images), noise, and small attacks."""
    subject = case.subject
    if subject.kind == "text":
        raise Unavailable("texts are words, and no noise is added to words")
    rows = robust_accuracy(
        case.passes.model, list(case.passes.batches(HELD_OUT, SAMPLES)),
        blur=BLUR if subject.kind == "image" else (), noise=NOISE, attacks=ATTACKS,
        mean=subject.mean, std=subject.std, max_samples=SAMPLES, seed=subject.seed,
    )  # fmt: skip
    named = {f"{row.kind}_{row.strength:.3g}": row for row in rows}
    values = {name: row.accuracy for name, row in named.items()}
    more = {
        name: {"kind": row.kind, "strength": row.strength, "low": row.low, "high": row.high}
        for name, row in named.items()
    }
    return Found({**values, "samples": float(rows[0].samples)}, {"rows": more})


def draw_robustness(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """One row a change, with its interval."""
    told = {name: row for found in runs.values() for name, row in found.more["rows"].items()}
    rows: list[list[object]] = []
    for name, row in told.items():
        what = WORDS.get(row["kind"], f"attack {row['kind'].replace('_', ' ')}, epsilon")
        size = "" if row["kind"] == "clean" else f" {row['strength']:.3g}"
        rows.append([f"{what}{size}", *(_cell(found, name) for found in runs.values())])
    page.add_table(
        ["inputs", *(Column(name, ".1%", "right") for name in runs)], rows,
        "Accuracy on changed inputs, with its interval of 95 %.",
        note=f"The first {SAMPLES} held-out samples. Sizes are in units of the pixels before "
        f"normalisation, which go from 0 to 1. An attack of {STEPS} steps is a lower bound of "
        "what a stronger one does.",
    )  # fmt: skip


def _cell(found: Found, name: str) -> Cell:
    row = found.more["rows"].get(name)
    if row is None:
        return Cell(None)
    return Cell(found.values[name], note=f"{100 * row['low']:.0f}–{100 * row['high']:.0f}")


GROUP = Group(
    "Robustness",
    "How much of the accuracy is left where the inputs are not quite what they were.",
    (
        Step(
            "robustness", "Changed inputs", ("finite", HELD_OUT, "labels", "classes"),
            measure_robustness, draw_robustness,
            cost=(1 + len(BLUR) + len(NOISE) + 4 * (2 * STEPS + 1)) * SAMPLES / 500,
        ),
    ),
)  # fmt: skip
