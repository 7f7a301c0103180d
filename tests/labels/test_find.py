"""From a run to its suspects, by the command that people give."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest

from tests.tuning.toys import text_file
from tether.cli.app import run as command
from tether.data import load_data
from tether.errors import ConfigError
from tether.labels.find import find
from tether.labels.review.suspects import COLUMNS, open_review, read_suspects
from tether.measure import average_precision
from tether.tuning.config import load_config
from tether.tuning.job import tune

DIGITS = {"model": "demo:digits", "data": "demo:digits", "epochs": 6, "lr": 0.01, "device": "cpu"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A finished run on digits, of which 40 % of the labels were drawn anew."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    tune({**DIGITS, "output_dir": str(folder)})
    return folder


@pytest.fixture(scope="module")
def source(digits):
    return load_data(load_config(digits))


@pytest.fixture
def run(digits, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(digits, tmp_path / "run", symlinks=True)


def told(capsys, *words):
    code = command(["labels", "find", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out.strip(), captured.err.strip()


def scores_of(path, table):
    found = {suspect.id: suspect.score for suspect in read_suspects(path)}
    return [found[name] for name in table.ids]


def test_the_list_ranks_wrong_labels_first(run, source, capsys):
    code, out, err = told(capsys, run)
    assert code == 0 and out == str(run / "labels" / "suspects.csv")
    assert "labels are probably wrong; noise rate" in err
    with open(out, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = source.tables["train"]
    wrong = table.labels != table.true_labels
    assert tuple(rows[0]) == COLUMNS and len(rows) == len(table)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert average_precision(scores_of(run / "labels" / "suspects.csv", table), wrong) > 0.9
    for row in rows[:40]:
        at = int(row["row"])
        assert table.ids[at] == row["id"] and row["given"] == str(table.labels[at])
        assert row["suggested"] != row["given"] and row["reasons"]
        for column in ("given", "suggested"):
            names = row[f"neighbours_{column}"].split("|")
            assert 1 <= len(names) <= 5 and row["id"] not in names
            assert {str(table.labels[table.ids.index(n)]) for n in names} == {row[column]}
    right = [row["suggested"] == str(table.true_labels[int(row["row"])]) for row in rows[:100]]
    assert np.mean(right) > 0.8
    summary = json.loads((run / "labels" / "summary.json").read_text())
    assert abs(summary["noise_rate"] - wrong.mean()) < 0.06
    low, high = summary["noise_rate_interval"]
    assert low <= summary["noise_rate"] <= high
    assert np.allclose(np.sum(summary["transition"], axis=1), 1.0)
    assert summary["fingerprints"] == dict(source.fingerprints)
    review = open_review(run)  # the next command takes the list
    assert len(review.suspects) == len(table) and not review.warnings


@pytest.mark.long
def test_it_finds_the_same_again(run, tmp_path):
    first = find(run, output=tmp_path / "one.csv", top=20)
    find(run, output=tmp_path / "two.csv", top=20)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    assert len(first.suspects) == 20 and not (run / "labels" / "suspects.csv").exists()


def test_probabilities_of_any_classifier(run, source, tmp_path):
    table = source.tables["train"]
    shares = np.full((len(table), 10), 0.02)
    shares[np.arange(len(table)), table.true_labels] = 0.82
    np.save(tmp_path / "probs.npy", shares)
    shutil.rmtree(run / "labels")  # no record is needed
    found = find(run, pred_probs=tmp_path / "probs.npy")
    wrong = table.labels != table.true_labels
    assert average_precision(scores_of(found.path, table), wrong) == 1.0
    assert abs(found.summary["noise_rate"] - wrong.mean()) < 0.03
    assert found.summary["signals"] == ["predicted"]
    assert found.suspects[0][1].reasons[0].startswith("predicted out of fold: '")


def test_folds_need_no_record(run, source):
    shutil.rmtree(run / "labels")
    found = find(run, folds=3)
    table = source.tables["train"]
    wrong = table.labels != table.true_labels
    assert average_precision(scores_of(found.path, table), wrong) > 0.85
    assert all("pretrained" in name for name in found.summary["signals"])


def several(path, rows=60):
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for i in range(rows):
            topics = [word for k, word in enumerate(("red", "blue", "green")) if i >> k & 1]
            out.writerow([f"{' '.join(topics)} thing number {i}", ";".join(topics)])
    return path


def test_several_labels_a_sample(tmp_path, bert):
    given = {"model": bert, "data": str(several(tmp_path / "t.csv")), "task": "multi_label",
             "epochs": 2, "lr": 1e-3, "device": "cpu"}  # fmt: skip
    tune({**given, "output_dir": str(tmp_path / "run")})
    found = find(tmp_path / "run", top=8)
    assert set(found.summary["labels"]) == {"red", "blue", "green"}
    for _, suspect in found.suspects:
        assert set(suspect.given.split(";")) != set(suspect.suggested.split(";"))
        assert suspect.reasons
    assert read_suspects(found.path)


# -- what cannot be done ---------------------------------------------------------------------------


def test_a_run_without_a_record(run, capsys):
    shutil.rmtree(run / "labels")
    code, out, err = told(capsys, run)
    assert code == 2 and not out and len(err.splitlines()) == 1
    assert "no record of samples: train with --record" in err and "--pred-probs" in err
    assert not (run / "labels").exists()


def test_labels_that_have_changed_since(run, capsys):
    path = run / "labels" / "record" / "given.npy"
    given = np.load(path)
    given[:3] = (given[:3] + 1) % 10
    np.save(path, given)
    code, _, err = told(capsys, run)
    assert code == 2 and "3 labels of the training data have changed" in err


def test_data_that_have_changed_since(tmp_path, capsys, bert):
    path = text_file(tmp_path / "questions.csv")
    tune({"model": bert, "data": str(path), "epochs": 1, "device": "cpu",
          "output_dir": str(tmp_path / "run")})  # fmt: skip
    path.write_text(path.read_text(encoding="utf-8").replace("was", "is"), encoding="utf-8")
    code, _, err = told(capsys, tmp_path / "run")
    assert code == 2 and "have changed" in err
    path.unlink()
    code, _, err = told(capsys, tmp_path / "run")
    assert code == 2 and "questions.csv" in err
    assert not (tmp_path / "run" / "labels" / "suspects.csv").exists()


def test_numbers_are_no_labels(tmp_path, bert):
    path = tmp_path / "n.csv"
    path.write_text(
        "text,label\n" + "".join(f"number {i},{i * 0.37}\n" for i in range(30)), encoding="utf-8"
    )
    tune({"model": bert, "data": str(path), "task": "regression", "epochs": 1, "device": "cpu",
          "output_dir": str(tmp_path / "run")})  # fmt: skip
    assert not (tmp_path / "run" / "labels").exists()
    with pytest.raises(ConfigError, match="the labels are numbers"):
        find(tmp_path / "run")


def test_words_that_do_not_fit(run, tmp_path, capsys):
    np.save(tmp_path / "probs.npy", np.full((400, 9), 1 / 9))
    code, _, err = told(capsys, run, "--pred-probs", tmp_path / "probs.npy")
    assert code == 2 and "(400, 9), and (400, 10) belongs here" in err
    code, _, err = told(capsys, run, "--pred-probs", tmp_path / "probs.npy", "--folds", 3)
    assert code == 2 and "--pred-probs or --folds" in err
    code, _, err = told(capsys, run, "--folds", 500)
    assert code == 2 and "500 folds of 400 training samples" in err
    code, _, err = told(capsys, run, "-o", tmp_path)
    assert code == 2 and "is a folder" in err
    code, _, err = told(capsys, tmp_path)
    assert code == 2 and "holds no run" in err
