"""The results of a study as tables: CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from tether.compare.summary import Summary
from tether.compare.summary_pairs import Comparison
from tether.compare.summary_scores import Row, Score
from tether.compare.summary_words import Numbers, p_text

HEADS = (
    "method",
    "score",
    "seeds",
    "difference",
    "95 % interval",
    "p (Holm)",
    "win/tie/loss",
    "finding",
    "seconds",
    "MiB",
    "trials",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the start of a row it would be an option of the line break
    "±": r"$\pm$",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}


def result_cells(summary: Summary, case: str) -> list[list[str]]:
    """The rows of the table of a case, as text under `HEADS`; the baseline comes first.

    Args:
        summary: the findings of a study.
        case: name of the case.
    """
    numbers = Numbers(summary.fraction)
    found = {
        each.method: each
        for each in summary.comparisons
        if each.case == case and each.against == summary.baseline
    }
    scores = [score for score in summary.scores if score.case == case]
    scores.sort(key=lambda score: score.method != summary.baseline)
    return [
        [
            *_score_cells(score, numbers),
            *_pair_cells(found.get(score.method), numbers),
            *_cost_cells(score),
        ]
        for score in scores
    ]


def _score_cells(score: Score, numbers: Numbers) -> list[str]:
    text = numbers.score(score.mean)
    if math.isfinite(score.deviation):
        spread = numbers.difference(score.deviation, bare=True).lstrip("+")
        text += f" ± {spread}"
    failed = score.failed + score.without_score
    return [score.method, text, f"{len(score.values)}" + (f" ({failed} failed)" if failed else "")]


def _pair_cells(pair: Comparison | None, numbers: Numbers) -> list[str]:
    if pair is None:
        return ["–"] * 4 + ["baseline"]
    return [
        numbers.difference(pair.mean, bare=True),
        numbers.interval(pair.interval) if pair.interval else "too few seeds",
        p_text(pair.p_holm),
        f"{pair.wins}/{pair.ties}/{pair.losses}",
        pair.verdict,
    ]


def _cost_cells(score: Score) -> list[str]:
    return [_amount(score.seconds), _amount(score.memory_mib), str(score.trials)]


def _amount(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}" if math.isfinite(value) else "–"


def markdown_tables(summary: Summary) -> str:
    """All cases as Markdown tables.

    Example:
        >>> from tether.compare.summary import summarise
        >>> rows = [{"case_id": "a|b", "method": "plain", "kind": "final", "status": "done",
        ...          "seed": 0, "test": {"accuracy": 0.5}}]
        >>> print(markdown_tables(summarise(rows, {"metric": "accuracy"})).splitlines()[0])
        ## a\\|b
    """
    parts = []
    for case in summary.cases:
        lines = [f"## {_markdown(case)}", "", _line(HEADS), _line(["---"] * len(HEADS))]
        lines += [_line(cells) for cells in result_cells(summary, case)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_markdown(cell) for cell in cells) + " |"


def _markdown(text: str) -> str:
    flat = " ".join(text.split())
    for sign in "\\`*_[]<>|#$":
        flat = flat.replace(sign, "\\" + sign)
    return flat


def latex_tables(summary: Summary) -> str:
    """All cases as LaTeX tables (booktabs); put `\\usepackage{booktabs}` in the preamble."""
    parts = ["% needs \\usepackage{booktabs}"]
    for case in summary.cases:
        lines = [
            "\\begin{table}",
            f"  \\caption{{{latex(case)}: {latex(summary.metric)}}}",
            "  \\begin{tabular}{l" + "r" * (len(HEADS) - 1) + "}",
            "    \\toprule",
            "    " + " & ".join(latex(head) for head in HEADS) + " \\\\",
            "    \\midrule",
        ]
        for cells in result_cells(summary, case):
            lines.append("    " + " & ".join(latex(cell) for cell in cells) + " \\\\")
        lines += ["    \\bottomrule", "  \\end{tabular}", "\\end{table}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def latex(text: str) -> str:
    """Text without anything that LaTeX would obey.

    Example:
        >>> print(latex("5 % of a_b"))
        5 \\% of a\\_b
    """
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(text.split()))


def runs_csv(rows: Sequence[Row]) -> str:
    """Every run as one line of CSV: what it was, how it ended, what it reached and cost.

    Texts that a spreadsheet would take for a formula begin with an apostrophe.

    Args:
        rows: the runs of a study.

    Example:
        >>> row = {"case_id": "a", "method": "plain", "kind": "final", "status": "done",
        ...        "seed": 0, "test": {"accuracy": 0.5}}
        >>> print(runs_csv([row]).splitlines()[0])
        case_id,method,kind,trial,seed,status,error,which,best_epoch,seconds,memory_mib,key,test.accuracy
    """
    parts = ("case", "settings", "validation", "test", "per_class")
    plain = "case_id method kind trial seed status error which best_epoch seconds memory_mib key"
    heads = plain.split()
    nested = dict.fromkeys(
        (part, str(key)) for part in parts for row in rows for key in (row.get(part) or {})
    )
    target = io.StringIO()
    table = csv.writer(target, lineterminator="\n")
    table.writerow([*heads, *(_cell(f"{part}.{key}") for part, key in nested)])
    for row in rows:
        values = [row.get(head) for head in heads]
        values += [(row.get(part) or {}).get(key) for part, key in nested]
        table.writerow([_cell(value) for value in values])
    return target.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        flat = value.encode("utf-8", "replace").decode()
        return "'" + flat if flat.startswith(_FORMULA) else flat
    return value
