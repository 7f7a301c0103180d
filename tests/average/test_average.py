"""``tether average``: with the start, soups, batch norms, refusals, the files it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.methods.noisy_digits import images
from tests.tuning.toys import image_folder
from tether.average import average_runs
from tether.average.runs import find_runs
from tether.average.scoring import estimate_batch_norm
from tether.cli.app import run as command
from tether.compare.folder import StudyFolder
from tether.errors import ConfigError
from tether.functional import interpolate, uniform_soup
from tether.models import load_exported
from tether.tuning.job import tune
from tether.tuning.opened import open_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in rows of numbers, with splits of their own."""
    torch.set_num_threads(1)
    x, y = images()
    arrays = {}
    for split, part in (("train", slice(0, 200)), ("validation", slice(200, 500)),
                        ("test", slice(500, 900))):  # fmt: skip
        arrays[f"{split}_features"], arrays[f"{split}_labels"] = x.numpy()[part], y.numpy()[part]
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, **arrays)
    return path


def given(data: Path, run: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": "tether:mlp", "model_args": {"layers": 2, "hidden": 32}, "data": str(data),
        "epochs": 3, "batch_size": 20, "lr": 0.1, "optim": "sgd", "device": "cpu", "seed": 1,
        "output_dir": str(run), "epoch_measures": False, "record": False, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three good runs from one start, and one that learnt wrong labels."""
    folder = tmp_path_factory.mktemp("runs")
    for name, more in (
        ("one", {"lr": 0.2}), ("two", {"lr": 0.1}), ("three", {"lr": 0.3, "batch_size": 10}),
        ("bad", {"noise": "symmetric:0.8", "lr": 1.0, "batch_size": 5}),
    ):  # fmt: skip
        tune(given(data, folder / name, **more))
    return [folder / name for name in ("one", "two", "three", "bad")]


# -- formulas --------------------------------------------------------------------------------------


def test_interpolation_and_soup_are_means_and_exact_at_their_ends() -> None:
    rng = np.random.default_rng(0)
    a, b = ({"w": torch.from_numpy(rng.normal(size=(3, 2))), "n": torch.tensor(k)} for k in (1, 2))
    for alpha in (0.0, 0.3, 1.0):
        found = interpolate(a, b, alpha)
        wanted = (1 - alpha) * a["w"].numpy() + alpha * b["w"].numpy()
        np.testing.assert_allclose(found["w"].numpy(), wanted, atol=1e-12)
        assert found["n"] == 2  # a counter is the end's
    assert torch.equal(interpolate(a, b, 0.0)["w"], a["w"])
    assert torch.equal(interpolate(a, b, 1.0)["w"], b["w"])
    soup = uniform_soup([a, b, b])
    np.testing.assert_allclose(soup["w"].numpy(), (a["w"].numpy() + 2 * b["w"].numpy()) / 3)
    assert soup["n"] == 1
    with pytest.raises(ValueError, match="at least one"):
        uniform_soup([])


def test_estimated_statistics_are_those_of_the_inputs_under_the_present_weights() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
            self.drop, self.last = nn.Dropout(0.5), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.drop(self.norm(self.first(x))))

    net, x = Net(), torch.randn(40, 3)
    loader: Any = DataLoader([{"x": row, "labels": 0} for row in x], 10)
    estimate_batch_norm(net, loader)
    seen = net.first(x).detach()
    torch.testing.assert_close(net.norm.running_mean, seen.mean(0), rtol=1e-5, atol=1e-6)
    means = torch.stack([part.var(0) for part in seen.split(10)]).mean(0)
    torch.testing.assert_close(net.norm.running_var, means, rtol=1e-5, atol=1e-6)
    assert net.norm.momentum == 0.1 and not net.training


# -- with the start --------------------------------------------------------------------------------


def test_one_share_is_what_the_formula_says(runs: list[Path], tmp_path: Path) -> None:
    found = average_runs([runs[0]], alpha=[0.25], output=tmp_path / "out")
    opened = open_run(runs[0])
    end, start = opened.tensors(), opened.reference
    state = load_exported(tmp_path / "out").model.state_dict()
    for name, tensor in end.items():
        wanted = tensor if name.startswith("head.") else torch.lerp(start[name], tensor, 0.25)
        torch.testing.assert_close(state[name], wanted, msg=name)
    assert found.best.alpha == 0.25 and found.batch_norm == ""
    kept = json.loads((tmp_path / "out" / "average.json").read_text())
    assert kept["kind"] == "interpolation" and kept["candidates"][0]["scores"]["test"]
    both = average_runs([runs[0]], alpha=[0.0], head="interpolate", output=tmp_path / "out")
    state = load_exported(tmp_path / "out").model.state_dict()
    assert both.best.alpha == 0.0
    assert all(torch.equal(state[name], start[name]) for name in end)


def test_a_scan_takes_the_best_share_on_validation(runs: list[Path], tmp_path: Path) -> None:
    found = average_runs([runs[0]], output=tmp_path / "out")
    values = [one.scores["validation"]["accuracy"] for one in found.candidates]
    assert [one.alpha for one in found.candidates] == [round(0.1 * k, 1) for k in range(11)]
    assert found.best.scores["validation"]["accuracy"] == max(values)
    assert values[0] < values[-1]
    # the whole share is the run itself
    at_end = open_run(runs[0]).result.best["test"]["accuracy"]
    assert found.candidates[-1].scores["test"]["accuracy"] == pytest.approx(at_end)
    assert "alpha 1" in found.summary() and str(tmp_path / "out") in found.summary()


# -- soups -----------------------------------------------------------------------------------------


def test_a_greedy_soup_leaves_out_what_spoils_it(runs: list[Path], tmp_path: Path) -> None:
    found = average_runs(runs, output=tmp_path / "out")
    values = [one.scores["validation"]["accuracy"] for one in found.candidates]
    assert 3 not in found.best.runs and len(found.best.runs) >= 1
    assert found.best.scores["validation"]["accuracy"] >= max(values[:4])
    last = found.candidates[-1]  # the worst run comes last
    assert last.runs[-1] == 3 and last.kept is False
    weights = [open_run(runs[at]).tensors() for at in found.best.runs]
    state = load_exported(tmp_path / "out").model.state_dict()
    for name in weights[0]:
        mean = torch.stack([one[name] for one in weights]).mean(0)
        torch.testing.assert_close(state[name], mean, msg=name)
    again = average_runs(runs[:3], soup="uniform", output=tmp_path / "out")
    assert again.best.runs == [0, 1, 2] and again.kind == "uniform soup"
    text = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "uniform soup" in text and "too good" not in text


def test_a_study_stands_for_its_final_runs(runs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    rows = []
    for key, path in zip(("k1", "k2", "k3"), runs, strict=False):
        shutil.copytree(path, folder / "runs" / key, symlinks=True)
        kind = "trial" if key == "k3" else "final"
        rows.append({"key": key, "kind": kind, "case_id": "digits", "status": "done"})
    (folder / "study.yaml").write_text("name: soup\n")
    study = StudyFolder(folder)
    study.write_study("name: soup\n", {"name": "soup"})
    study.write_rows(rows)
    assert [path.name for path in find_runs([folder, runs[3]])] == ["k1", "k2", "bad"]
    study.write_rows([*rows, {**rows[0], "case_id": "other"}])
    with pytest.raises(ConfigError, match="compares on digits, other"):
        find_runs([folder])
    shutil.rmtree(folder / "runs")
    with pytest.raises(ConfigError, match="--keep-runs"):
        find_runs([folder])


@pytest.mark.long
def test_the_runs_of_a_comparison_make_a_soup(data: Path, tmp_path: Path) -> None:
    from tether.compare import load_study, run_study

    study = load_study(
        {
            "models": "tether:mlp", "data": str(data), "methods": ["plain", "ema"], "seeds": 2,
            "trials": 1,
            "settings": {"lr": 0.2, "epochs": 1, "batch_size": 20, "optim": "sgd", "device": "cpu"},
        }
    )  # fmt: skip
    run_study(study, tmp_path / "study", keep_runs=True, workers=0)
    found = average_runs([tmp_path / "study"], soup="greedy", output=tmp_path / "out")
    assert len(found.runs) == 4
    assert any("seeds 0, 1" in note for note in found.notes)


@pytest.mark.parametrize("batch_norm", ["estimate", "average"])
def test_running_statistics_of_a_soup(tmp_path: Path, batch_norm: str) -> None:
    photos = image_folder(tmp_path / "photos", per_class=6, pixels=32)
    paths = []
    for number in (1, 2):
        run = tmp_path / f"run{number}"
        tune({
            "model": "tether:cifar_resnet20", "model_args": {"pretrained": False},
            "data": str(photos), "epochs": 1, "batch_size": 5, "lr": 0.003 * number,
            "device": "cpu", "seed": 1, "output_dir": str(run), "epoch_measures": False,
            "record": False,
        })  # fmt: skip
        paths.append(run)
    found = average_runs(paths, soup="uniform", batch_norm=batch_norm, output=tmp_path / "out")
    assert found.batch_norm == batch_norm
    state = load_exported(tmp_path / "out").model.state_dict()
    name = next(key for key in state if key.endswith("running_mean"))
    mean = torch.stack([open_run(path).tensors()[name] for path in paths]).mean(0)
    close = torch.allclose(state[name], mean, rtol=1e-4, atol=1e-6)
    assert close == (batch_norm == "average")


# -- refusals --------------------------------------------------------------------------------------


def test_what_cannot_be_averaged_is_refused(runs: list[Path], data: Path, tmp_path: Path) -> None:
    other, seeded = tmp_path / "other", tmp_path / "seeded"
    tune(given(data, other, model_args={"layers": 2, "hidden": 16}, epochs=1))
    mixed = tmp_path / "mixed.npz"
    arrays = dict(np.load(data))
    np.savez(mixed, **{k: v for k, v in arrays.items() if k.startswith("train")})
    for name, seed in (("a", 1), ("b", 2)):
        tune(given(mixed, seeded / name, seed=seed, epochs=1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    for paths, options, words in (
        ([runs[0], other], {}, "model_args"),
        ([runs[0]], {"soup": "greedy"}, "--soup is for several"),
        (runs[:2], {"alpha": [0.5]}, "--alpha is for one run"),
        ([runs[0]], {"alpha": [1.5]}, r"alpha must lie in \[0, 1\], got 1.5"),
        (runs[:2], {"soup": "onion"}, "soup must be one of"),
        ([runs[0], runs[0]], {}, "given twice"),
        ([tmp_path / "absent"], {}, "no such folder"),
        ([seeded / "a", seeded / "b"], {}, "split their data differently"),
        ([runs[0]], {"output": tmp_path / "full"}, "something else"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            average_runs(paths, **{"output": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()
    found = average_runs([seeded / "a", seeded / "b"], soup="uniform", output=tmp_path / "out")
    assert found.best.scores == {}  # nothing is left that neither was trained on


def test_the_command(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    words = ["average", str(runs[0]), "--alpha", "0.5,1", "-o", out, "--device", "cpu", "--json"]
    assert command(words) == 0
    assert len(json.loads(capsys.readouterr().out)["candidates"]) == 2
    assert command(["average", str(runs[0]), str(runs[1]), "-o", out]) == 0
    assert "greedy soup of" in capsys.readouterr().out
    assert command(["average", str(runs[0]), "--alpha", "half", "-o", out]) == 2
    told = capsys.readouterr().err
    assert told == ("tether average: --alpha half: give numbers in [0, 1], separated by commas\n")
    assert command(["predict", out, "demo:digits", "-o", str(tmp_path / "p.csv")]) == 0
