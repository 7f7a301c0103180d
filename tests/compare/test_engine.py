"""Whole comparisons on rows of numbers: the same table however they are run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compare.toys import rows, study, table
from tether.cli import main
from tether.compare.session import read_result, run_study
from tether.errors import ConfigError
from tether.files import read_rows

pytestmark = pytest.mark.usefixtures("warm")

TRIALS = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return rows(tmp_path_factory.mktemp("data") / "rows.npz")


@pytest.fixture(scope="module")
def once(data, tmp_path_factory):
    """A comparison in this process, and its folder."""
    told = []
    folder = tmp_path_factory.mktemp("once") / "study"
    found = run_study(study(data, trials=TRIALS), folder, workers=0, tell=told.append)
    assert len(told) == len(found.rows) == 2 * (TRIALS + 2)
    return found


def test_every_method_has_as_many_trials_and_the_same_seeds(once):
    for method in ("plain", "l2_sp"):
        mine = [row for row in once.rows if row["method"] == method]
        trials = [row for row in mine if row["kind"] == "trial"]
        finals = [row for row in mine if row["kind"] == "final"]
        assert [row["trial"] for row in trials] == list(range(TRIALS))
        assert {row["seed"] for row in trials} == {1000}
        assert [row["seed"] for row in finals] == [0, 1]
        assert all(row["test"] == {} and row["per_class"] == {} for row in trials)
        assert all(set(row["per_class"]) == {"0", "1", "2"} for row in finals)
        done = [row for row in trials if row["status"] == "done"]
        best = max(done, key=lambda row: row["validation"]["accuracy"])
        assert all(row["settings"] == best["settings"] for row in finals)
        share = sum(finals[0]["per_class"].values()) / 3
        assert finals[0]["test"]["balanced_accuracy"] == pytest.approx(share)
        assert all(row["memory_mib"] > 50 and row["seconds"] > 0 for row in finals)


def test_files_hold_the_rows_and_no_run_folder_is_left(once):
    names = {path.name for path in once.folder.iterdir()}
    assert {"study.yaml", "meta.json", "results.jsonl", "study.db"} <= names
    assert "runs" not in names
    assert read_rows(once.folder / "results.jsonl") == json.loads(json.dumps(once.rows))
    again = read_result(once.folder)
    assert again.meta["methods"] == ["plain", "l2_sp"]
    assert again.meta["spaces"]["l2_sp"]["l2_sp.weight"]["log"] is True
    assert set(again.meta["fingerprints"]["rows"]) == {"train", "test"}


def test_a_second_start_repeats_nothing(once, data):
    told = []
    again = run_study(study(data, trials=TRIALS), once.folder, workers=0, tell=told.append)
    assert told == []
    assert again.rows == once.rows


def test_a_pool_of_two_comes_to_the_same_table(once, data, tmp_path):
    pooled = run_study(study(data, trials=TRIALS), tmp_path / "pool", workers=2)
    assert table(pooled.rows) == table(once.rows)


def test_optuna_has_the_trials(once):
    import optuna

    url = f"sqlite:///{once.folder}/study.db"
    found = optuna.load_study(study_name="study / rows / l2_sp", storage=url)
    mine = [row for row in once.rows if row["method"] == "l2_sp" and row["kind"] == "trial"]
    assert [trial.params for trial in found.trials] == [row["settings"] for row in mine]
    assert [trial.value for trial in found.trials] == [row["curve"][-1][1] for row in mine]


@pytest.mark.long
def test_trials_are_added_by_extending_and_chosen_settings_follow(once, data, tmp_path):
    folder = tmp_path / "study"
    few = run_study(study(data, trials=2), folder, workers=0)
    with pytest.raises(ConfigError, match=r"trials: 2 before, 5 now.*--extend"):
        run_study(study(data, trials=TRIALS), folder, workers=0)
    more = run_study(study(data, trials=TRIALS), folder, workers=0, extend=True)
    assert table(more.rows) == table(once.rows)
    kept = {row["key"]: row["seconds"] for row in few.rows if row["kind"] == "trial"}
    assert kept.items() <= {row["key"]: row["seconds"] for row in more.rows}.items()
    with pytest.raises(ConfigError, match="--new"):
        run_study(study(data, trials=2, score="best"), folder, workers=0, extend=True)
    anew = run_study(study(data, trials=2, score="best"), folder, workers=0, new=True)
    assert {row["which"] for row in anew.rows} == {"best"}


def test_tuning_finds_an_option_that_was_set_badly(data, tmp_path):
    """A learning rate at which nothing is learnt is the default, and the first trial's."""
    bad = study(
        data, trials=1, methods=["plain"], settings={"lr": 1e-5, "epochs": 4},
        space={"lr": "log(1e-5, 1e-1)"},
    )  # fmt: skip
    first = run_study(bad, tmp_path / "study", workers=0)
    assert {row["settings"]["lr"] for row in first.rows} == {1e-5}
    found = run_study({**bad, "trials": 5}, tmp_path / "study", workers=0, extend=True)
    trials, finals = found.rows[:5], found.rows[5:]
    assert trials[0]["settings"] == {"lr": 1e-5}
    assert all(row["settings"]["lr"] > 1e-3 for row in finals)
    assert finals[0]["validation"]["accuracy"] > trials[0]["validation"]["accuracy"] + 0.2


@pytest.mark.long
def test_what_is_worse_than_the_median_is_broken_off(data, tmp_path):
    asked = study(
        data, trials=7, methods=["plain"], settings={"epochs": 5},
        space={"lr": "log(1e-6, 1e-1)"},
    )  # fmt: skip
    found = run_study(asked, tmp_path / "pruned", workers=0)
    pruned = [row for row in found.rows if row["status"] == "pruned"]
    assert pruned and all(row["trial"] >= 4 for row in pruned)
    assert all(0 < len(row["curve"]) < 5 for row in pruned)
    assert found.failed == 0
    whole = run_study({**asked, "prune": False}, tmp_path / "whole", workers=0)
    assert {row["status"] for row in whole.rows} == {"done"}


def test_failed_runs_are_kept_and_reported_and_may_be_retried(data, tmp_path, capsys):
    words = [
        "compare", "--model", "tether:mlp", "--data", str(data), "--methods", "plain",
        "--seeds", "2", "--trials", "1", "--workers", "0", "-o", str(tmp_path / "study"),
        "--space", "lr=log(1e29,1e31)", "--set", "lr=1e30", "--set", "epochs=2",
        "--set", "device=cpu",
    ]  # fmt: skip
    assert main(words) == 3
    printed = capsys.readouterr()
    assert "failed: rows, plain, trial 0: " in printed.out
    assert "1/3 rows / plain / trial 0: failed" in printed.err
    found = read_result(tmp_path / "study")
    assert [row["status"] for row in found.rows] == ["failed"] * 3
    assert found.rows[0]["error"] and "every tuning trial" in found.rows[1]["error"]
    assert main(words) == 3
    assert "trial 0" not in capsys.readouterr().err  # it is not done again
    assert main([*words, "--retry-failed"]) == 3
    assert "trial 0: failed" in capsys.readouterr().err


def test_the_command_prints_the_table_or_rows(data, tmp_path, capsys):
    folder = tmp_path / "study"
    words = [
        "compare", "--model", "tether:mlp", "--data", str(data), "--methods", "plain",
        "--seeds", "2", "--trials", "1", "--set", "epochs=1", "--set", "device=cpu",
        "-o", str(folder), "--workers", "0",
    ]  # fmt: skip
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "plain (baseline): lr log(0.0001, 0.01)" in printed
    assert "1 tuning trials on seed 1000" in printed and "2 runs on the seeds 0, 1" in printed
    assert not folder.exists()
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["method", "rows"]
    assert main(["compare", str(folder), "--workers", "0", "--json"]) == 0
    assert [row["kind"] for row in json.loads(capsys.readouterr().out)] == [
        "trial", "final", "final",
    ]  # fmt: skip
    assert main(["compare", str(folder), "--report"]) == 0
