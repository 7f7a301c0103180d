"""A run's profile as constraints: the radii, the round trip, the search that goes on, refusals."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tether.cli.app import run as command
from tether.encode import Profile, encode, measured_profile
from tether.encode.search import Search, write_found
from tether.encode.turning import recorded_losses, start_epochs
from tether.errors import ConfigError
from tether.files import read_rows, write_rows
from tether.methods.weights.radii import read_radii
from tether.tuning.config import load_config
from tether.tuning.job import tune
from tether.tuning.opened import open_run
from tether.tuning.result import Result

DIGITS = {
    "model": "demo:digits", "data": "demo:digits", "epochs": 4, "lr": 0.01, "device": "cpu",
    "seed": 1, "save_total_limit": 0, "export": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("encode") / "plain"
    tune({**DIGITS, "output_dir": str(folder)})
    return folder


@pytest.fixture
def copied(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "plain"))


def moved(run: Path) -> dict[str, float]:
    """Distance of every weight tensor below the head, by hand."""
    opened = open_run(run)
    return {
        name: float((tensor.double() - opened.reference[name].double()).norm())
        for name, tensor in opened.model.state_dict().items()
        if tensor.ndim == 2 and not name.startswith("head.")
    }


def of_group(distances: dict[str, float], group: str) -> list[float]:
    found = [d for name, d in distances.items() if name.startswith(f"{group}.")]
    assert found
    return found


def test_radii_are_a_share_of_what_moved(plain: Path) -> None:
    made = encode(plain, ratio=0.3, head_ratio=0.9)
    assert list(made.radii) == [*made.profile.distances, "head"]
    by_hand = moved(plain)
    for group, distance in made.profile.distances.items():
        squares = [d * d for d in of_group(by_hand, group)]
        assert distance == pytest.approx(math.sqrt(sum(squares) / len(squares)), rel=1e-9)
        assert made.radii[group] == pytest.approx(0.3 * distance, rel=1e-5)
    head = open_run(plain).model.state_dict()["head.weight"].double().norm()
    assert made.radii["head"] == pytest.approx(0.9 * float(head), rel=1e-5)
    assert "head" not in encode(plain).radii


def test_rows_and_weights_tell_the_same(copied: Path) -> None:
    told = measured_profile(copied)
    assert told.source == "metrics.jsonl" and told.epoch == Result.read(copied).best_epoch
    rows = read_rows(copied / "metrics.jsonl")
    write_rows(
        copied / "metrics.jsonl",
        [{k: v for k, v in row.items() if not k.startswith("distance.")} for row in rows],
    )
    measured = measured_profile(copied)
    assert measured.source == "weights"
    assert measured.distances == pytest.approx(told.distances, rel=1e-9)
    assert measured.head == pytest.approx(told.head, rel=1e-9)
    # the rows of an epoch tell its distances without weights; weights that were not kept can't
    shutil.rmtree(copied / "checkpoints")
    with pytest.raises(ConfigError, match="kept no best weights"):
        measured_profile(copied)


def test_neither_data_nor_weights_are_needed_where_rows_tell(copied: Path) -> None:
    shutil.rmtree(copied / "checkpoints")
    last = measured_profile(copied, weights="last")
    assert last.epoch == DIGITS["epochs"] and set(last.distances) == {"layer1", "layer2"}
    assert all(value > 0 for value in last.distances.values())


@pytest.mark.parametrize("name", ["constraints.yaml", "constraints.json"])
def test_tune_stays_within_the_radii_of_the_file(plain: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    made = encode(plain, ratio=0.4)
    made.write(file)
    assert read_radii(file) == made.radii
    tune({**DIGITS, "methods": [f"layerwise_constraint:radii={file}"],
          "output_dir": str(tmp_path / "next")})  # fmt: skip
    before, after = moved(plain), moved(tmp_path / "next")
    at_bound = 0
    for group, radius in made.radii.items():
        assert all(d <= radius * (1 + 1e-5) for d in of_group(after, group))
        whole = [math.hypot(*of_group(d, group)) for d in (before, after)]
        assert whole[1] <= 0.4 * whole[0] * (1 + 1e-4)
        at_bound += sum(d > 0.99 * radius for d in of_group(after, group))
    assert at_bound  # else the test shows nothing


def test_mars_radii_bind_the_mars_norm(plain: Path, tmp_path: Path) -> None:
    made = encode(plain, ratio=0.4, norm="mars")
    file = tmp_path / "constraints.yaml"
    made.write(file)
    assert "norm=mars" in file.read_text()
    method = f"layerwise_constraint:radii={file},norm=mars"
    tune({**DIGITS, "methods": [method], "output_dir": str(tmp_path / "next")})
    opened = open_run(tmp_path / "next")
    for name, tensor in opened.model.state_dict().items():
        group = name.partition(".")[0]
        if tensor.ndim == 2 and group in made.radii:
            rows = (tensor - opened.reference[name]).abs().sum(1)
            assert float(rows.max()) <= made.radii[group] * (1 + 1e-4)


def test_the_file_says_where_it_comes_from(plain: Path) -> None:
    text = encode(plain, ratio=0.5).as_yaml("c.yaml")
    for words in (str(plain), "ratio  0.5", "norm   fro", "radii=c.yaml", "# moved "):
        assert words in text
    tiny = Profile("r", "best", 1.0, "fro", {"a.0": 1e-9, "b": 3e20, "off": 0.0}, None, "weights")
    made = encode(tiny, ratio=0.5)
    # YAML takes 5e-10 for a text, and so must not be given it
    assert yaml.safe_load(made.as_yaml())["radii"] == {"a.0": 5e-10, "b": 1.5e20, "off": 0.0}
    assert made.radii["a.0"] == 5e-10


# -- the search ------------------------------------------------------------------------------------


def test_a_search_keeps_the_best_and_goes_on(copied: Path, tmp_path: Path) -> None:
    whole = Search(Path(shutil.copytree(copied, tmp_path / "whole"))).run(5)
    first = Search(copied).run(2)
    assert len(first.trials) == 2
    told: list[str] = []
    search = Search(copied, say=told.append)
    found = search.run(5)
    assert len(told) == 3  # two were there
    assert [t.ratio for t in found.trials] == [t.ratio for t in whole.trials]
    assert [t.value for t in found.trials] == [t.value for t in whole.trials]
    assert [t.ratio for t in found.trials[:3]] == [0.5, 1.0, 0.25]
    assert found.best.value == max(t.value for t in found.trials if t.value is not None)
    kept = [path.name for path in search.folder.iterdir() if path.is_dir()]
    assert kept == [found.best.folder.name]
    assert Result.read(found.best.folder).best["validation"]["accuracy"] == found.best.value
    # what was written runs, and comes to the same
    files = write_found(found, tmp_path / "constraints.yaml", search.folder)
    assert read_radii(files[0]) == found.constraints.radii
    config = load_config(files[1])
    again = tune(config, overwrite=False)
    assert again.run_dir == str(copied) + "-encoded"
    assert again.best["validation"]["accuracy"] == found.best.value


def test_a_search_that_was_killed_goes_on(copied: Path, tmp_path: Path) -> None:
    whole = Search(Path(shutil.copytree(copied, tmp_path / "whole"))).run(3)
    child = os.fork()
    if not child:
        try:
            Search(copied).run(3)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 120
    while not list(copied.glob("encode/*-001/metrics.jsonl")):  # in the midst of the second
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = Search(copied).run(3)
    assert [(t.ratio, t.value) for t in found.trials] == [(t.ratio, t.value) for t in whole.trials]
    assert len([path for path in (copied / "encode").iterdir() if path.is_dir()]) == 1


def test_start_epochs_lie_round_the_turning_point(copied: Path) -> None:
    search = Search(copied, method="regsl")
    assert search.starts is not None
    found = search.run(4)
    starts = search.starts
    assert found.trials[0].options == {
        "reweighting_start_epoch": starts.reweighting, "correction_start_epoch": starts.correction
    }  # fmt: skip
    for trial in found.trials:
        first, then = (
            trial.options[f"{part}_start_epoch"] for part in ("reweighting", "correction")
        )
        assert 1 <= first < then <= 2 * max(starts.turning, 2)
    (method,) = found.config.methods
    assert method["regsl"]["radii"] == found.constraints.radii


def test_the_turning_point_is_read_off_losses_else_off_validation(plain: Path) -> None:
    losses = recorded_losses(plain)
    assert losses is not None and losses.shape == (DIGITS["epochs"], 400)
    rows = [{"validation_accuracy": v} for v in (0.2, 0.6, 0.5, 0.4, 0.4, 0.3, 0.3, 0.3)]
    assert start_epochs(rows, "accuracy").turning == 2
    assert start_epochs([{"validation_mae": v} for v in (3.0, 1.0, 2.0)], "mae").turning == 2
    # two groups of losses drift apart until epoch 4, then they merge
    gap = np.array([0.2, 1.0, 2.0, 3.0, 2.0, 1.2, 0.6, 0.3])[:, None]
    noise = np.random.default_rng(0).normal(0, 0.2, (8, 60))
    values = noise + gap * (np.arange(60) < 20)
    found = start_epochs(rows, "accuracy", values)
    assert found.source == "losses" and 4 <= found.turning <= 6
    # one sample that was never seen is left out, not the whole
    values[:, 3] = np.nan
    assert start_epochs(rows, "accuracy", values).source == "losses"


# -- refusals --------------------------------------------------------------------------------------


def test_the_command(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    assert command(["encode", str(plain), "--ratio", "0.5", "-o", str(file)]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    assert read_radii(file) == encode(plain, ratio=0.5).radii
    assert command(["encode", str(plain), "--json", "-o", str(tmp_path / "c.json")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["radii"] == read_radii(file) and told["ratio"] == 0.5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ratio", "0"], "option ratio: must be above 0"),
        (["--ratio", "nan"], "option ratio: must be above 0"),
        (["--ratio", "inf"], "option ratio: must be finite"),
        (["--head-ratio", "-1"], "option head_ratio: must be above 0"),
        (["--norm", "l2"], "option norm: fro or mars"),
        (["--weights", "first"], "option weights: best or last"),
        (["-o", "c.txt"], "must end in .yaml"),
        (["--tune", "0"], "at least 1 trial"),
        (["--tune", "2", "--method", "regls"], "did you mean 'regsl'?"),
    ],
)
def test_bad_options_write_nothing(
    plain: Path, tmp_path: Path, words: list[str], message: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert command(["encode", str(plain), *words]) == 2
    told = capsys.readouterr()
    assert message in told.err and not told.out and told.err.count("\n") == 1
    assert not list(tmp_path.iterdir()) and not (plain / "encode").exists()


def test_no_run_and_a_run_that_did_not_move(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["encode", str(tmp_path / "nothing"), "-o", str(tmp_path / "c.yaml")]) == 2
    assert "no such folder" in capsys.readouterr().err
    probe = tmp_path / "probe"
    tune({**DIGITS, "epochs": 1, "freeze": "backbone", "output_dir": str(probe)})
    assert command(["encode", str(probe), "-o", str(tmp_path / "c.yaml")]) == 2
    assert "no weight below the head has moved" in capsys.readouterr().err
    assert not (tmp_path / "c.yaml").exists()


def test_radii_of_another_architecture_are_refused(plain: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    encode(plain).write(file)
    given = {
        **DIGITS, "model": "tether:mlp", "methods": [f"layerwise_constraint:radii={file}"],
        "output_dir": str(tmp_path / "other"),
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"groups layer1, layer2.*mean 'layers\.\d'.*groups are"):
        tune(given)
    file.write_text("radii: [")
    with pytest.raises(ConfigError, match=r"c\.yaml: not valid YAML"):
        tune(given)
    file.unlink()
    with pytest.raises(ConfigError, match=r"c\.yaml: No such file"):
        tune(given)
    assert not (tmp_path / "other").exists()


def test_a_run_with_stages_is_not_searched(tmp_path: Path) -> None:
    folder = tmp_path / "stages"
    tune({**DIGITS, "epochs": 1, "stages": [{"freeze": "backbone"}, {"epochs": 1}],
          "output_dir": str(folder)})  # fmt: skip
    with pytest.raises(ConfigError, match="has stages"):
        Search(folder)
    assert encode(folder).radii  # of its last stage
