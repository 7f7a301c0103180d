"""``tether tune`` from end to end on the digits: streams, exit codes, signals, going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_command import tether

DIGITS = ["--model", "demo:digits", "--data", "demo:digits"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run folder, and what its command printed on stdout and stderr."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "run.yaml").write_text(
        "model: demo:digits\ndata: demo:digits\nlr: 1e-2\nepochs: 5\nmethods: [elr]\n"
        "model_args: {}\noutput-dir: run\n"
    )
    done = tether(
        "tune", "run.yaml", "--set", "epochs=1", "--method", "l2_sp:weight=1e-2", "--json",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout, done.stderr


def test_results_on_stdout_progress_on_stderr(finished: tuple[Path, str, str]) -> None:
    run, printed, progress = finished
    result = json.loads(printed)
    assert result["epochs"] == 1 and result["run_dir"] == "run"
    assert result["methods"] == ["L2SP(weight=0.01)"]
    assert "epoch 1/1" in progress
    text = (run / "config.yaml").read_text()
    assert "\nlr: 0.01\n" in text and "\nepochs: 1.0\n" in text and "- l2_sp:" in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["run.yaml", "--output-dir", "run"], 2, "is not empty: go on with --resume"),
        (["--resume", "--output-dir", "run", "--lr", "1"], 2, "lr: 0.01 in the run, 1.0 now"),
        (["run.yaml", "--resume", "--overwrite"], 2, "contradict each other"),
        ([*DIGITS, "--method", "elr:beta=2", "--output-dir", "new"], 2, r"got 2; beta: share of"),
        ([*DIGITS, "--method", "l2sp", "--output-dir", "new"], 2, "did you mean 'l2_sp'"),
        (["--model", "demo:digits", "--data", "absent/", "--output-dir", "new"], 2, "absent"),
    ],
)
def test_what_cannot_be_done_is_exit_code_2_and_writes_nothing(
    finished: tuple[Path, str, str], words: list[str], code: int, message: str
) -> None:
    folder = finished[0].parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = tether("tune", *words, cwd=folder)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("tether tune: ") and message in done.stderr
    assert "Traceback" not in done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_complete_run_gives_its_result_back(finished: tuple[Path, str, str]) -> None:
    run, printed, _ = finished
    done = tether("tune", "--resume", "--output-dir", "run", "--json", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(printed)


def test_predictions_of_a_run(finished: tuple[Path, str, str]) -> None:
    folder = finished[0].parent
    done = tether("predict", "run", "demo:digits", "-o", "answers.csv", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "answers.csv\n"), done.stderr
    header, *rows = (folder / "answers.csv").read_text().splitlines()
    assert header.startswith("id,label,predicted,confidence,p_") and len(rows) > 100
    done = tether("predict", "nowhere", "demo:digits", cwd=folder)
    assert done.returncode == 2 and done.stderr.startswith("tether predict: ")


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long), (signal.SIGINT, 130)],
)
def test_a_signal_saves_and_says_how_to_go_on(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    words = ["tune", *DIGITS, "--epochs", "300", "--output-dir", "run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tether", *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    rows = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (rows.is_file() and rows.read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(number)
    printed, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert printed == ""
    assert said.splitlines()[-1] == "tether tune: saved; go on with --resume"
    assert not (tmp_path / "run" / "DONE").exists()
