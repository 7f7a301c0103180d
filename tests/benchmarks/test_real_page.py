"""The page of the real runs says what its rows say, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.real_lines import Difference, lines_of, statements
from benchmarks.real_page import make_document, page
from benchmarks.real_runs import PLAIN, PROBE, TUNING_SEED

NOISE = "symmetric:0.4"


def row(method: str, seed: int, last: float, case: str = "trec", **more: Any) -> dict[str, Any]:
    """A row as ``benchmarks.real_runs.work`` writes it; accuracies in percent."""
    settings = {"data": "$SHARED/data/x", "epochs": 8, "lr": 1e-4, "methods": []}
    if method == PROBE:
        settings |= {"freeze": "backbone", "lr": 1e-3}
    elif method != PLAIN:
        settings["methods"] = [f"{method}:weight=7.0"]
    scores = {"validation": last / 100, "test": last / 100}
    return {
        "case": case, "noise": more.pop("noise", NOISE), "method": method, "seed": seed,
        "settings": {**settings, **more.pop("settings", {})}, "last": scores,
        "best": {name: (last + more.pop("gain", 5.0)) / 100 for name in ("test", "validation")},
        "best_epoch": 3.0, "seconds": 20.0 + seed, "curve": [last / 100] * 8, **more,
    }  # fmt: skip


def full() -> list[dict[str, Any]]:
    """ELR clearly above plain, AdaRand about the same, L2-SP below the probe."""
    scores = {
        PLAIN: (70, 72, 71), PROBE: (68, 69, 67), "elr": (84, 85, 85), "adarand": (70, 73, 70),
        "l2_sp": (60, 62, 61),
    }  # fmt: skip
    return [
        row(m, seed, value) for m, values in scores.items() for seed, value in enumerate(values)
    ]


def said(rows: list[dict[str, Any]]) -> str:
    return " ".join(statements(lines_of(rows, "trec", NOISE)[0]))


def test_differences_are_paired_over_the_seeds() -> None:
    assert Difference((14.0, 13.0, 14.0)).clear
    assert not Difference((0.0, 1.0, -1.0)).clear
    assert not Difference((14.0,)).clear  # one seed shows nothing
    assert Difference((-3.0, -3.0)).clear
    assert str(Difference((1.0, 2.0))) == "+1.5 ± 0.7"


def test_sentences_follow_from_the_numbers() -> None:
    text = said(full())
    assert "Best at the last epoch: **elr**, +13.7 ± 0.6 points against plain over 3 seeds" in text
    assert "Clearly better than plain: `elr`." in text
    assert "Clearly worse than plain: `linear probe`, `l2_sp`." in text
    assert "No clear difference to plain: `adarand`." in text
    assert "Below the linear probe at the last epoch: `l2_sp` (-7.0 ± 1.0)" in text
    without = [one for one in full() if one["method"] != "l2_sp"]
    assert "No fine-tuning ends below the linear probe." in said(without)


def test_nothing_won_is_said() -> None:
    rows = [one for one in full() if one["method"] in (PLAIN, PROBE, "adarand")]
    text = said(rows)
    assert "Best at the last epoch: **plain fine-tuning**" in text
    assert "Clearly better than plain: none." in text


def test_a_method_that_did_nothing_is_named() -> None:
    same = [row("randreg", seed, value) for seed, value in enumerate((70, 72, 71))]
    assert "it hardly acted: `randreg`." in said([*full(), *same])
    assert "hardly acted" not in said(full())


def test_a_method_with_fewer_seeds_does_not_win() -> None:
    text = said([*full(), row("regsl", 0, 99.0)])
    assert "Best at the last epoch: **elr**" in text
    assert "No clear difference to plain: `adarand`, `regsl`." in text


def test_rows_with_older_settings_do_not_mix_with_newer_ones() -> None:
    rows = [row("elr", 0, 10.0, settings={"epochs": 3}), *full()]
    lines, older = lines_of(rows, "trec", NOISE)
    assert older == 1 and sorted(lines["elr"].scores("last")) == [84.0, 85.0, 85.0]


def test_the_page_has_tables_choices_and_what_is_missing() -> None:
    rows = [
        *full(),
        row(PLAIN, TUNING_SEED, 66.6),
        row("regsl", 1, 80.0),
        row("elr", 0, 90.0, case="another case"),
    ]
    text = page(make_document(rows)).replace("\u00a0", " ")
    assert "| elr | `elr:weight=7.0` | 84.7 ± 0.6 | 89.7 ± 0.6 | 21 | +13.7 ± 0.6 |" in text
    assert "| plain | `lr=0.0001` | 71.0 ± 1.0 |" in text
    assert "| linear probe | `lr=0.001`, `freeze=backbone` | 68.0 ± 1.0 |" in text
    missing = next(line for line in text.splitlines() if line.startswith("Missing so far"))
    assert "`distance_constraint`" in missing and "`regsl` (seed 0, 2)" in missing
    assert "`elr`" not in missing
    assert "| clothing | clean labels | missing | missing | missing |" in text
    assert "- trec: elr +13.7 ± 0.6, regsl +8.0: reached." in text
    assert "- clothing: not run yet." in text
    assert "| 40 % symmetric noise | plain | `lr=0.0001` | 66.6 |" in text
    assert "## another case, 40 % symmetric noise" in text


def test_without_any_row_everything_is_missing() -> None:
    text = page(make_document([]))
    assert "## In short" in text and "±" not in text.partition("## In short")[2]


def test_places_of_this_machine_are_refused() -> None:
    with pytest.raises(ValueError, match="names a place of this machine"):
        make_document([row(PLAIN, 0, 70.0, settings={"data": str(Path.cwd())})])


def test_the_command_writes_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import real_page

    rows, made, text = (tmp_path / name for name in ("rows.jsonl", "rows.json", "page.md"))
    lines = "\n".join(json.dumps(one) for one in full())
    rows.write_text(lines + '\n{"case": "tr', encoding="utf-8")  # the last one is being written
    words = ["real_page", "--rows", rows, "--json", made, "--page", text]
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    assert real_page.main() == 0
    document = json.loads(made.read_text(encoding="utf-8"))
    assert len(document["rows"]) == len(full()) and document["machine"]["torch"]
    assert document["rows"][0]["settings"]["data"] == "$SHARED/data/x"
    assert text.read_text(encoding="utf-8").startswith("# Methods on real data")
