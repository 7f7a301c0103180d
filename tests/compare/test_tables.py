import csv
import io

import pytest

from tests.compare.studies import NASTY, meta, rich_study, row, study
from tether.compare.summary import summarise
from tether.compare.tables import (
    HEADS,
    latex,
    latex_tables,
    markdown_tables,
    result_cells,
    runs_csv,
)

pytest.importorskip("scipy")
PLAIN = [0.70, 0.71, 0.72]


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_every_run():
    rows, _ = rich_study()
    lines = read(runs_csv(rows))
    assert len(lines) == len(rows)
    final = next(line for line in lines if line["kind"] == "final" and line["status"] == "done")
    assert float(final["test.accuracy"]) > 0.5 and final["settings.lr"] == "0.001"
    assert final["case.limit_train"] == "200" and final["per_class.<b>shoe</b>"]
    failed = next(line for line in lines if line["error"])
    assert failed["status"] == "failed" and failed["test.accuracy"] == ""
    assert {line["method"] for line in lines} >= {NASTY, "טלאי", "mixup 🧪"}


def test_csv_is_no_spreadsheet_formula():
    risky = row("data", "=HYPERLINK(1)", 0, -0.5, error="+1\nline", settings={"a": "@x", "b": [1]})
    line = read(runs_csv([risky]))[0]
    assert line["method"] == "'=HYPERLINK(1)" and line["error"] == "'+1\nline"
    assert line["settings.a"] == "'@x" and line["settings.b"] == "[1]"
    assert line["test.accuracy"] == "-0.5"  # a number stays a number


def test_tables_say_what_the_numbers_say():
    rows, about = study({"data": {"elr": [0.8, 0.83, 0.82], "plain": PLAIN}}, baseline="plain")
    found = summarise(rows, about)
    first, second = result_cells(found, "data")
    assert first[0] == "plain" and first[7] == "baseline"
    cells = dict(zip(HEADS, second, strict=True))
    assert cells["score"] == "81.67 % ± 1.53" and cells["difference"] == "+10.67"
    assert cells["win/tie/loss"] == "3/0/0" and cells["finding"] == "better"
    assert cells["seconds"] == "12" and cells["MiB"] == "600" and cells["trials"] == "0"


def test_too_few_seeds_stand_where_an_interval_would():
    found = summarise(*study({"data": {"plain": PLAIN[:2], "elr": PLAIN[:2]}}))
    cells = dict(zip(HEADS, result_cells(found, "data")[1], strict=True))
    assert cells["95 % interval"] == "too few seeds" and cells["p (Holm)"] == "–"
    assert cells["finding"] == "too few seeds to tell"


def test_markdown_keeps_its_columns():
    rows = [row("a|b\nc", name, 0, 0.5) for name in ("plain", "x|y", "<b>", "a_b*")]
    text = markdown_tables(summarise(rows, meta(["plain", "x|y", "<b>", "a_b*"], ["a|b\nc"])))
    lines = text.splitlines()
    assert lines[0] == "## a\\|b c"
    for line in lines[2:]:
        assert line.replace("\\|", "").count("|") == len(HEADS) + 1
    assert "\\<b\\>" in text and "a\\_b\\*" in text


def test_latex_obeys_nothing_in_names():
    name = r"\input{x} 5% of $a_b ~ #^&"
    assert latex(name) == (
        r"\textbackslash{}input\{x\} 5\% of \$a\_b \textasciitilde{} \#\textasciicircum{}\&"
    )
    rows = [row("data", each, seed, 0.5) for each in ("plain", "[x]") for seed in range(3)]
    text = latex_tables(summarise(rows, meta(["plain", "[x]"], ["data"])))
    assert "    {[}x]" in text  # not an option of the line break before it
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {line.replace(r"\&", "").count("&") for line in body} == {len(HEADS) - 1}
    assert text.count("\\begin") == text.count("\\end")
