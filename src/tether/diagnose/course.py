"""The course of training: what the rows of ``metrics.jsonl`` tell, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tether.diagnose.distances import STILL
from tether.diagnose.steps import PROBLEM, Case, Found, Group, Step, Unavailable, Verdict, share
from tether.encode.profile import DISTANCE, HEAD_NORM
from tether.report import Plot
from tether.report.plots import curve_panels
from tether.tuning.metrics import LESS

if TYPE_CHECKING:
    from tether.report import Color, Page

#: Not quantities that are drawn.
ASIDE = ("stage", "epoch", "step", "seconds")
#: A score that fell so far below its best, as a share of the best, was lost again.
LOST = 0.05
#: Shares, which share one scale from 0 to 1.
SHARES = {
    "label_agreement": "Labels agreed with",
    "clean_fitted": "Right labels fitted",
    "memorised": "Wrong labels memorised",
    "resisted": "Wrong labels resisted",
}
FEATURES = {"feature_norm": "Feature norm", "feature_entropy": "Feature entropy (nats)"}
LOSSES = {"train_loss": "Training loss", "validation_loss": "Validation loss"}


def measure_course(case: Case) -> Found:
    """Every number of every row, and where the score was best."""
    rows = case.subject.history
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ASIDE))
    curves: dict[str, list[float | None]] = {
        name: [_number(row.get(name)) for row in rows] for name in names
    }
    curves = {name: v for name, v in curves.items() if any(x is not None for x in v)}
    epochs = [float(row["epoch"]) for row in rows]
    if not curves:
        raise Unavailable("the rows of metrics.jsonl hold no numbers")
    values = {"epochs": epochs[-1], "rows": float(len(rows))}
    metric = case.subject.result.metric if case.subject.result is not None else ""
    scores = curves.get(f"validation_{metric}")
    if scores is not None:
        values.update(_best(scores, epochs, less=metric in LESS))
    return Found(values, {"epoch": epochs, "curves": curves, "metric": metric})


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _best(scores: Sequence[float | None], epochs: list[float], *, less: bool) -> dict[str, float]:
    known = [(score, epoch) for score, epoch in zip(scores, epochs, strict=True)
             if score is not None]  # fmt: skip
    pick = min if less else max
    best, at = pick(known, key=lambda pair: pair[0])
    return {"best": best, "best_epoch": at, "last": known[-1][0]}


def judge_course(found: Found, others: Mapping[str, Found]) -> list[Verdict]:
    """Whether training went on beyond its best."""
    values, metric = found.values, found.more["metric"]
    if "best" not in values or not values["best"]:
        return []
    best, last = values["best"], values["last"]
    lost = (last - best) / abs(best) if metric in LESS else (best - last) / abs(best)
    if lost <= LOST:
        return []
    drawn = found.more["curves"]
    memorised = [v for v in drawn.get("memorised", []) if v is not None]
    method, other = "l2_sp", "keep near the pretrained weights: --method l2_sp."
    if memorised or "memorisation" in others:
        method, other = "elr", "hold to the early predictions: --method elr."
    elif "distances" in others and others["distances"].values["body_relative"] < STILL:
        method, other = "", "learn more slowly: a lower --lr."  # the head alone: no bound helps
    learnt = f"; wrong labels memorised at the end: {share(memorised[-1], 0)}" if memorised else ""
    return [
        Verdict(
            PROBLEM,
            "Training went on beyond its best, and lost what it had gained.",
            f"validation {metric} {best:.4g} in epoch {values['best_epoch']:g}, {last:.4g} in "
            f"epoch {values['epochs']:g}{learnt}",
            f"a problem from {share(LOST, 0)} of the best on",
            lost / LOST, method,
            f"Stop in time (--patience 5), or {other}",
        )
    ]  # fmt: skip


def draw_course(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """Scores, shares, features, distances and losses over the epochs."""
    metrics = dict.fromkeys(found.more["metric"] for found in runs.values() if found.more["metric"])
    scores = {f"validation_{name}": f"Validation {name.replace('_', ' ')}" for name in metrics}
    marks = _marks(runs)
    _figure(
        page, runs, colors, {**scores, **LOSSES}, "Score and loss over the epochs",
        "The training loss falls as long as there is something to learn, right or wrong; where "
        "the validation score falls with it, it is learning by heart.", marks,
    )  # fmt: skip
    _figure(
        page, runs, colors, SHARES, "Labels over the epochs",
        "Share of the training labels that the model agrees with. Right labels are fitted "
        "first; wrong ones are resisted until they are learnt by heart.", marks, shares=True,
    )  # fmt: skip
    _figure(
        page, runs, colors, FEATURES, "Features over the epochs",
        "Their mean length, and how far they spread. Both falling together: they collapse.", marks,
    )  # fmt: skip
    distances = dict.fromkeys(
        name for found in runs.values() for name in found.more["curves"]
        if name in ("distance", HEAD_NORM) or name.startswith(DISTANCE)
    )  # fmt: skip
    titles = {name: _distance_title(name) for name in distances}
    _figure(
        page, runs, colors, titles, "Distances over the epochs",
        "From the weights that training began with, in all and by depth group.", marks,
    )  # fmt: skip


def _distance_title(name: str) -> str:
    if name == HEAD_NORM:
        return "Norm of the head"
    return f"Distance, {name.removeprefix(DISTANCE)}" if name != "distance" else "Distance, all"


def _marks(runs: Mapping[str, Found]) -> dict[str, float]:
    """The best epoch of each run, where there are not too many to tell apart."""
    if len(runs) > 2:
        return {}
    alone = len(runs) == 1
    return {
        "best" if alone else f"best of {name}": found.values["best_epoch"]
        for name, found in runs.items()
        if "best_epoch" in found.values
    }


def _figure(
    page: Page, runs: dict[str, Found], colors: Mapping[str, Color], titles: Mapping[str, str],
    title: str, caption: str, marks: Mapping[str, float], *, shares: bool = False,
) -> None:  # fmt: skip
    """Panels of what any of the runs logged."""
    curves: dict[str, dict[str, Any]] = {}
    for name, found in runs.items():
        held = {key: _floats(found.more["curves"][key]) for key in titles
                if key in found.more["curves"]}  # fmt: skip
        if held:
            curves[name] = {"epoch": found.more["epoch"], **held}
    if not curves:
        return
    limits = (0.0, 1.0) if shares else None
    plot: Plot = curve_panels(
        curves, titles, marks=marks, colors=colors, percent=shares, limits=limits
    )
    page.add_figure(plot, title, caption)


def _floats(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


GROUP = Group(
    "Course of training",
    "What the run wrote down after each epoch.",
    (Step("course", "Course of training", ("history",), measure_course, draw_course,
          judge_course),),
)  # fmt: skip
