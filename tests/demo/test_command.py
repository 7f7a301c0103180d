import json
import os
import re
import subprocess
import sys

import pytest

from tether.demo.__main__ import main
from tether.demo.experiments import EXPERIMENTS

RUNS = sum(len(experiment.methods) for experiment in EXPERIMENTS.values())


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "tether.demo", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    arguments = ("--seeds", 1, "--seed", 7, "--epochs", 2, "--json", "--output-dir", folder)
    return run(*arguments), folder


@pytest.mark.slow
def test_results_on_stdout_progress_on_stderr(tiny):
    done, folder = tiny
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["seeds"] == [7]
    assert document["report"] == str(folder / "report.html")
    for name, experiment in EXPERIMENTS.items():
        found = document["experiments"][name]
        assert list(found["methods"]) == list(experiment.methods)
        for numbers in found["methods"].values():
            assert 0 < numbers["accuracy_last"]["mean"] <= 1
            assert numbers["accuracy_last"]["sd"] is None  # one seed has no spread
    lines = done.stderr.splitlines()
    assert len(lines) == RUNS
    assert lines[-1].startswith(f"[{RUNS}/{RUNS}] ")
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.slow
def test_page_stands_alone(tiny):
    _, folder = tiny
    assert [path.name for path in folder.iterdir()] == ["report.html"]
    html = (folder / "report.html").read_text()
    assert not re.search(r"<script|<link|<img|@import|src=", html)
    addresses = set(re.findall(r"https?://[\w.]+", html))
    assert addresses <= {"http://www.w3.org"}
    assert re.search(r">[^<]*\b(nan|None|missing)\b", html) is None
    for part in ("Wrong labels memorised", "Feature entropy", "label is wrong", "layer2"):
        assert part in html
    assert (
        f"python -m tether.demo --seeds 1 --seed 7 --epochs 2 --json --output-dir {folder}" in html
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seeds", "0"], "--seeds: '0' is not a whole number of at least 1"),
        (["--epochs", "many"], "--epochs: 'many' is not"),
        (["--seed", "-1"], "--seed: "),
        (["--rounds"], "unrecognized arguments: --rounds"),
        (["--output-dir", __file__], "--output-dir: "),
    ],
)
def test_bad_input_is_one_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert words in captured.err


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for option in ("--seeds", "--seed", "--epochs", "--output-dir", "--quick", "--json"):
        assert option in text
