"""What became of the features: their size, spread, rank and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tether.diagnose.geometry import COLLAPSE_STEP, PROBE_STEP, TILT_STEP
from tether.diagnose.passes import Outputs
from tether.diagnose.steps import PROBLEM, Case, Found, Group, Step, Unavailable, Verdict, share
from tether.diagnose.subject import HELD_OUT
from tether.measure import (
    effective_rank,
    feature_entropy,
    feature_norms,
    feature_report,
    linear_cka,
)
from tether.report import Plot
from tether.report.plots import PCAAxes, feature_scatter, pca_axes

if TYPE_CHECKING:
    from tether.report import Color, Page

#: Features collapse where their rank falls below this share of the pretrained one, and shrink
#: where their norm does and their entropy falls by so many nats a dimension as well: the norm
#: alone also falls where a common mean goes, which harms nothing.
RANK, NORM, SPREAD = 0.5, 0.5, 0.5
#: Points of the picture.
POINTS = 300
TITLES = {
    "norm_mean": "mean norm", "entropy": "entropy (nats)", "effective_rank": "effective rank",
    "class_separation": "class separation", "linear_cka": "similarity to the pretrained (CKA)",
    "mutual_information": "mutual information (nats)", "head_gradient_norm": "head gradient norm",
}  # fmt: skip


def measure_features(case: Case) -> Found:
    """The report on the features now, at the start, and their two main directions."""
    now = case.passes.outputs(HELD_OUT)
    if len(now.features) < 2:
        raise Unavailable("a single sample tells nothing of how features spread")
    start = None
    if not case.subject.lacks(("reference",)):
        start = case.passes.outputs(HELD_OUT, start=True)
    values = _report(now, start)
    if start is not None:
        values.update({f"start_{name}": value for name, value in _report(start, None).items()})
    more = _picture(now, start, case.subject.class_names)
    if start is not None:
        more["spread"] = (values["entropy"] - values["start_entropy"]) / now.features.shape[1]
    return Found(values, more)


def _report(out: Outputs, start: Outputs | None) -> dict[str, float]:
    """What can be told without classes is told without them."""
    reference = None if start is None else start.features
    if out.labels is not None and out.labels.ndim == 1 and not out.labels.is_floating_point():
        return feature_report(out.features, out.labels, reference, logits=out.logits)
    norms = feature_norms(out.features)
    values = {("norm_" + k if k != "norm_of_mean" else k): v for k, v in norms.items()}
    values["entropy"] = float(feature_entropy(out.features))
    values["effective_rank"] = float(effective_rank(out.features))
    if reference is not None:
        values["linear_cka"] = float(linear_cka(out.features, reference))
    return values


def _picture(now: Outputs, start: Outputs | None, class_names: list[str]) -> dict[str, Any]:
    """Coordinates along the main directions of the features at the start."""
    clouds = {"now": now} if start is None else {"start": start, "now": now}
    first = next(iter(clouds.values())).features.numpy()
    if now.labels is None or now.labels.ndim != 1 or now.labels.is_floating_point():
        labels = torch.zeros(len(now.features), dtype=torch.int64)
        class_names = ["samples"]
    else:
        labels = now.labels
    rows = np.unique(np.linspace(0, len(labels) - 1, min(POINTS, len(labels))).astype(int))
    axes = pca_axes(first)
    points = {
        moment: _rounded(axes.project(out.features.numpy()[rows])) for moment, out in clouds.items()
    }
    return {
        "points": points,
        "classes": labels[rows].tolist(),
        "class_names": class_names,
        "explained": axes.explained.tolist(),
    }


def _rounded(points: Any) -> list[list[float]]:
    """Four digits are enough for a picture."""
    return [[float(f"{value:.4g}") for value in point] for point in points.tolist()]


def judge_features(found: Found, others: Mapping[str, Found]) -> list[Verdict]:
    """Whether the features lost directions, or spread and size together."""
    values = found.values
    if "start_norm_mean" not in values:
        return []
    verdicts = []
    remedy = "Draw each class to random vectors of its own: --method adarand."
    rank, before = values["effective_rank"], values["start_effective_rank"]
    if rank < RANK * before:
        verdicts.append(
            Verdict(
                PROBLEM,
                "The features collapse: they use far fewer directions than the pretrained ones.",
                f"effective rank {before:.1f} → {rank:.1f}",
                f"a problem below {share(RANK, 0)} of the start", RANK * before / max(rank, 1e-9),
                "adarand", remedy,
            )
        )  # fmt: skip
    norm, spread = values["norm_mean"] / max(values["start_norm_mean"], 1e-9), found.more["spread"]
    if norm < NORM and spread < -SPREAD:
        verdicts.append(
            Verdict(
                PROBLEM,
                "The features shrink and crowd together, which starves the head of gradient.",
                f"mean norm {values['start_norm_mean']:.1f} → {values['norm_mean']:.1f}, entropy "
                f"{values['start_entropy']:.0f} → {values['entropy']:.0f} nats, or {spread:+.2f} a "
                "dimension",
                f"a problem below {share(NORM, 0)} of the norm and {-SPREAD:g} nats a dimension",
                NORM / max(norm, 1e-9), "adarand", remedy,
            )
        )  # fmt: skip
    return verdicts


def draw_features(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """A table of now and the start, and the clouds."""
    columns, cells = ["measure"], []
    for name, found in runs.items():
        columns += [f"{name}, start", f"{name}, now"] if _has_start(found) else [f"{name}, now"]
    for key, title in TITLES.items():
        row: list[object] = [title]
        for found in runs.values():
            if _has_start(found):
                row.append(found.values.get(f"start_{key}"))
            row.append(found.values.get(key))
        if any(value is not None for value in row[1:]):
            cells.append(row)
    page.add_table(columns, cells, "The features of the held-out samples.")
    plots = [_scatter(name, found, colors) for name, found in runs.items()]
    whole = plots[0]
    for plot in plots[1:]:
        whole = whole + plot
    shares = [sum(found.more["explained"]) for found in runs.values()]
    page.add_figure(
        whole,
        "Features of the held-out samples",
        "Along the two main directions of the features at the start, which hold "
        f"{share(min(shares), 0)} of their variance{' or more' if len(runs) > 1 else ''}. The "
        "panels of a run have the same scale.",
    )


def _scatter(name: str, found: Found, colors: Mapping[str, Color]) -> Plot:
    more = found.more
    identity = PCAAxes(np.zeros(2), np.eye(2), np.asarray(more["explained"]))
    return feature_scatter(
        {name: more["points"]}, more["classes"], identity, class_names=more["class_names"],
        colors=colors,
    )  # fmt: skip


def _has_start(found: Found) -> bool:
    return "start_norm_mean" in found.values


GROUP = Group(
    "Features",
    "The input of the head. Features that lose directions suit this task and no other.",
    (
        Step(
            "features", "Features", ("finite", HELD_OUT), measure_features, draw_features,
            judge_features,
        ),
        COLLAPSE_STEP,
        TILT_STEP,
        PROBE_STEP,
    ),
)  # fmt: skip
