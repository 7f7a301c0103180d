"""The tests of a study in detail, and how they were made, on the page."""

from __future__ import annotations

import math

from tether.compare.intervals import FEWEST_BOOTSTRAP
from tether.compare.power import MOST_SEEDS
from tether.compare.statistics import FEWEST_PAIRS
from tether.compare.summary import Summary
from tether.compare.summary_pairs import NO_DIFFERENCE, Comparison
from tether.compare.summary_words import Numbers, p_text
from tether.report import Cell, Column, Page

MOST_ROWS = 200


def add_tests(page: Page, summary: Summary) -> None:
    """How the tests were made, and a table of every comparison.

    Args:
        page: gets the blocks.
        summary: the findings of the study.
    """
    level = f"{100 * summary.alpha:g} %"
    page.add_text(
        "Every comparison is a two-sided paired t test of the differences on the same seed. With "
        "three to five seeds an exact permutation test could never reach 5 %; its p-value is "
        "given as a second opinion. Where all seeds show the same difference there is no spread, "
        "and the sign-flip test decides.",
        f"Holm's correction covers every test of the study ({summary.tests} here): if no method "
        f"differed, any finding at all would appear in at most {level} of such studies. "
        f"Intervals need {FEWEST_PAIRS} seeds, bootstrap intervals {FEWEST_BOOTSTRAP}.",
        "More seeds: how many further ones would find a difference as large as the one seen, "
        "with a chance of 80 %. It takes what was seen for the truth, so it is a guide. "
        "Detectable: the smallest true difference that the present seeds would find.",
    )
    numbers = Numbers(summary.fraction)
    unit = "points" if summary.fraction else ""
    shown = sorted(summary.comparisons, key=lambda each: not each.significant)[:MOST_ROWS]
    left = len(summary.comparisons) - len(shown)
    page.add_table(
        [
            "method",
            "against",
            *(["case"] if len(summary.cases) > 1 else []),
            Column("pairs", align="right"),
            Column("difference", align="right", note=unit),
            Column("t interval", align="right", note="95 %"),
            Column("bootstrap", align="right", note="95 %"),
            "test",
            Column("p", align="right", note="raw"),
            Column("p", align="right", note="sign flip"),
            Column("p", align="right", note="Holm"),
            Column("effect", align="right", note="sd of differences"),
            "finding",
            Column("more seeds", align="right", note="80 % power"),
            Column("detectable", align="right", note=unit),
        ],
        [_row(each, numbers, several=len(summary.cases) > 1) for each in shown],
        "Every comparison.",
        note=f"{left} more: summary.json." if left else "",
    )


def _row(each: Comparison, numbers: Numbers, *, several: bool) -> list[object]:
    few = "too few seeds"
    return [
        each.method,
        each.against,
        *([each.case] if several else []),
        Cell(each.pairs, note=f"{each.unpaired} unpaired" if each.unpaired else ""),
        numbers.difference(each.mean, bare=True),
        numbers.interval(each.interval) if each.interval else few,
        numbers.interval(each.bootstrap) if each.bootstrap else few,
        each.test,
        p_text(each.p),
        p_text(each.p_sign_flip),
        p_text(each.p_holm),
        f"{each.effect:+.2f}".replace("-", "−") if math.isfinite(each.effect) else None,
        Cell(each.verdict, strong=each.significant),
        _more(each),
        numbers.difference(each.detectable, bare=True).lstrip("+"),
    ]


def _more(each: Comparison) -> str | None:
    if each.more_seeds:
        return str(each.more_seeds)
    if each.verdict == NO_DIFFERENCE and each.mean:
        return f"over {MOST_SEEDS}"
    return None
