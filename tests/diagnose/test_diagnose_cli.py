"""The commands as a user meets them."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.diagnose.runs import run
from tests.markdown import ROOT
from tether.cli import main


@pytest.fixture
def own(tmp_path):
    return shutil.copytree(run("few"), tmp_path / "few", symlinks=True)


def words(*given):
    return [str(word) for word in given]


def test_verdict_on_stdout_and_two_files(own, capsys):
    steps = ("--only", "scores", "--only", "distances", "--only", "course")
    assert main(words("diagnose", own, *steps)) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "nothing is going wrong, as far as 3 measures tell",
        str(own / "diagnosis.json"), str(own / "report.html"),
    ]  # fmt: skip
    assert "tether diagnose: Scores" in said.err
    assert main(words("diagnose", own, *steps, "--json", "-o", own / "again")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == {"training": 100, "validation": 159}
    assert set(told["steps"]) == {"scores", "distances", "course"}


def test_against_another_run(own, tmp_path, capsys):
    out = tmp_path / "both"
    given = words("diagnose", own, "--against", run("head"), "--only", "distances", "-o", out)
    assert main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "few:" and "head:" in lines
    assert any("Nothing but the head" in line for line in lines[lines.index("head:") :])
    kept = json.loads((out / "diagnosis.json").read_text(encoding="utf-8"))
    assert kept["against"]["name"] == "head"
    assert not (own / "diagnosis.json").exists()


def test_model_on_data_and_a_page_of_several(own, tmp_path, capsys):
    out = tmp_path / "model"
    given = words("--model", own / "model", "--data", "demo:digits-few", "--only", "scores")
    assert main(words("diagnose", *given, "-o", out)) == 0
    capsys.readouterr()
    page = tmp_path / "page.html"
    assert main(words("report", out, run("head"), "-o", page)) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert "2 runs" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["diagnose"], "give the folder of a run"),
        (["diagnose", "nowhere"], "nowhere: no such folder"),
        (["diagnose", "nowhere", "--samples", "0"], "greater than or equal to 1"),
        (["diagnose", "--model", "m", "--data", "d", "--set", "x"], "write --set KEY=VALUE"),
        (["report"], "Missing argument"),
        (["report", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_usage_errors_are_one_line(given, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(given)
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert code == 2 and message in said.err and said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        raise SystemExit(main(["diagnose", "--help"]))
    assert stop.value.code == 0
    told = capsys.readouterr().out
    flags = set(re.findall(r"--[a-z-]+", told))
    assert flags >= {
        "--against", "--model", "--reference", "--data", "--weights", "--split", "--set",
        "--samples", "--max-seconds", "--batch-size", "--only", "--output", "--json",
    }  # fmt: skip


def test_a_run_that_begins_anew_removes_the_old_diagnosis(own):
    from tether.tuning.config import load_config
    from tether.tuning.run_folder import RunFolder

    for name in ("diagnosis.json", "report.html", "notes.txt"):
        (own / name).write_text("old", encoding="utf-8")
    folder = RunFolder(own, load_config(own / "config.yaml"), resume=False, overwrite=True)
    folder.open()
    folder.close()
    assert sorted(path.name for path in own.iterdir() if not path.name.startswith(".")) == [
        "config.yaml", "notes.txt",
    ]  # fmt: skip


def test_the_page_of_the_docs_tells_steps_and_limits():
    from tether.diagnose import confidence, course, distances, features, flatness, memorisation
    from tether.diagnose import scores as s
    from tether.diagnose.groups import all_steps

    text = (ROOT / "docs" / "diagnose.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert told == [step.name for step in all_steps()]
    for limit in (
        f"{100 * memorisation.MEMORISED:.0f} % of them", f"{100 * course.LOST:.0f} % of the best",
        f"accuracy {100 * s.GAP:.0f} points", f"{100 * distances.FAR:.0f} % of their norm, with",
        f"{distances.UPSIDE_DOWN:g} times as far", f"and {100 * distances.LEAST:.0f} % of their",
        f"rank below {100 * features.RANK:.0f} %", f"norm below {100 * features.NORM:.0f} %",
        f"by {features.SPREAD:g} nats a dimension",
        f"noise of {100 * flatness.AT:.0f} % of the weights' size raises the loss by "
        f"{flatness.SHARP:g} nats",
        f"confidence {100 * confidence.OVER:.0f} points", f"recall {100 * s.SUFFERS:.0f} points",
    ):  # fmt: skip
        assert limit in text, limit
