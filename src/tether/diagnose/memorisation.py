"""Whether wrong labels were learnt by heart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from tether.diagnose.steps import PROBLEM, Case, Found, Group, Step, Unavailable, Verdict, share
from tether.diagnose.subject import TRAIN
from tether.measure import loss_histograms, memorization_fractions
from tether.report.blocks import Column
from tether.report.plots.histograms import histogram_panels

if TYPE_CHECKING:
    from tether.report import Color, Page

#: A problem from this share of the wrong labels on.
MEMORISED = 0.3


def measure_memorisation(case: Case) -> Found:
    """Shares of wrong labels that the model gives back, and the loss of both kinds of samples."""
    out = case.passes.outputs(TRAIN)
    assert out.labels is not None and out.true is not None
    wrong = out.labels != out.true
    if not bool(wrong.any()):
        raise Unavailable("none of the training labels that were measured is wrong")
    losses = cross_entropy(out.logits.double(), out.labels, reduction="none")
    histograms = loss_histograms(losses.clamp(max=20.0), out.labels, out.true)
    values = memorization_fractions(out.predicted, out.labels, out.true)
    values["detection_auroc"] = histograms["auroc"]
    values["wrong_share"] = float(wrong.double().mean())
    values["loss_clean"] = float(losses[~wrong].mean()) if bool((~wrong).any()) else float("nan")
    values["loss_wrong"] = float(torch.mean(losses[wrong]))
    return Found(values, {key: histograms[key] for key in ("edges", "clean", "wrong")})


def judge_memorisation(found: Found, others: Mapping[str, Found]) -> list[Verdict]:
    """Whether the model gives wrong labels back."""
    memorised = found.values["memorised"]
    if memorised <= MEMORISED:
        return []
    resisted = found.values["resisted"]
    return [
        Verdict(
            PROBLEM,
            "Wrong labels are learnt by heart.",
            f"{share(memorised)} of {found.values['num_wrong']:.0f} wrongly labelled training "
            f"samples are predicted as labelled, {share(resisted)} as what they are",
            f"a problem from {100 * MEMORISED:.0f} % on",
            memorised / MEMORISED, "elr",
            "Hold to the early predictions: --method elr; or bound the distances and mend the "
            "labels: --method regsl.",
        )
    ]  # fmt: skip


def draw_memorisation(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """The shares in a table, and the losses as histograms."""
    columns = [
        Column("run"), Column("memorised", ".1%", note="predicted as labelled"),
        Column("resisted", ".1%", note="predicted as they are"), Column("neither", ".1%"),
        Column("fitted", ".1%", note="of the right labels"),
        Column("detection", ".3f", note="AUROC of the loss"),
    ]  # fmt: skip
    keys = ("memorised", "resisted", "other", "fitted", "detection_auroc")
    page.add_table(
        columns,
        [[name, *(found.values[key] for key in keys)] for name, found in runs.items()],
        "What became of the wrong labels in the training data.",
    )
    page.add_figure(
        histogram_panels({name: found.more for name, found in runs.items()}),
        "Loss of rightly and of wrongly labelled training samples",
        "Two humps apart: the loss tells the wrong labels from the right ones. One hump near "
        "zero: both are learnt by heart. Losses above 20 are counted as 20.",
    )


GROUP = Group(
    "Wrong labels",
    "Training samples whose label is known to be wrong, because it was made so or because true "
    "labels were given beside the labels.",
    (
        Step(
            "memorisation", "Wrong labels", ("finite", TRAIN, "classes", "true_labels"),
            measure_memorisation, draw_memorisation, judge_memorisation,
        ),
    ),
)  # fmt: skip
