"""Write a comparison: one HTML page that needs nothing else, with CSV and JSON beside it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.compare import page_figures as figures
from tether.compare.page_rerun import add_rerun
from tether.compare.summary import Summary, summarise
from tether.compare.summary_pairs import FEWEST_CASES, Comparison
from tether.compare.summary_scores import Row, Score
from tether.compare.summary_words import Numbers, counted, p_text, shown, verdict
from tether.compare.tables import latex_tables, markdown_tables, runs_csv
from tether.files import write_json, write_text
from tether.report import Cell, Column, Fact, Page, assign_colors
from tether.report.plots import rank_plot

MOST_ROWS = 200


def write_report(
    rows: Sequence[Row],
    meta: Mapping[str, Any],
    folder: str | os.PathLike[str],
    *,
    markdown: bool = False,
    latex: bool = False,
) -> Path:
    """Write the page of a study, every run as CSV, and the findings as JSON.

    Each file is whole or absent; the page comes last.

    Args:
        rows: one mapping per run, as in `results.jsonl`.
        meta: what the study is: name, metric, methods, cases, baseline and so on.
        folder: where `report.html`, `results.csv` and `summary.json` go.
        markdown: also write the tables as `results.md`.
        latex: also write the tables as `results.tex`.

    Returns:
        The path of the page.
    """
    target = Path(folder)
    rows = list(rows)
    summary = summarise(rows, meta)
    html = report_page(summary, rows, meta).html()
    write_text(target / "results.csv", runs_csv(rows))
    write_json(target / "summary.json", summary.as_json())
    if markdown:
        write_text(target / "results.md", markdown_tables(summary))
    if latex:
        write_text(target / "results.tex", latex_tables(summary))
    write_text(target / "report.html", html)
    return target / "report.html"


def report_page(summary: Summary, rows: Sequence[Row], meta: Mapping[str, Any]) -> Page:
    """The page of a study, not yet written.

    Args:
        summary: the findings, from `summarise`.
        rows: the runs, for curves, trials and classes.
        meta: what the study is.
    """
    page = Page(summary.name, verdict(summary), footer=_footer(meta))
    colors = assign_colors(summary.methods, neutral=summary.baseline or None)
    methods = figures.leading_methods(summary)
    page.add_facts(*_facts(summary))
    if summary.warnings:
        page.add_section("Before you trust it")
        page.add_text(*summary.warnings)
    page.add_section("Results")
    _results(page, summary, methods, colors)
    if len(summary.cases) > 1:
        _across(page, summary, methods, colors)
    _scaling(page, summary, rows, meta, methods, colors)
    _curves(page, summary, rows, meta, methods, colors)
    _tests(page, summary)
    add_rerun(page, summary, meta)
    return page


def _footer(meta: Mapping[str, Any]) -> str:
    versions = meta.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _facts(summary: Summary) -> list[Fact]:
    scores = summary.scores
    done = sum(len(score.values) for score in scores)
    failed = sum(score.failed + score.without_score for score in scores)
    seeds = {seed for score in scores for seed in score.values}
    spent = sum(s.tuning_seconds for s in scores)
    spent += sum(s.seconds * len(s.values) for s in scores if math.isfinite(s.seconds))
    trials = sum(score.trials for score in scores)
    return [
        Fact("Methods", str(len(summary.methods)), counted(len(summary.cases), "case")),
        Fact("Seeds", str(len(seeds)), f"{counted(done, 'final run')} with a score"),
        Fact("Tuning trials", str(trials), "over all methods and cases"),
        Fact("Failed", str(failed), "final runs without a score"),
        Fact("Time", _duration(spent), "of all runs, added up"),
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _results(page: Page, summary: Summary, methods: Sequence[str], colors: figures.Colors) -> None:
    apart = 1 < len(summary.cases) <= figures.MOST_CASES  # a table and a figure per case
    if not apart:
        _result_table(page, summary, summary.scores, colors)
    for case in summary.cases[: figures.MOST_CASES]:
        if apart:
            mine = [score for score in summary.scores if score.case == case]
            _result_table(page, summary, mine, colors, case)
        plot = figures.score_dots(summary, case, methods, colors)
        if plot is not None:
            page.add_figure(
                plot,
                "Every seed" if len(summary.cases) == 1 else f"Every seed: {case}",
                "Each dot is one seed. Right: the differences on the same seed, which the tests "
                "look at; an interval that reaches over zero is no difference."
                + _left_out(summary, methods),
            )
    more = len(summary.cases) - figures.MOST_CASES
    if more > 0:
        page.add_text(f"{counted(more, 'more case')} without a picture: see results.csv.")
    _cost_table(page, summary, colors)


def _result_table(
    page: Page, summary: Summary, scores: Sequence[Score], colors: figures.Colors, case: str = ""
) -> None:
    several = len(summary.cases) > 1 and not case
    unit = "points" if summary.fraction else ""
    columns: list[str | Column] = [
        "method",
        *(["case"] if several else []),
        Column(summary.metric.replace("_", " "), align="right", note="mean ± sd"),
        Column("difference", align="right", note=unit),
        Column("95 % interval", align="right", note="of the difference"),
        Column("p", align="right", note="Holm"),
        Column("finding", note=f"against {shown(summary.baseline, 24)}"),
        Column("win/tie/loss", align="right"),
        Column("seeds", align="right"),
    ]
    pairs = {(e.case, e.method): e for e in summary.comparisons if e.against == summary.baseline}
    best, numbers = _best(summary), Numbers(summary.fraction)
    if len(scores) > MOST_ROWS:  # what is cut off must be no finding
        found = {key for key, pair in pairs.items() if pair.significant}
        scores = sorted(scores, key=lambda score: (score.case, score.method) not in found)
    rows = [
        _result_row(score, pairs.get((score.case, score.method)), numbers, colors, best, several)
        for score in scores[:MOST_ROWS]
    ]
    if not rows:
        return
    left = len(scores) - len(rows)
    direction = "higher" if summary.higher_is_better else "lower"
    page.add_table(
        columns,
        rows,
        f"{case}: scores" if case else f"Scores on the test set ({direction} is better).",
        note=f"Test set, {direction} is better. Differences are paired over the seeds. "
        + (
            "Intervals hold for each row alone; p is corrected for all "
            f"{counted(summary.tests, 'test')} of the study. "
            if summary.tests
            else ""
        )
        + "Bold: best mean, which need not be a finding."
        + (f" {counted(left, 'more row')}: summary.json." if left else ""),
    )


def _left_out(summary: Summary, methods: Sequence[str]) -> str:
    left = len({score.method for score in summary.scores if score.values}) - len(methods)
    return f" {counted(left, 'method')} with lower scores not drawn." if left > 0 else ""


def _best(summary: Summary) -> dict[str, float]:
    pick = max if summary.higher_is_better else min
    means: dict[str, list[float]] = {}
    for score in summary.scores:
        if math.isfinite(score.mean):
            means.setdefault(score.case, []).append(score.mean)
    return {case: pick(values) for case, values in means.items()}


def _result_row(
    score: Score,
    pair: Comparison | None,
    numbers: Numbers,
    colors: figures.Colors,
    best: Mapping[str, float],
    several: bool,
) -> list[object]:
    spread = numbers.difference(score.deviation, bare=True).lstrip("+")
    failed = score.failed + score.without_score
    return [
        Cell(score.method, color=colors[score.method]),
        *([score.case] if several else []),
        Cell(
            numbers.score(score.mean) if score.values else None,
            strong=score.mean == best.get(score.case),
            note=f"± {spread}" if len(score.values) > 1 else "",
        ),
        numbers.difference(pair.mean, bare=True) if pair else None,
        (numbers.interval(pair.interval) if pair.interval else "too few seeds") if pair else None,
        p_text(pair.p_holm) if pair else None,
        Cell(pair.verdict, strong=pair.significant) if pair else "baseline",
        f"{pair.wins}/{pair.ties}/{pair.losses}" if pair and pair.pairs else None,
        Cell(len(score.values), note=f"{failed} failed" if failed else ""),
    ]


def _cost_table(page: Page, summary: Summary, colors: figures.Colors) -> None:
    if not summary.scores:
        return
    several = len(summary.cases) > 1
    page.add_table(
        [
            "method",
            *(["case"] if several else []),
            Column("a run", align="right", note="seconds"),
            Column("memory", align="right", note="MiB, at most"),
            Column("tuning trials", align="right"),
            Column("tuning", align="right", note="seconds in all"),
        ],
        [
            [
                Cell(score.method, color=colors[score.method]),
                *([score.case] if several else []),
                f"{score.seconds:.3g}" if math.isfinite(score.seconds) else None,
                f"{score.memory_mib:.0f}" if math.isfinite(score.memory_mib) else None,
                Cell(
                    score.trials,
                    note=f"{score.trials_failed} failed" if score.trials_failed else "",
                ),
                f"{score.tuning_seconds:.0f}" if score.trials else None,
            ]
            for score in summary.scores[:MOST_ROWS]
        ],
        "What it costs.",
        note="Times were measured beside the study's other runs; they compare methods, roughly.",
    )


def _across(page: Page, summary: Summary, methods: Sequence[str], colors: figures.Colors) -> None:
    numbers = Numbers(summary.fraction)
    page.add_section("Over the cases")
    page.add_text(
        "Seeds within a case are not further cases: here every case counts once, with its mean. "
        f"The Wilcoxon test can reach 5 % from {FEWEST_CASES} cases; with fewer, the table only "
        "describes."
    )
    if summary.across:
        page.add_table(
            [
                "method",
                "against",
                Column("cases", align="right"),
                Column("difference", align="right", note="mean over cases"),
                Column("win/tie/loss", align="right", note="cases"),
                Column("p", align="right", note="Wilcoxon, Holm"),
                "finding",
            ],
            [
                [
                    Cell(each.method, color=colors[each.method]),
                    each.against,
                    each.cases,
                    numbers.difference(each.mean),
                    f"{each.wins}/{each.ties}/{each.losses}",
                    p_text(each.p_holm),
                    Cell(each.verdict, strong=each.significant),
                ]
                for each in summary.across[:MOST_ROWS]
            ],
            "Differences of means, one per case.",
        )
    ranks = summary.ranks
    if ranks is None:
        return
    tested = math.isfinite(ranks.friedman_p)
    apart = tested and summary.ranks_differ
    kept = {m: rank for m, rank in ranks.average.items() if m in methods}
    groups = [g for g in ([m for m in group if m in kept] for group in ranks.groups) if len(g) > 1]
    if tested and not apart:
        groups = [list(kept)]
    words = (
        f"Ranks within each of {len(ranks.cases)} cases, averaged. "
        + (
            f"Friedman test after Holm: p = {p_text(summary.ranks_p_holm)}; "
            if tested
            else "Too few cases or methods to test the ranks."
        )
        + (
            "methods joined at the right are not told apart (Nemenyi)."
            if apart
            else "no significant difference between the ranks."
            if tested
            else ""
        )
    )
    page.add_figure(
        rank_plot(kept, ranks.critical_difference, groups, colors=colors),
        "Average ranks",
        words.replace("p = <", "p <"),
    )


def _scaling(
    page: Page,
    summary: Summary,
    rows: Sequence[Row],
    meta: Mapping[str, Any],
    methods: Sequence[str],
    colors: figures.Colors,
) -> None:
    from tether.compare.page_scaling import add_scaling

    if summary.scaling:
        page.add_section("Over the sizes")
        add_scaling(page, summary, rows, meta, methods, colors)


def _curves(
    page: Page,
    summary: Summary,
    rows: Sequence[Row],
    meta: Mapping[str, Any],
    methods: Sequence[str],
    colors: figures.Colors,
) -> None:
    plot = figures.learning_curves(summary, rows, methods[:10], colors)
    if plot is not None:
        page.add_section("Learning curves")
        page.add_figure(
            plot,
            f"Validation {summary.metric.replace('_', ' ')} over the epochs",
            "Mean of the final runs; the band reaches from the lowest seed to the highest.",
        )
    hues = assign_colors(summary.cases[: figures.MOST_CASES])
    plots = figures.sensitivity(summary, rows, meta, hues)
    if plots:
        page.add_section("Tuned options")
        for method, each in plots.items():
            page.add_figure(
                each,
                method,
                "Each dot is one tuning trial, scored on validation data; the line is the value "
                "that was chosen. A flat cloud means that the option hardly matters.",
            )
        tuned = {score.method for score in summary.scores if score.trials}
        if len(tuned) > len(plots):
            more = counted(len(tuned) - len(plots), "more method")
            page.add_text(f"{more} without a picture: see results.csv.")
    classes = figures.class_dots(summary, rows, methods[:7], colors)
    if classes is not None:
        page.add_section("Classes")
        page.add_figure(
            classes,
            f"Accuracy of each class, compared with {shown(summary.baseline)}",
            f"Up to {figures.MOST_CLASSES} classes, those that differ most; lines are 95 % "
            "intervals over the seeds. These are not tested: with many classes some stand out by "
            "chance.",
        )


def _tests(page: Page, summary: Summary) -> None:
    from tether.compare.page_tests import add_tests

    if summary.comparisons:
        page.add_section("Tests in detail")
        add_tests(page, summary)
