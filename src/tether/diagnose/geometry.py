"""How classes lie among the features: neural collapse, tilted boundaries, a linear probe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from tether.diagnose.distances import STILL
from tether.diagnose.passes import Outputs
from tether.diagnose.steps import NOTE, Case, Found, Step, Unavailable, Verdict, share
from tether.diagnose.subject import HELD_OUT, TRAIN
from tether.engine.taps import find_head
from tether.measure.boundary import boundary_tilt
from tether.measure.collapse import neural_collapse
from tether.measure.probe import probe_dynamics
from tether.report.blocks import Column
from tether.report.plots import sweep_panels

if TYPE_CHECKING:
    from tether.report import Color, Page

COLLAPSE = {
    "nc1": "NC1: spread within classes, against between",
    "nc1_cdnv": "NC1 by pairs of classes",
    "nc2_norm": "NC2: class means differ in length",
    "nc2_angle": "NC2: class means off the simplex",
    "nc3": "NC3: head off the class means",
    "nc4": "NC4: head and nearest mean disagree",
}
#: A linear probe that comes so near to fine-tuning makes one ask what that was for.
NEAR = 0.01


def _head(case: Case) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of the last linear layer, as a matrix and a row."""
    _, module = find_head(case.passes.model, case.subject.head, None)
    weight, bias = module.weight, getattr(module, "bias", None)
    assert isinstance(weight, torch.Tensor)
    return weight.detach().flatten(1), bias.detach() if isinstance(bias, torch.Tensor) else None


def measure_collapse(case: Case) -> Found:
    """NC1 to NC4 now, and of the features at the start."""
    now = case.passes.outputs(HELD_OUT)
    weight, _ = _head(case)
    values = _numbers(now, weight, now.logits)
    if not case.subject.lacks(("reference",)):
        start = case.passes.outputs(HELD_OUT, start=True)
        values |= {f"start_{key}": value for key, value in _numbers(start, None, None).items()}
    return Found(values)


def _numbers(
    out: Outputs, weight: torch.Tensor | None, logits: torch.Tensor | None
) -> dict[str, float]:  # fmt: skip
    assert out.labels is not None
    found = neural_collapse(
        out.features, out.labels, weight, logits, num_classes=out.logits.shape[1]
    )
    return {key: float(found[key]) for key in COLLAPSE if found[key] == found[key]}


def draw_collapse(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """One row a number, now and at the start."""
    columns = ["measure"]
    for name in runs:
        columns += [f"{name}, start", f"{name}, now"]
    rows: list[list[object]] = []
    for key, title in COLLAPSE.items():
        row: list[object] = [title]
        for found in runs.values():
            row += [found.values.get(f"start_{key}"), found.values.get(key)]
        rows.append(row)
    page.add_table(
        columns, rows, "Neural collapse on the held-out samples.",
        note="All are 0 at full collapse, which is good for this task and bad for others: what "
        "differs within a class is thrown away.",
    )  # fmt: skip


def measure_tilt(case: Case) -> Found:
    """Angles between the head's boundaries and those through the class means."""
    out = case.passes.outputs(HELD_OUT)
    assert out.labels is not None
    found = boundary_tilt(out.features, out.labels, *_head(case))
    names = ("mean_angle", "max_angle", "mean_strength", "max_strength", "head_accuracy",
             "centroid_accuracy")  # fmt: skip
    return Found({name: float(getattr(found, name)) for name in names})


def draw_tilt(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """One row a run."""
    columns = [
        Column("run"), Column("angle", ".1f", note="degrees, mean over pairs"),
        Column("largest", ".1f", note="degrees"),
        Column("strength", ".2f", note="of adversaries, mean"),
        Column("head", ".1%", note="accuracy"), Column("nearest mean", ".1%", note="accuracy"),
    ]  # fmt: skip
    keys = ("mean_angle", "max_angle", "mean_strength", "head_accuracy", "centroid_accuracy")
    page.add_table(
        columns,
        [[name, *(found.values[key] for key in keys)] for name, found in runs.items()],
        "How far the boundaries of the head are tilted from those midway between class means.",
        note="A tilt that gains accuracy over the nearest mean is earned; one that gains nothing "
        "makes samples easier to push over the boundary.",
    )


def measure_probe(case: Case) -> Found:
    """A linear probe on the pretrained features, exact, with stopping time and L2 as predicted."""
    train, test = (case.passes.outputs(split, start=True) for split in (TRAIN, HELD_OUT))
    assert train.labels is not None and test.labels is not None
    count = int(max(train.labels.max(), test.labels.max())) + 1
    if len(torch.unique(train.labels)) < 2:
        raise Unavailable("the training samples that were measured are of a single class")
    eye = np.eye(count)
    found = probe_dynamics(
        train.features, eye[train.labels.numpy()], test.features, eye[test.labels.numpy()]
    )
    now = case.passes.outputs(HELD_OUT)
    assert now.labels is not None
    values = {
        name: float(getattr(found, name))
        for name in ("error_at_predicted_time", "error_at_measured_time",
                     "error_at_predicted_ridge", "error_at_measured_ridge", "error_converged")
    }  # fmt: skip
    values["accuracy"] = _ridge_accuracy(train, test, found.predicted_ridge, eye)
    values["fine_tuned"] = float((now.predicted == now.labels).double().mean())
    times = np.asarray(found.times)
    kept = times > 0
    more = {"times": times[kept].tolist(), "predicted": found.predicted[kept].tolist(),
            "measured": found.measured[kept].tolist()}  # fmt: skip
    return Found(values, more)


def _ridge_accuracy(train: Outputs, test: Outputs, ridge: float, eye: np.ndarray) -> float:
    """Held-out accuracy of ridge regression onto the classes with this strength."""
    assert train.labels is not None and test.labels is not None
    x, y = train.features.double().numpy(), eye[train.labels.numpy()]
    center, offset = x.mean(0), y.mean(0)
    x = x - center
    gram = x.T @ x + max(ridge, 1e-9) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (y - offset))
    said = (test.features.double().numpy() - center) @ weights + offset
    return float((said.argmax(1) == test.labels.numpy()).mean())


def judge_probe(found: Found, others: Mapping[str, Found]) -> list[Verdict]:
    """Whether fine-tuning gained anything over a linear probe."""
    probe, tuned = found.values["accuracy"], found.values["fine_tuned"]
    still = "distances" in others and others["distances"].values["body_relative"] < STILL
    if tuned > probe + NEAR or still:
        return []
    return [
        Verdict(
            NOTE,
            "A linear probe on the pretrained features does as well: fine-tuning the layers below "
            "gained nothing here.",
            f"accuracy {share(probe)} of the probe, {share(tuned)} of the model",
            f"told up to {100 * NEAR:.0f} point above the probe",
            remedy="Train the head alone (--freeze backbone), or keep near the pretrained weights: "
            "--method l2_sp.",
        )
    ]  # fmt: skip


def draw_probe(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """Error of the probe against its time of training, as predicted and as measured."""
    for name, found in runs.items():
        lines = {"predicted": found.more["predicted"], "measured": found.more["measured"]}
        of = f", {name}" if len(runs) > 1 else ""
        page.add_figure(
            sweep_panels(
                {name: lines}, found.more["times"], x_title="time of training",
                y_title="mean square error",
            ),
            f"A linear probe on the pretrained features{of}",
            "Error on held-out samples against the time of gradient flow, in units of the theory: "
            "predicted from the spectrum of the features without held-out labels, and measured. "
            f"With the predicted L2 strength it is right on {share(found.values['accuracy'])}; the "
            f"fine-tuned model on {share(found.values['fine_tuned'])}.",
        )  # fmt: skip


CLASSED = ("finite", HELD_OUT, "labels", "classes")
COLLAPSE_STEP = Step("collapse", "Neural collapse", CLASSED, measure_collapse, draw_collapse)
TILT_STEP = Step("boundary", "Tilt of the boundaries", CLASSED, measure_tilt, draw_tilt)
PROBE_STEP = Step(
    "probe", "Linear probe", (*CLASSED, "reference", TRAIN, "train_labels"), measure_probe,
    draw_probe, judge_probe,
)  # fmt: skip
