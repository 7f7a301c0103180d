"""The scores of a study as lines of text: the mean over the seeds, and its spread."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tether.compare.summary import summarise
from tether.compare.summary_words import verdict

if TYPE_CHECKING:
    from tether.compare.session import StudyResult


def table_lines(result: StudyResult) -> list[str]:
    """A line for each method, a column for each case; below, what failed and where the report is.

    Args:
        result: of the study.
    """
    meta, rows = result.meta, result.rows
    metric, cases, methods = meta["metric"], meta["cases"], meta["methods"]
    cells = {(m, c): _cell(rows, m, c, metric) for m in methods for c in cases}
    widths = [max(len(c), *(len(cells[m, c]) for m in methods)) for c in cases]
    first = max(len("method"), *map(len, methods))
    head = "  ".join(name.rjust(width) for name, width in zip(cases, widths, strict=True))
    lines = [f"{'method':<{first}}  {head}"]
    for method in methods:
        found = (cells[method, c].rjust(w) for c, w in zip(cases, widths, strict=True))
        lines.append(f"{method:<{first}}  {'  '.join(found)}".rstrip())
    lines.append(
        f"test {metric}, mean and standard deviation over {len(meta['seeds'])} seeds; "
        f"{meta['trials']} tuning trials each"
    )
    lines += [verdict(summarise(rows, meta)), *failures(rows)]
    report = result.folder / "report.html"
    lines.append(str(report if report.is_file() else result.folder))
    return lines


def _cell(rows: list[dict[str, Any]], method: str, case: str, metric: str) -> str:
    values = [
        row["test"][metric]
        for row in rows
        if (row["method"], row["case_id"], row["kind"], row["status"])
        == (method, case, "final", "done")
        and row["test"].get(metric) is not None
    ]
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def failures(rows: list[dict[str, Any]], most: int = 10) -> list[str]:
    """A line for each run that failed."""
    failed = [row for row in rows if row["status"] == "failed"]
    lines = [f"failed: {_name(row)}: {row['error']}" for row in failed[:most]]
    if len(failed) > most:
        lines.append(f"and {len(failed) - most} more failed")
    return lines


def _name(row: Mapping[str, Any]) -> str:
    number = row["trial"] if row["kind"] == "trial" else row["seed"]
    what = "trial" if row["kind"] == "trial" else "seed"
    return f"{row['case_id']}, {row['method']}, {what} {number}"
