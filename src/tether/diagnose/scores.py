"""What the model gets right, and in which classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tether.diagnose.steps import (
    NOTE,
    PROBLEM,
    Case,
    Found,
    Group,
    Step,
    Unavailable,
    Verdict,
    share,
)
from tether.diagnose.subject import HELD_OUT, TRAIN
from tether.report.blocks import Cell, Column
from tether.tuning.metrics import score

if TYPE_CHECKING:
    from tether.report import Color, Page

#: A class is rare below this share of an even one, and suffers where its recall is so far below.
RARE, SUFFERS = 0.5, 0.15
#: Training accuracy so far above the held-out one calls for regularisation.
GAP = 0.15
#: Rows of the per-class table; of more classes the worst are shown.
ROWS = 30
WORDS = {"nll": "negative log-likelihood", "ece": "calibration error", "macro_f1": "macro F1"}


def measure_scores(case: Case) -> Found:
    """All scores of the task on the held-out samples, and on the training ones if there are any."""
    subject = case.subject
    values: dict[str, float] = {}
    for split, word in ((HELD_OUT, "held_out"), (TRAIN, "train")):
        if subject.lacks((split,)) or subject.samples[split].table.labels is None:
            continue
        out = case.passes.outputs(split)
        assert out.labels is not None
        found = score(subject.task, out.logits.numpy(), out.labels.numpy())
        values.update({f"{word}_{name}": value for name, value in found.items()})
    return Found(values)


def judge_scores(found: Found, others: Mapping[str, Found]) -> list[Verdict]:
    """Whether the training samples are known much better than others."""
    train, held_out = (found.values.get(f"{w}_accuracy") for w in ("train", "held_out"))
    if train is None or held_out is None or train - held_out <= GAP:
        return []
    gap = train - held_out
    return [
        Verdict(
            PROBLEM,
            "The training samples are known much better than others: what was learnt does not "
            "carry over.",
            f"accuracy {share(train)} in training, {share(held_out)} held out",
            f"a problem from {100 * GAP:.0f} points apart",
            gap / GAP, "l2_sp", "Keep nearer to the pretrained weights: --method l2_sp:weight=0.1, "
            "or --method distance_constraint.",
        )
    ]  # fmt: skip


def draw_scores(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """A table of all scores."""
    splits = ("held_out", "train")
    columns = [
        Column(name, ".4g", "right", note=split.replace("_", " ").replace("train", "training"))
        for name in runs for split in splits
    ]  # fmt: skip
    names = dict.fromkeys(
        key.removeprefix(f"{split}_") for found in runs.values() for key in found.values
        for split in splits if key.startswith(f"{split}_")
    )  # fmt: skip
    rows: list[list[object]] = [
        [
            WORDS.get(name, name.replace("_", " ")),
            *(found.values.get(f"{split}_{name}") for found in runs.values() for split in splits),
        ]
        for name in names
    ]
    page.add_table(
        ["score", *columns], rows,
        "Scores of the weights that were diagnosed, on the samples that were measured.",
    )  # fmt: skip


def measure_classes(case: Case) -> Found:
    """Recall and precision of every class on the held-out samples, and what it is taken for."""
    out, names = case.passes.outputs(HELD_OUT), case.subject.class_names
    assert out.labels is not None
    count = len(names)
    table = np.zeros((count, count), dtype=np.int64)
    np.add.at(table, (out.labels.numpy(), out.predicted.numpy()), 1)
    support, said, right = table.sum(1), table.sum(0), table.diagonal()
    if not support.sum():
        raise Unavailable("no held-out sample has a label")
    rows: list[dict[str, Any]] = []
    trained = case.subject.class_counts
    for at, name in enumerate(names):
        wrong = table[at].copy()
        wrong[at] = 0
        rows.append(
            {
                "class": name,
                "train": None if trained is None else trained[at],
                "support": int(support[at]),
                "recall": float(right[at] / support[at]) if support[at] else None,
                "precision": float(right[at] / said[at]) if said[at] else None,
                "taken_for": names[int(wrong.argmax())] if wrong.any() else "",
                "times": int(wrong.max()),
            }
        )
    seen = [row["recall"] for row in rows if row["recall"] is not None]
    absent = sum(row["support"] == 0 for row in rows)
    values = {
        "classes": float(count), "absent": float(absent), "worst_recall": min(seen),
        "mean_recall": float(np.mean(seen)),
    }  # fmt: skip
    return Found(values, {"rows": rows})


def judge_classes(found: Found, others: Mapping[str, Found]) -> list[Verdict]:
    """Whether rare classes are drowned by frequent ones, and whether any could not be measured."""
    verdicts = []
    rows = found.more["rows"]
    if found.values["absent"]:
        missing = [row["class"] for row in rows if row["support"] == 0]
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        verdicts.append(
            Verdict(
                NOTE, "Some classes are not among the held-out samples, so nothing is known of "
                "them.", f"{len(missing)} of {len(rows)} classes: {shown}", "told from 1 on",
                remedy="Measure on more samples: --samples.",
            )
        )  # fmt: skip
    known = [row for row in rows if row["recall"] is not None and row["train"] is not None]
    if not known:
        return verdicts
    even = sum(row["train"] for row in known) / len(known)
    rare = [row for row in known if row["train"] < RARE * even]
    common = [row for row in known if row["train"] >= RARE * even]
    if not rare or not common:
        return verdicts
    low, high = (float(np.mean([row["recall"] for row in part])) for part in (rare, common))
    if high - low > SUFFERS:
        verdicts.append(
            Verdict(
                PROBLEM,
                "Rare classes are drowned by frequent ones.",
                f"mean recall {share(low)} of the {len(rare)} classes with less than "
                f"{RARE * even:.0f} training samples, {share(high)} of the others",
                f"a problem from {100 * SUFFERS:.0f} points apart",
                (high - low) / SUFFERS, "class_weights", "Weigh them up: --class-weights balanced.",
            )
        )  # fmt: skip
    return verdicts


def draw_classes(page: Page, runs: dict[str, Found], colors: Mapping[str, Color]) -> None:
    """A table of everything for one run; the recall of several side by side."""
    if len(runs) > 1:
        _recalls(page, runs)
        return
    columns = [
        Column("class"), Column("training", "", "right", "samples"),
        Column("held out", "", "right", "samples"), Column("recall", _share, "right"),
        Column("precision", _share, "right"), Column("most often taken for"),
    ]  # fmt: skip
    rows = next(iter(runs.values())).more["rows"]
    order = sorted(rows, key=lambda row: 2.0 if row["recall"] is None else row["recall"])
    page.add_table(
        columns,
        [
            [
                row["class"], row["train"], row["support"], row["recall"], row["precision"],
                Cell(row["taken_for"], note=f"{row['times']}×") if row["times"] else None,
            ]
            for row in order[:ROWS]
        ],
        f"Each class, the worst first.{_left(rows)}",
    )  # fmt: skip


def _recalls(page: Page, runs: dict[str, Found]) -> None:
    """The classes of all runs, in the order of the first that has them."""
    recall = {
        name: {row["class"]: row["recall"] for row in found.more["rows"]}
        for name, found in runs.items()
    }
    names = list(dict.fromkeys(each for one in recall.values() for each in one))
    worst = {
        each: min((one[each] for one in recall.values() if one.get(each) is not None), default=2.0)
        for each in names
    }
    order = sorted(names, key=worst.__getitem__)
    page.add_table(
        ["class", *(Column(name, _share, "right") for name in runs)],
        [[each, *(one.get(each) for one in recall.values())] for each in order[:ROWS]],
        f"Recall of each class, the worst first.{_left(names)}",
    )


def _share(value: object) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, float) else "–"


def _left(rows: Sequence[object]) -> str:
    return f" The {ROWS} worst of {len(rows)} classes." if len(rows) > ROWS else ""


GROUP = Group(
    "Scores and classes",
    "How much of the held-out samples the model gets right, and in which classes it fails.",
    (
        Step(
            "scores", "Scores", ("finite", HELD_OUT, "labels"), measure_scores, draw_scores,
            judge_scores,
        ),
        Step(
            "classes", "Each class", ("finite", HELD_OUT, "labels", "classes"), measure_classes,
            draw_classes, judge_classes,
        ),
    ),
)  # fmt: skip
