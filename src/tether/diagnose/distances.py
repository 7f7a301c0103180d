"""How far each layer moved from the weights that training began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tether.diagnose.memorisation import MEMORISED
from tether.diagnose.scores import GAP
from tether.diagnose.steps import NOTE, PROBLEM, Case, Found, Group, Step, Verdict, share
from tether.measure import layer_distances
from tether.report.plots import distance_profile

if TYPE_CHECKING:
    from tether.report import Color, Page

#: The layers below the head moved far from this share of their pretrained norm on.
FAR = 0.5
#: A lower layer that moved so many times as far as the upper ones is out of the order.
UPSIDE_DOWN, LEAST = 2.0, 0.1
#: Below this share nothing but the head was trained.
STILL = 1e-3


def measure_distances(case: Case) -> Found:
    """Distances of all depth groups, and of all weights."""
    subject = case.subject
    model, reference = subject.model, subject.reference
    assert model is not None and reference is not None
    groups = subject.groups()
    norms = ("fro", "relative", "mars", "spectral")
    joined = layer_distances(
        model, reference, norms=norms, groups=groups, from_zero=subject.new
    )  # fmt: skip
    layers = layer_distances(model, reference, norms=("fro", "relative"), from_zero=subject.new)
    body = {name: row for name, row in joined.items() if name != "head" and "fro" in row}
    everything = layer_distances(
        model, reference, norms=("fro", "relative"), from_zero=subject.new,
        groups={name: "head" if group == "head" else "body" for name, group in groups.items()},
    )  # fmt: skip
    values = {
        "total": sum(row["fro"] ** 2 for row in joined.values() if "fro" in row) ** 0.5,
        "body": everything.get("body", {}).get("fro", float("nan")),
        "body_relative": everything.get("body", {}).get("relative", float("nan")),
        "head": joined.get("head", {}).get("fro", float("nan")),
    }
    values.update(_ends(body))
    rows: dict[str, Any] = {"groups": joined, "layers": layers}
    return Found(values, rows)


def _ends(body: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean relative distance of the lower and of the upper half of the groups below the head."""
    moved = [row["relative"] for row in body.values()]
    if len(moved) < 2:
        return {}
    half = len(moved) // 2
    return {"lower": sum(moved[:half]) / half, "upper": sum(moved[-half:]) / half}


def judge_distances(found: Found, others: Mapping[str, Found]) -> list[Verdict]:
    """Whether the layers below the head moved too far, in the wrong order, or not at all."""
    values, verdicts = found.values, []
    moved = values["body_relative"]
    if moved > FAR:
        number = f"they moved by {share(moved, 0)} of their norm"
        harm = harmed(others)
        verdicts.append(
            Verdict(
                PROBLEM,
                "The layers below the head have gone far from their pretrained weights, and lost "
                "by it.",
                f"{number}, and {harm}",
                f"a problem from {share(FAR, 0)} on where samples are learnt by heart as well",
                moved / FAR, "layerwise_constraint",
                "Bound each layer by a share of what it moved here: tether encode on this run.",
            )
            if harm
            else Verdict(
                NOTE,
                "The layers below the head have gone far from their pretrained weights; nothing "
                "else tells that it does harm.",
                number, f"told from {share(FAR, 0)} on", moved / FAR,
            )
        )  # fmt: skip
    lower, upper = values.get("lower"), values.get("upper")
    if lower is not None and upper is not None and lower > LEAST and lower > UPSIDE_DOWN * upper:
        verdicts.append(
            Verdict(
                PROBLEM,
                "The lower layers, which hold what is general, moved more than the upper ones.",
                f"by {share(lower, 0)} of their norm below, {share(upper, 0)} above",
                f"a problem from {UPSIDE_DOWN:g} times as far and {share(LEAST, 0)} on",
                lower / upper / UPSIDE_DOWN if upper else UPSIDE_DOWN, "layerwise_constraint",
                "Keep lower layers nearer than upper ones: --method layerwise_constraint, or "
                "tether encode on this run.",
            )
        )  # fmt: skip
    if moved < STILL:
        verdicts.append(
            Verdict(
                NOTE,
                "Nothing but the head was trained: the features are the pretrained ones.",
                f"the layers below moved by {share(moved, 2)} of their norm",
                f"told below {share(STILL)}",
                remedy="If the score is too low, let them learn: no --freeze, or a higher --lr.",
            )
        )  # fmt: skip
    return verdicts


def harmed(others: Mapping[str, Found]) -> str:
    """What the steps before found that speaks of learning by heart; empty where nothing does."""
    if "memorisation" in others:
        memorised = others["memorisation"].values["memorised"]
        if memorised > MEMORISED:
            return f"{share(memorised, 0)} of the wrong labels are learnt by heart"
    values = others["scores"].values if "scores" in others else {}
    train, held_out = values.get("train_accuracy"), values.get("held_out_accuracy")
    if train is not None and held_out is not None and train - held_out > GAP:
        return f"training accuracy is {100 * (train - held_out):.0f} points above the held-out one"
    return ""


def draw_distances(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """Bars by depth, absolute and relative."""
    for norm, title, words in (
        ("relative", "How far every depth group moved, relative",
         "Frobenius norm of the change, as a share of the norm of the pretrained weights."),
        ("fro", "How far every depth group moved",
         "Frobenius norm of the change. Usual is little below and more above."),
    ):  # fmt: skip
        profiles = {
            name: {
                group: row[norm] for group, row in found.more["groups"].items()
                if row.get(norm) is not None and not (norm == "relative" and group == "head")
            }
            for name, found in runs.items()
        }  # fmt: skip
        x = "distance / pretrained norm" if norm == "relative" else "distance from the start"
        if any(profiles.values()):
            page.add_figure(distance_profile(profiles, colors=colors, x=x), title, words)


GROUP = Group(
    "Distances",
    "How far the layers are from the weights that training began with, from the stem to the head.",
    (
        Step(
            "distances", "Distances from the pretrained weights", ("finite", "reference"),
            measure_distances, draw_distances, judge_distances,
        ),
    ),
)  # fmt: skip
