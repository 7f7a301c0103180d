"""Where the loss is curved, and a bound on the error from distance and noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tether.diagnose.flatness import LOSSES
from tether.diagnose.steps import Case, Found, Step
from tether.diagnose.subject import HELD_OUT, TRAIN
from tether.measure import hessian_distance, hessian_trace, pac_bayes_bound
from tether.report.blocks import Column
from tether.report.plots import distance_profile

if TYPE_CHECKING:
    from tether.report import Color, Page

#: Samples and draws: layers are compared, no digit is needed.
SAMPLES, DRAWS = 32, 8
#: Samples along the way that each layer went; a product for each weight tensor.
ALONG = 8
#: Draws and sizes of the noise for the bound.
BOUND_DRAWS, SIGMAS = 32, (0.03, 0.1, 0.3)


def measure_trace(case: Case) -> Found:
    """Trace of the Hessian by depth group."""
    found = hessian_trace(
        case.passes.model, list(case.passes.batches(HELD_OUT, SAMPLES)), max_draws=DRAWS,
        loss=LOSSES[case.subject.task], micro_batch=16, seed=case.subject.seed,
    )  # fmt: skip
    groups = _by_group(case, found.layers, found.trace.tolist())
    values = {"trace": found.total, "standard_error": found.total_standard_error}
    return Found(values, {"groups": groups})


def _by_group(case: Case, names: Sequence[str], numbers: Sequence[float]) -> dict[str, float]:
    groups = case.subject.groups()
    sums: dict[str, float] = {}
    for name, number in zip(names, numbers, strict=True):
        sums[groups[name]] = sums.get(groups[name], 0.0) + float(number)
    return sums


def draw_trace(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """Bars by depth."""
    page.add_figure(
        distance_profile(
            {name: found.more["groups"] for name, found in runs.items()}, colors=colors,
            x="trace of the Hessian",
        ),
        "Curvature of the loss by depth group",
        f"Hutchinson's estimate of {DRAWS} draws on {SAMPLES} samples: compare the groups, and "
        "take the loss under noise for a number of flatness. The long bars are where a change "
        "costs most.",
    )  # fmt: skip


def measure_along(case: Case) -> Found:
    """Curvature along the way that each layer went."""
    subject = case.subject
    assert subject.reference is not None
    train = subject.class_counts
    found = hessian_distance(
        case.passes.model, subject.reference, list(case.passes.batches(HELD_OUT, ALONG)),
        loss=LOSSES[subject.task], reduction="mean", from_zero=subject.new or None,
        train_size=sum(train) if train else None,
    )  # fmt: skip
    groups = _by_group(case, found.layers, found.h.tolist())
    return Found({"score": found.score, "samples": float(found.samples)}, {"groups": groups})


def draw_along(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """Bars by depth."""
    page.add_figure(
        distance_profile(
            {name: found.more["groups"] for name, found in runs.items()},
            colors=colors,
            x="curvature along the way it went",
        ),
        "Curvature along the way each layer went",
        "Far is harmless where the loss is flat, and near is not where it is sharp. Scores: "
        + ", ".join(f"{name} {found.values['score']:.3g}" for name, found in runs.items())
        + ". Compare them between runs of one model on the same data; they are no bound.",
    )


def measure_bound(case: Case) -> Found:
    """The PAC-Bayes bound from the training samples."""
    subject = case.subject
    assert subject.reference is not None
    found = pac_bayes_bound(
        case.passes.model, subject.reference, list(case.passes.batches(TRAIN)),
        draws=BOUND_DRAWS, sigmas=SIGMAS, families=("start",),
        from_zero=subject.new, loss=LOSSES[subject.task], seed=subject.seed,
    )  # fmt: skip
    names = ("bound", "error", "noisy_error", "draw_slack", "complexity", "kl", "guessing", "sigma")
    values = {name: float(getattr(found, name)) for name in names}
    values |= {"samples": float(found.samples), "delta": found.delta}
    more = {"statement": found.statement, "reasons": list(found.reasons),
            "certificate": found.certificate}  # fmt: skip
    return Found(values, more)


def draw_bound(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """Its terms in a table, and what it says."""
    columns = [
        Column("run"), Column("bound", ".3f", note="on the error under noise"),
        Column("error", ".3f", note="under noise, measured"),
        Column("complexity", ".3f", note="nats a sample"), Column("KL", ".4g", note="nats"),
        Column("guessing", ".3f", note="error of it"),
    ]  # fmt: skip
    keys = ("bound", "noisy_error", "complexity", "kl", "guessing")
    page.add_table(
        columns,
        [[name, *(found.values[key] for key in keys)] for name, found in runs.items()],
        "PAC-Bayes bound from the training samples.",
        note="From the samples that were measured, not all of the training data: more samples "
        "give a smaller bound.",
    )
    for name, found in runs.items():
        of = f"{name}: " if len(runs) > 1 else ""
        page.add_text(f"{of}{found.more['statement']}")


STEPS = (
    Step(
        "hessian_trace", "Curvature of the loss", ("finite", HELD_OUT, "labels"), measure_trace,
        draw_trace, cost=6.0 * DRAWS * SAMPLES / 500,
    ),
    Step(
        "hessian_distance", "Curvature along the way each layer went",
        ("finite", HELD_OUT, "labels", "reference"), measure_along, draw_along,
        cost=5.0 * 50 * ALONG / 500,
    ),
    Step(
        "pac_bayes", "PAC-Bayes bound",
        ("finite", TRAIN, "train_labels", "classes", "reference"), measure_bound, draw_bound,
        cost=1.0 + 3 * 2.5 + 4,
    ),
)  # fmt: skip
