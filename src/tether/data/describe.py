"""What was read, in plain lines for people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tether.data.table import DataSource, Notice, Table
from tether.words import listed, printable

_MOST_CLASSES = 30
_KINDS = {"image": "images", "text": "texts", "vector": "rows of numbers"}


def describe(source: DataSource) -> list[str]:
    """Lines that say what was read: counts by split and class, what was noticed.

    Names of other people's files and classes are shortened, and hold no control signs.
    """
    what = {
        "single_label": f"one of {len(source.class_names)} classes each",
        "multi_label": f"any of {len(source.class_names)} labels each",
        "regression": f"{len(source.class_names)} number(s) each",
    }[source.task]
    counts = ", ".join(f"{name} {len(table):,}" for name, table in source.tables.items())
    lines = [f"{printable(source.name)}: {_KINDS[source.kind]}, {what} ({source.task})", counts]
    lines += _numbers(source) if source.task == "regression" else _classes(source)
    train = source.tables["train"]
    if train.domains is not None:
        per = np.bincount(train.domains, minlength=len(source.domain_names))
        named = [f"{n} {c:,}" for n, c in zip(source.domain_names, per, strict=True)]
        lines.append(f"training samples by domain: {_some(named)}")
    if source.noise:
        lines.append(
            f"noise {source.noise['name']}: {source.noise['realised_rate']:.1%} of the training "
            "labels are wrong"
        )
    if source.unlabelled is not None:
        lines.append(f"unlabelled: {len(source.unlabelled):,}")
    if source.pairs is not None:
        lines.append(f"preference pairs: {len(source.pairs):,}")
    return lines + [describe_notice(notice) for notice in source.notices]


def _classes(source: DataSource) -> list[str]:
    """Samples of each class in each split; the extremes only where there are many classes."""
    width = len(source.class_names)
    per = {name: _counts(t, width) for name, t in source.tables.items() if t.labels is not None}
    order = list(range(width))
    lines = []
    if width > _MOST_CLASSES:
        order.sort(key=lambda i: (-per["train"][i], i))
        lines = [f"the largest and smallest of {width} classes:"]
        order = order[:5] + order[-5:]
    rows = [["class", *per]]
    rows += [
        [printable(source.class_names[i], 40), *(f"{c[i]:,}" for c in per.values())] for i in order
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for first, *rest in rows:
        cells = [cell.rjust(size) for cell, size in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([f"  {first.ljust(widths[0])}", *cells]).rstrip())
    return lines


def _counts(table: Table, width: int) -> Sequence[int]:
    assert table.labels is not None
    if table.labels.ndim == 2:
        return [int(count) for count in table.labels.sum(0)]
    return [int(count) for count in np.bincount(table.labels, minlength=width)]


def _numbers(source: DataSource) -> list[str]:
    lines = []
    for name, table in source.tables.items():
        if table.labels is None:
            continue
        values = table.labels.reshape(len(table), -1)
        for column, target in enumerate(source.class_names):
            y = values[:, column]
            lines.append(
                f"  {name}, {printable(target, 40)}: {y.min():g} to {y.max():g}, mean "
                f"{y.mean():g}, standard deviation {y.std():g}"
            )
    return lines


def _some(texts: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(printable(text, 40) for text in texts[:most])
    return shown + (f" and {len(texts) - most} more" if len(texts) > most else "")


def describe_notice(notice: Notice) -> str:
    """What was noticed, in a line."""
    where = f"{notice.split}: " if notice.split else ""
    count = "" if notice.kind == "made_validation" or not notice.count else f"{notice.count:,} "
    examples = f" (for instance {listed(notice.examples)})" if notice.examples else ""
    return f"note: {where}{count}{notice.what}{examples}"
