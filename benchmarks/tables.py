"""The results as Markdown."""

from __future__ import annotations

from typing import Any

BARS = {
    "adarand": 1.05,
    "elr": 1.05,
    "randreg": 1.05,
    "feature_norm": 1.05,
    "self_label_correction": 1.05,
    "confidence_reweighting": 1.05,
    "l2_sp": 1.05,
    "distance_constraint": 1.10,
    "layerwise_constraint": 1.10,
}

PREFACE = """\
# What a method costs

Written by `python -m benchmarks.overhead --write`. Every method makes one training step in turn
(batch of 16 random images of 64 x 64, 10 classes, SGD with momentum, float32), {rounds} rounds in
an order drawn anew each time, so that a slower moment of the machine meets all of them alike.

- **step**: fetching the batch, forward, loss, backward, update; milliseconds, least and median.
- **ratio**: least time over that of the plain loop (a loop without tether); *paired*: median of
  the ratio within a round. On a busy machine both are uncertain by a few hundredths.
- **loss, edit, after**: the method's own part, by PyTorch's CPU profiler in tether's ranges:
  its share of making the loss (the task loss subtracted), of editing the gradients, and after the
  update; then their share of a plain step. The backward pass of a penalty is in the step, but in
  none of the ranges.
- **peak**: growth of resident memory at its peak over three steps, in a process of its own that
  was forked before the model was made; uncertain by some MiB.
"""


def as_markdown(document: dict[str, Any]) -> str:
    """Everything that was measured, with the bars."""
    machine = ", ".join(f"{key} {value}" for key, value in document["machine"].items())
    parts = [
        PREFACE.format(rounds=document["rounds"]),
        f"{machine}; threads {document['threads']}.",
    ]
    for name, rows in document["models"].items():
        parts += [f"\n## {name}\n", _model_table(rows)]
    parts += ["\n## AdaRand with many classes\n", _adarand_table(document["adarand"])]
    return "\n".join(parts) + "\n"


def _model_table(rows: list[dict[str, Any]]) -> str:
    heads = ["", "step ms (least)", "(median)", "ratio", "paired", "bar", "loss ms", "edit ms",
             "after ms", "their share %", "peak MiB"]  # fmt: skip
    cells = [
        [
            row["variant"],
            _show(row["min_ms"], 1),
            _show(row["median_ms"], 1),
            _show(row["ratio_min"], 3),
            _show(row["ratio_paired"], 3),
            _show(BARS.get(row["variant"]), 2),
            _show(row.get("loss_ms"), 2),
            _show(row.get("edit_ms"), 2),
            _show(row.get("after_ms"), 2),
            _show(None if "own_share" not in row else 100 * row["own_share"], 1),
            _show(row["peak_mib"], 0),
        ]
        for row in rows
    ]
    return _table(heads, cells)


def _adarand_table(rows: list[dict[str, Any]]) -> str:
    words = (
        "Its own part of a step (drawing, distance, class means, prior and Adam) on batches of 64, "
        "against the formulas as they are written down: a loop over the classes, and all pairs of "
        "class means as one K x K x d array (`benchmarks/naive_adarand.py`). The memory is what it "
        "adds at its peak to training a head of this size; a K x d table in float32 is given for "
        "comparison.\n"
    )
    heads = ["classes", "features", "tether ms", "as written ms", "times faster", "memory MiB",
             "K x d MiB"]  # fmt: skip
    cells = [
        [
            str(row["classes"]),
            str(row["features"]),
            _show(row["ours_ms"], 2),
            _show(row["naive_ms"], 0)
            if row["naive_ms"] is not None
            else f"left out: needs {row['naive_needs_gib']:.0f} GiB",
            _show(row["times_faster"], 0),
            _show(row["memory_mib"], 0),
            _show(row["table_mib"], 0),
        ]
        for row in rows
    ]
    return words + "\n" + _table(heads, cells)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _show(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
