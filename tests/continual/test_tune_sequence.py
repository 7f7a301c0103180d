"""``tether tune --sequence``: a stage a task, what is carried, going on after a kill."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.methods.noisy_digits import images
from tests.tuning.kill import attempt, wait
from tests.tuning.test_kill import same_tensors
from tether.cli.app import run as command
from tether.data import load_data
from tether.errors import ConfigError
from tether.models import load_exported
from tether.tuning import callbacks
from tether.tuning.config import load_config
from tether.tuning.job import tune
from tether.tuning.opened import open_run
from tether.tuning.result import Result
from tether.tuning.stage_spec import stage_configs

METHODS = ["incremental_bce", "prediction_distillation", "ewc:weight=10,samples=32"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of numbers: low, middle and high digits, and low ones turned."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tasks")
    x, y = images()
    turned = torch.rot90(x.view(-1, 8, 8), 1, (1, 2)).reshape(-1, 64)
    for name, rows, own in (
        ("low", x, (0, 1, 2)), ("middle", x, (3, 4)), ("high", x, (7, 8)),
        ("turned", turned, (0, 1, 2)), ("odd", x, (1, 3)),
    ):  # fmt: skip
        at = torch.isin(y, torch.tensor(own)).nonzero().flatten().numpy()
        parts = {"train": at[:120], "validation": at[120:160], "test": at[160:300]}
        arrays: dict[str, Any] = {}
        for split, part in parts.items():
            arrays[f"{split}_features"] = rows.numpy()[part]
            arrays[f"{split}_labels"] = np.array([f"digit {k}" for k in y.numpy()[part]])
        np.savez(folder / f"{name}.npz", **arrays)
    return folder


def given(folder: Path, names: str, run: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": "tether:mlp", "model_args": {"layers": 2, "hidden": 64}, "epochs": 4, "seed": 1,
        "sequence": ",".join(str(folder / f"{name}.npz") for name in names.split(",")),
        "batch_size": 20, "lr": 0.01, "device": "cpu", "optim": "sgd", "weight_decay": 0.0,
        "lr_scheduler": "constant", "output_dir": str(run), "epoch_measures": False,
        "methods": METHODS, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("whole") / "run"
    return tune(given(digits, "low,middle,high", run, lr=0.05, epochs=6))


def test_a_head_grows_and_old_tasks_are_kept(digits: Path, tmp_path: Path, whole: Result) -> None:
    plain = tune(given(digits, "low,middle,high", tmp_path / "run", methods=[], lr=0.05, epochs=6))
    assert whole.sequence is not None and plain.sequence is not None
    assert whole.sequence["average_accuracy"] > plain.sequence["average_accuracy"] + 0.1
    assert whole.sequence["forgetting"] < plain.sequence["forgetting"]
    assert whole.sequence["matrix"][0][1:] == [None, None]
    assert whole.sequence["forward_transfer"] is None
    assert whole.sequence["classes"][1] == ["digit 3", "digit 4"]
    assert whole.sequence["samples"] == [140, 140, 140]
    text = whole.summary()
    assert "accuracy on" in text and "forgetting" in text
    assert Result.read(whole.run_dir).sequence == whole.sequence


def test_what_the_run_leaves(whole: Result, digits: Path) -> None:
    run = Path(whole.run_dir)
    loaded = load_exported(run / "model")
    assert loaded.class_names == [f"digit {k}" for k in (0, 1, 2, 3, 4, 7, 8)]
    # the exported model is the one that the last row of the matrix speaks of
    config = load_config(run / "config.yaml")
    assert config.export == "last"
    low = load_data(load_config({"data": str(digits / "low.npz")}))
    with torch.no_grad():
        rows = torch.from_numpy(np.stack(low.tables["test"].inputs))
        said = loaded.model(rows).argmax(1).numpy()
    assert float((said == low.tables["test"].labels).mean()) == whole.sequence["matrix"][-1][0]
    # what a later task is told
    assert "old_classes=[0, 1, 2, 3, 4]" in whole.methods[1]
    assert "fisher.safetensors" in whole.methods[2]
    one, two = (load_file(run / f"checkpoints/stage-{n}/fisher.safetensors") for n in (1, 2))
    assert len(one["head.weight"]) == 3 and len(two["head.weight"]) == 5
    assert all(bool((two[name][: len(one[name])] >= one[name]).all()) for name in one)
    # old rows of the head go on where they were, new ones begin anew
    opened = open_run(run, weights="last")
    assert opened.model is not None and len(opened.assembly.source.class_names) == 7


def test_tasks_are_stages_that_know_those_before() -> None:
    config = load_config({"sequence": "a,b,c", "model": "tether:mlp"})
    specs = stage_configs(config)
    assert [(s.config.data, s.config.sequence) for s in specs] == [
        ("a", "a"), ("b", "a,b"), ("c", "a,b,c"),
    ]  # fmt: skip
    assert [s.start_from for s in specs] == ["pretrained", "last", "last"]


def test_the_same_classes_again_measure_forward_transfer(digits: Path, tmp_path: Path) -> None:
    config = given(digits, "low,turned", tmp_path / "run", methods=["prediction_distillation"])
    found = tune(config).sequence
    assert found is not None and found["forward_transfer"] is not None
    assert found["classes"][0] == found["classes"][1]
    assert None not in found["matrix"][0] and None not in found["start"]


@pytest.mark.parametrize(
    "place", ["in task 2", pytest.param("before progress.json", marks=pytest.mark.long)]
)
def test_a_killed_sequence_goes_on_as_if_it_had_not_been(
    digits: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tether.tuning import job

    straight = tune(given(digits, "low,middle", tmp_path / "straight", epochs=2))
    config = given(digits, "low,middle", tmp_path / "killed", epochs=2)
    module: Any = callbacks if place == "in task 2" else job
    name = "append_row" if place == "in task 2" else "write_json"
    real = getattr(module, name)

    def deadly(path: Path, value: Any) -> None:
        if module is job and path.name == "progress.json":
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, value)
        if module is callbacks and value["stage"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(module, name, deadly)
    assert wait(attempt(config, resume=False)) == -signal.SIGKILL
    monkeypatch.undo()
    assert wait(attempt(config, resume=True)) == 0
    again = Result.read(tmp_path / "killed")
    assert again.sequence is not None and straight.sequence is not None
    for key in ("matrix", "known", "start", "forgetting"):
        assert again.sequence[key] == straight.sequence[key]
    names = ("model/model.safetensors", "checkpoints/stage-1/fisher.safetensors")
    for file in names:
        same_tensors(tmp_path / "straight" / file, tmp_path / "killed" / file)


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        ("low,odd", {}, "share the classes digit 1, but not all"),
        ("low", {}, "one task"),
        ("low,low", {}, "stands in it twice"),
        ("low,middle", {"data": "demo:digits"}, "--data and --sequence"),
        ("low,middle", {"stages": [{"epochs": 1}]}, "stages and sequence"),
        ("low,absent", {}, "no file or folder"),
    ],
)
def test_a_sequence_that_is_none_is_refused_before_anything_is_written(
    digits: Path, tmp_path: Path, names: str, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(given(digits, names, tmp_path / "run", **more))
    assert not (tmp_path / "run").exists()


def test_the_command(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "tune", "--model", "tether:mlp", "--sequence", f"{digits}/low.npz,{digits}/middle.npz",
        "--epochs", "1", "--device", "cpu", "--output-dir", str(tmp_path / "run"),
        "--method", "incremental_bce", "--no-epoch-measures", "--json",
    ]  # fmt: skip
    assert command(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["sequence"]["matrix"]) == 2
    words[4] = f"{digits}/low.npz,{digits}/odd.npz"
    words[words.index("--output-dir") + 1] = str(tmp_path / "other")
    assert command([w for w in words if w != "--json"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "share the classes" in told
