"""What a comparison refuses before its first run, in one line."""

from __future__ import annotations

import fcntl
import sqlite3

import numpy as np
import pytest

from tests.compare.toys import rows, study
from tests.tuning.toys import image_folder
from tether.cli import main
from tether.compare.fingerprints import located
from tether.compare.session import read_result, run_study
from tether.errors import ConfigError

pytestmark = pytest.mark.usefixtures("warm")


@pytest.fixture
def data(tmp_path):
    return rows(tmp_path / "rows.npz")


def refused(message, asked, folder, **how):
    with pytest.raises(ConfigError, match=message) as caught:
        run_study(asked, folder, workers=how.pop("workers", 0), **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_test_rows_in_training_are_found_by_their_content(tmp_path):
    leaky = rows(tmp_path / "leaky.npz", leak=3)
    folder = tmp_path / "study"
    message = "3 of 30 test samples occur in the train split as well .*'test.*--leaks allow"
    refused(message, study(leaky), folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    allowed = study(leaky, leaks="allow", trials=1, methods="plain", settings={"epochs": 1})
    assert run_study(allowed, folder, workers=0).meta["leaks"] == {"leaky": 3}


def test_a_test_image_that_was_copied_into_training(tmp_path):
    root = image_folder(tmp_path / "data", per_class=4, pixels=8, splits=("train", "test"))
    source = next((root / "test").rglob("*.png"))
    for name in ("blue", "red"):
        (root / "train" / name / "copy.png").write_bytes(source.read_bytes())
    refused("1[0-9]* of 12 test samples occur in the train split", study(root), tmp_path / "study")


def test_data_without_a_test_split(tmp_path):
    path = tmp_path / "x.npz"
    labels = np.arange(12) % 3
    np.savez(path, train_features=np.eye(12, 4, dtype=np.float32), train_labels=labels)
    refused("there is no test split with labels", study(path), tmp_path / "study")


def test_data_that_changed_under_finished_runs(data, tmp_path):
    asked = study(data, trials=1, methods="plain", settings={"epochs": 1})
    run_study(asked, tmp_path / "study", workers=0)
    rows(data, seed=1)
    refused("data of rows: the train split is another one.*--new", asked, tmp_path / "study")
    told = []
    run_study(asked, tmp_path / "study", workers=0, new=True, tell=told.append)
    assert len(told) == 3


def test_folders_that_are_something_else_or_in_use(data, tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "mine.txt").write_text("x", encoding="utf-8")
    refused("is not empty and holds no study", study(data), folder)
    refused("there is a file of this name", study(data), data)
    busy = tmp_path / "busy"
    busy.mkdir()
    with open(busy / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused("another comparison is working in this folder", study(data), busy)
    with pytest.raises(ConfigError, match="holds no study"):
        read_result(busy)


def test_a_storage_that_is_locked_or_of_another_kind(data, tmp_path, monkeypatch):
    monkeypatch.setattr("tether.compare.storage.PATIENCE", 0.3)
    base = tmp_path / "base.db"
    with sqlite3.connect(base) as other:
        other.execute("create table x (y int)")
        other.execute("begin exclusive")
        refused("is locked: another program has it open", study(data), tmp_path / "a",
                storage=str(base))  # fmt: skip
        other.rollback()
    other.close()
    refused("storage mysql://…: use a file", study(data), tmp_path / "b", storage="mysql://x/y")
    missing = str(tmp_path / "no" / "folder.db")
    refused("cannot be opened", study(data), tmp_path / "c", storage=missing)
    (tmp_path / "text.db").write_text("no database " * 100, encoding="utf-8")
    refused("file is not a database", study(data), tmp_path / "d",
            storage=str(tmp_path / "text.db"))  # fmt: skip


def test_paths_with_variables(monkeypatch):
    monkeypatch.setenv("TOY_PLACE", "/somewhere")
    monkeypatch.delenv("NO_PLACE", raising=False)
    found = located({"data": "$TOY_PLACE/x", "weights": "${TOY_PLACE}/w", "lr": 1})
    assert found == {"data": "/somewhere/x", "weights": "/somewhere/w", "lr": 1}
    with pytest.raises(ConfigError, match="option data: set the variable NO_PLACE"):
        located({"data": "$NO_PLACE/x"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a comparison needs models and data and methods: give --model and --data"),
        (["none.yaml", "-o", "x"], "config file none.yaml does not exist"),
        (["--model", "demo:digits", "--data", "demo:digits", "--methods", "plain"],
         "no output folder: give --output STUDY"),
        (["--report"], "--report: name the folder of the study"),
        (["none", "--report"], "none holds no study"),
        (["--space", "lr", "-o", "x"], "--space lr: write --space KEY=RANGE"),
        (["--seeds", "one", "--model", "a", "--data", "b", "--methods", "plain", "-o", "x"],
         "seeds: expected a whole number, got 'one'"),
        (["--trails", "3"], "No such option: --trails"),
    ],
)  # fmt: skip
def test_the_command_says_what_is_wrong(words, message, capsys):
    assert main(["compare", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("tether compare: ")
    assert message in printed.err and printed.err.count("\n") == 1
