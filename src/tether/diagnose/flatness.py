"""How flat the solution is: the loss under noise on the weights, curvature, a bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tether.diagnose.steps import PROBLEM, Case, Found, Group, Step, Verdict, share
from tether.diagnose.subject import HELD_OUT
from tether.report.plots import sweep_panels

if TYPE_CHECKING:
    from tether.report import Color, Page

#: Sizes of the noise, as shares of each tensor's root mean square.
SIGMAS = (0.01, 0.03, 0.1, 0.3)
DRAWS, GROUP_DRAWS = 3, 2
#: Samples that are enough for the loss under noise.
SAMPLES, GROUP_SAMPLES = 256, 32
#: Noise of this size must not raise the loss by so much.
AT, SHARP = 0.1, 0.5


def measure_stability(case: Case) -> Found:
    """Increase of the loss by sigma, with noise on all weights and on each depth group."""
    from tether.measure.noise_stability import noise_stability

    subject = case.subject
    data = list(case.passes.batches(HELD_OUT, SAMPLES))
    options: dict[str, Any] = {
        "sigmas": SIGMAS, "relative": True, "head": subject.head, "seed": subject.seed,
        "loss": LOSSES[subject.task],
    }  # fmt: skip
    whole = noise_stability(case.passes.model, data, draws=DRAWS, **options)
    parts = noise_stability(
        case.passes.model, data, draws=GROUP_DRAWS, per_layer="group",
        max_samples=GROUP_SAMPLES, **options,
    )  # fmt: skip
    curve = whole.curve
    values = {f"increase_{s:g}": float(v) for s, v in zip(SIGMAS, curve.increase, strict=True)}
    values |= {"loss": whole.loss, "samples": float(whole.samples)}
    more = {
        "sigmas": list(SIGMAS),
        "all": [curve.increase.tolist(), curve.low.tolist(), curve.high.tolist()],
        "groups": {name: part.increase.tolist() for name, part in parts.profile.items()},
    }
    return Found(values, more)


def judge_stability(found: Found, others: Mapping[str, Found]) -> list[Verdict]:
    """Whether little noise raises the loss by much."""
    rise = found.values[f"increase_{AT:g}"]
    if not rise > SHARP:
        return []
    return [
        Verdict(
            PROBLEM,
            "The solution is sharp: a little noise on the weights costs much of what was learnt.",
            f"noise of {share(AT, 0)} of the weights' size raises the loss by {rise:.2f} nats from "
            f"{found.values['loss']:.2f}",
            f"a problem from {SHARP:g} nats on",
            rise / SHARP, "l2_sp",
            "Stay nearer to the pretrained weights: --method l2_sp:weight=0.1, or --method "
            "distance_constraint.",
        )
    ]  # fmt: skip


def draw_stability(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """One figure of all weights, one of the depth groups."""
    sigmas = next(iter(runs.values())).more["sigmas"]
    x, y = "sigma, share of the weights' size", "increase of the loss"
    page.add_figure(
        sweep_panels(
            {"Noise on all weights": {name: found.more["all"] for name, found in runs.items()}},
            sigmas, x_title=x, y_title=y, colors=colors,
        ),
        "Loss under noise on the weights",
        "Gaussian noise of sigma times the size of each weight tensor. The flatter the solution, "
        "the lower the line. An increase of zero and below has no place on the scale.",
    )  # fmt: skip
    panels = {name: found.more["groups"] for name, found in runs.items() if found.more["groups"]}
    if panels:
        page.add_figure(
            sweep_panels(panels, sigmas, x_title=x, y_title=y),
            "Noise on one depth group at a time",
            "The highest line is the part that bears the least noise.",
        )


LOSSES = {
    "single_label": "cross_entropy", "multi_label": "binary_cross_entropy", "regression": "mse",
}  # fmt: skip
GROUP = Group(
    "Flatness",
    "What noise on the weights does to the loss of the held-out samples. Flat solutions carry "
    "over better, and bear rounding.",
    (
        Step(
            "noise_stability", "Loss under noise on the weights",
            ("finite", HELD_OUT, "labels"), measure_stability, draw_stability, judge_stability,
            cost=2 * len(SIGMAS) * (DRAWS * SAMPLES + GROUP_DRAWS * 10 * GROUP_SAMPLES) / 500,
        ),
    ),
)  # fmt: skip
