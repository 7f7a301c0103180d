"""From rows to findings: what counts, what is left out, and what is said of it."""

import json
import math

import pytest

from tests.compare.studies import meta, rich_study, row, study
from tether.compare.summary import summarise
from tether.compare.summary_words import verdict
from tether.files import write_json

pytest.importorskip("scipy")
NAN = float("nan")
PLAIN = [0.70, 0.71, 0.72, 0.69, 0.70, 0.71]
BETTER = [0.75, 0.77, 0.77, 0.75, 0.74, 0.77]


def test_a_clear_difference_is_said():
    found = summarise(*study({"data": {"plain": PLAIN, "elr": BETTER}}))
    each = found.comparisons[0]
    assert each.verdict == "better" and each.significant and each.more_seeds is None
    assert (each.wins, each.ties, each.losses) == (6, 0, 0)
    low, high = each.interval
    assert low < each.mean < high and low > 0
    assert verdict(found).startswith("elr is better than plain: +5.33 points [+4.48; +6.19], p <")
    assert found.differs and found.tests == 1


def test_lower_is_better():
    rows, about = study({"data": {"plain": PLAIN, "elr": BETTER}}, higher_is_better=False)
    found = summarise(rows, about)
    each = found.comparisons[0]
    assert each.verdict == "worse" and each.mean > 0
    assert (each.wins, each.losses) == (0, 6)
    assert "elr is worse than plain" in verdict(found)


def test_no_difference_is_said_with_what_would_settle_it():
    noisy = [0.71, 0.69, 0.74, 0.68, 0.72, 0.70]
    found = summarise(*study({"data": {"plain": PLAIN, "elr": noisy}}))
    each = found.comparisons[0]
    assert each.verdict == "no significant difference" and not found.differs
    assert each.more_seeds > 0 and each.detectable > abs(each.mean)
    words = verdict(found)
    assert words.startswith("No significant difference in 1 case (6 seeds per method, 1 test")
    assert f"{each.more_seeds} more seeds would show it" in words


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_are_said(seeds):
    found = summarise(*study({"data": {"plain": PLAIN[:seeds], "elr": BETTER[:seeds]}}))
    each = found.comparisons[0]
    assert each.verdict == "too few seeds to tell"
    assert each.interval is None and math.isnan(each.p) and found.tests == 0
    assert verdict(found).startswith("Too few seeds to tell")
    assert any("Too few seeds for an interval in data" in text for text in found.warnings)


def test_pairs_are_equal_seeds():
    rows = [row("data", "plain", seed, score) for seed, score in enumerate(PLAIN)]
    rows += [row("data", "elr", seed + 2, score) for seed, score in enumerate(BETTER)]
    found = summarise(rows, meta(["plain", "elr"], ["data"]))
    each = found.comparisons[0]
    assert list(each.differences) == [2, 3, 4, 5] and each.unpaired == 4
    assert each.differences[2] == pytest.approx(BETTER[0] - PLAIN[2])
    assert any("4 scores without a partner" in text for text in found.warnings)


@pytest.mark.parametrize("missing", [NAN, None, math.inf, "broken"])
def test_scores_that_are_none_do_not_count(missing):
    rows, about = study({"data": {"plain": PLAIN, "elr": BETTER}})
    rows[7]["test"] = {"accuracy": missing}
    found = summarise(rows, about)
    elr = found.scores[1]
    assert elr.without_score == 1 and 1 not in elr.values and math.isfinite(elr.mean)
    assert found.comparisons[0].pairs == 5
    assert any("ended without a score: elr in data (1)" in text for text in found.warnings)


def test_failed_runs_count_as_failed_unless_repeated():
    rows, about = study({"data": {"plain": PLAIN, "elr": BETTER}})
    rows[6] = {**rows[6], "status": "failed", "test": {}}
    rows[7] = {**rows[7], "status": "failed", "test": {}}
    rows.append(row("data", "elr", 1, 0.9))  # the second try
    rows.append({**row("data", "elr", 2, 0.1), "status": "failed"})  # after a success
    found = summarise(rows, about)
    assert found.scores[1].failed == 1
    assert found.scores[1].values[1] == 0.9 and found.scores[1].values[2] == BETTER[2]
    assert found.warnings[0].startswith("1 final run failed: elr in data (1)")


def test_identical_methods_tie():
    found = summarise(*study({"data": {"plain": PLAIN, "elr": PLAIN}}))
    each = found.comparisons[0]
    assert (each.test, each.p, each.ties, each.effect) == ("identical", 1.0, 6, 0.0)
    assert each.more_seeds is None and each.interval == (0.0, 0.0)
    assert each.verdict == "no significant difference"
    assert any("The same score on every seed: elr and plain in data" in t for t in found.warnings)


def test_trials_are_cost_not_evidence():
    rows, about = study({"data": {"plain": PLAIN, "elr": BETTER}})
    for number in range(4):
        rows.append(
            row("data", "elr", 0, 0.999, kind="trial", trial=number, seconds=2.5,
                status="failed" if number == 3 else "pruned")
        )  # fmt: skip
    found = summarise(rows, about)
    elr = found.scores[1]
    assert (elr.trials, elr.trials_failed, elr.tuning_seconds) == (4, 1, 10.0)
    assert elr.mean == pytest.approx(sum(BETTER) / 6)
    assert "1 tuning trial failed." in found.warnings


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "No final run has ended with a score."),
        ({"data": {"plain": PLAIN}}, "Only plain has scores"),
        ({"data": {"plain": PLAIN, "elr": [NAN] * 6}}, "Only plain has scores"),
    ],
)
def test_nothing_to_compare(table, words):
    rows, _ = study({"data": {"plain": [0.0]}})
    rows, about = study(table) if table else ([], meta(["plain"], []))
    assert verdict(summarise(rows, about)).startswith(words)


def test_without_a_baseline_the_first_method_is_one():
    rows, about = study({"data": {"a": PLAIN, "b": BETTER}})
    assert summarise(rows, {**about, "baseline": "gone"}).baseline == "a"


def test_family_spans_all_cases():
    table = {f"c{k}": {"plain": PLAIN, "elr": BETTER, "l2": PLAIN[::-1]} for k in range(6)}
    found = summarise(*study(table))
    assert len(found.comparisons) == 12 and len(found.across) == 2
    assert found.tests == 12 + 2 + 1  # pairs in cases, pairs over cases, the ranks
    raw = [each.p for each in found.comparisons]
    assert min(each.p_holm for each in found.comparisons) == pytest.approx(15 * min(raw))
    elr = found.across[0]
    assert (elr.cases, elr.wins, elr.p) == (6, 6, pytest.approx(0.03125))
    assert elr.verdict == "no significant difference"  # 0.031 does not survive the correction
    assert found.ranks.average["elr"] == 1.0


def test_many_findings_stay_a_few_sentences():
    better = [[b + 0.001 * k * (-1) ** seed for seed, b in enumerate(BETTER)] for k in range(9)]
    table = {"plain": PLAIN, **{f"m{k}": scores for k, scores in enumerate(better)}}
    words = verdict(summarise(*study({"data": table})))
    assert words.count("is better than plain") == 6 and "And 3 more findings." in words


def test_few_cases_are_only_described():
    table = {f"c{k}": {"plain": PLAIN, "elr": BETTER} for k in range(3)}
    found = summarise(*study(table))
    assert found.across[0].verdict == "too few data sets to tell"
    assert math.isnan(found.across[0].p) and found.tests == 3
    assert "elr against plain, 3 cases: better in 3 (c0, c1 and c2)." in verdict(found)


def test_json_is_whole_and_finite(tmp_path):
    found = summarise(*rich_study(trials=2))
    write_json(tmp_path / "s.json", found.as_json())
    text = (tmp_path / "s.json").read_text(encoding="utf-8")
    assert "NaN" not in text and "Infinity" not in text
    read = json.loads(text)
    assert read["verdict"] == verdict(found) and read["differs"] is True
    assert read["scaling"][0]["crossing"]["sizes"] == [200.0, 800.0, 3200.0]


def test_names_cannot_reach_the_terminal():
    rows, about = study({"data": {"plain": PLAIN, "e\x1b[31mlr\n": BETTER, "\u202eevil": BETTER}})
    words = verdict(summarise(rows, about))
    assert "\x1b" not in words and "\n" not in words
    assert "\u2068\u202eevil\u2069" in words
