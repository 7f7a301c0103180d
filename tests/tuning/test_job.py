"""Whole runs on small data: what they leave, and what their options do."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from tests.tuning.test_kill import same_tensors
from tests.tuning.toys import settings
from tether.data import load_data
from tether.data.keyed import KeyedDataset
from tether.errors import ConfigError, TetherError
from tether.files import read_rows
from tether.models import load_exported, load_model
from tether.tuning.config import load_config
from tether.tuning.job import tune
from tether.tuning.result import Result

STILL = {"augment": "none", "model_args": {"pretrained": False}}
SGD = {"optim": "sgd", "precision": "fp32", "lr": 0.01, **STILL}


class Recorder(TrainerCallback):
    """Keeps the loss of each update, the rates of the groups, and the head before the first."""

    def __init__(self, head="head"):
        self.losses, self.head_name = [], head

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **now):
        self.rates = [(g["lr"], g["weight_decay"], len(g["params"]))
                      for g in optimizer.param_groups]  # fmt: skip
        self.head = {
            name: p.detach().clone() for name, p in model.named_parameters()
            if name.startswith(self.head_name)
        }  # fmt: skip

    def on_log(self, args, state, control, logs=None, **now):
        if "loss" in logs:
            self.losses.append(logs["loss"])


def exported(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def apart(a, b):
    return max(float((a[name] - b[name]).abs().max()) for name in a)


# -- what a run leaves -----------------------------------------------------------------------------


def test_images_from_end_to_end(images, tmp_path):
    run = tmp_path / "run"
    result = tune(settings(images, run, methods=["l2_sp:weight=0.01", "elr"]))
    left = {path.name for path in run.iterdir()}
    assert left >= {
        "config.yaml", "environment.json", "run.log", "metrics.jsonl", "result.json", "DONE",
        "checkpoints", "model", "predictions-validation.csv",
    }  # fmt: skip
    assert "FAILED" not in left and not [name for name in left if name.endswith(".tmp")]
    rows = read_rows(run / "metrics.jsonl")
    assert [(row["stage"], row["epoch"], row["step"]) for row in rows] == [(1, 1, 3), (1, 2, 6)]
    assert {"train_loss", "learning_rate", "validation_accuracy", "validation_nll", "seconds",
            "l2_sp.distance"} <= rows[0].keys()  # fmt: skip
    assert Result.read(run) == result and result.history == rows
    assert (result.metric, result.steps, result.epochs) == ("accuracy", 6, 2)
    assert result.last["validation"]["accuracy"] == rows[-1]["validation_accuracy"]
    best = max(rows, key=lambda row: row["validation_accuracy"])  # the first among equals
    assert result.best_epoch == best["epoch"]
    assert result.best["validation"]["nll"] == pytest.approx(best["validation_nll"], abs=1e-6)
    environment = json.loads((run / "environment.json").read_text())
    assert environment["processes"] == 1 and environment["torch"]

    predicted = table(run / "predictions-validation.csv")
    assert len(predicted) == 6
    right = np.mean([row["label"] == row["predicted"] for row in predicted])
    assert right == pytest.approx(result.best["validation"]["accuracy"])
    loaded = load_exported(run / "model")
    assert loaded.class_names == ["blue", "green", "red"]
    same_tensors(run / "model/model.safetensors", run / "checkpoints/best/model.safetensors")

    last = run / "checkpoints" / "last"
    assert last.is_symlink() and (last / "manifest.json").is_file()
    assert any("elr" in name for name in load_file(last / "methods.safetensors"))
    assert len(list((run / "checkpoints").glob("checkpoint-*"))) == 2
    assert tune(settings(images, run, methods=["l2_sp:weight=0.01", "elr"]), resume=True) == result


def test_texts_by_our_loss_and_by_the_models_own(of_texts, tmp_path):
    given = {"grad_accum_steps": 2, "batch_size": 4, "limit_train": 24, "optim": "sgd", "lr": 0.02}
    ours = tune(of_texts("ours", **given))
    theirs = tune(of_texts("theirs", loss="model", **given))
    assert ours.steps == 6 and theirs.metric == "accuracy"
    # dropout is on: the same masks are drawn where the same forwards are made
    same_tensors(*(tmp_path / name / "model/model.safetensors" for name in ("ours", "theirs")))
    tune(of_texts("pulled", loss="model", methods=["l2_sp:weight=1"], **given))
    assert apart(exported(tmp_path / "ours"), exported(tmp_path / "pulled")) > 1e-5
    assert load_exported(tmp_path / "ours" / "model").class_names == ["blame", "neither", "praise"]


@pytest.mark.parametrize(
    ("given", "metric", "columns"),
    [
        ({"label_column": "topics", "task": "multi_label"}, "map", {"p_film", "p_plot"}),
        ({"label_column": "stars", "task": "regression"}, "mae", {"predicted_stars"}),
    ],
)
def test_other_tasks(of_texts, tmp_path, given, metric, columns):
    result = tune(of_texts(methods=["l2_sp:weight=0.01"], **given))
    assert result.metric == metric and metric in result.last["validation"]
    assert columns <= table(tmp_path / "run/predictions-validation.csv")[0].keys()
    assert load_exported(tmp_path / "run" / "model").task == given["task"]


# -- best and last, patience, going on -------------------------------------------------------------


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory):
    """A run on wrong labels that gets worse before its patience runs out."""
    run = tmp_path_factory.mktemp("overfitted") / "run"
    given = settings("demo:digits", run, epochs=30, eval_metric="nll", patience=2, export="last")
    return given, run, tune(given)


def test_the_last_weights_are_exported_where_asked(overfitted):
    _, run, result = overfitted
    assert result.stopped_early and result.best_epoch == result.epochs - 2 < 28
    assert result.best["validation"]["nll"] < result.last["validation"]["nll"]
    same_tensors(run / "model/model.safetensors", run / "checkpoints/last/model.safetensors")
    assert not (run / "checkpoints" / "last.safetensors").exists()
    right = np.mean([row["label"] == row["predicted"] for row in
                     table(run / "predictions-test.csv")])  # fmt: skip
    assert right == pytest.approx(result.last["test"]["accuracy"])


def test_a_run_that_had_stopped_early_stays_so(overfitted):
    given, run, before = overfitted
    (run / "DONE").unlink()  # as if killed after its last checkpoint
    again = tune(given, resume=True)
    for name in ("last", "best", "best_epoch", "epochs", "steps", "stopped_early", "history"):
        assert getattr(again, name) == getattr(before, name), name


class Breaks(TrainerCallback):
    def on_epoch_begin(self, args, state, control, **now):
        if int(state.epoch or 0) == 2:
            raise RuntimeError("broken on purpose")


def test_a_run_that_failed_goes_on(images, tmp_path):
    given = {"methods": ["elr", "adarand"], "epochs": 4, "patience": 2, "lr": 0.01}
    whole = tune(settings(images, tmp_path / "whole", **given))
    config = settings(images, tmp_path / "broken", **given)
    with pytest.raises(RuntimeError, match="on purpose"):
        tune(config, callbacks=[Breaks()])
    assert "broken on purpose" in (tmp_path / "broken" / "FAILED").read_text()
    assert "broken on purpose" in (tmp_path / "broken" / "run.log").read_text()
    again = tune(config, resume=True)
    assert not (tmp_path / "broken" / "FAILED").exists()
    assert (again.last, again.best, again.steps) == (whole.last, whole.best, whole.steps)
    same_tensors(tmp_path / "whole/model/model.safetensors",
                 tmp_path / "broken/model/model.safetensors")  # fmt: skip


def test_a_run_begins_anew_where_asked(images, tmp_path):
    run = tmp_path / "run"
    tune(settings(images, run, epochs=1, export="none", save_total_limit=0))
    assert not (run / "model").exists()
    assert not list((run / "checkpoints").glob("checkpoint-*"))
    (run / "stray.txt").write_text("old")
    result = tune(settings(images, run, epochs=1.5, seed=2), overwrite=True)
    assert (run / "stray.txt").exists()  # not a run's
    assert (run / "model").exists()
    assert (result.steps, result.epochs) == (5, pytest.approx(5 / 3))


# -- options of the loss ---------------------------------------------------------------------------


def test_class_weights(images, tmp_path):
    plain = tune(settings(images, tmp_path / "plain", **SGD))
    tune(settings(images, tmp_path / "balanced", class_weights="balanced", **SGD))
    # as many of each class: every weight is 1
    assert apart(exported(tmp_path / "plain"), exported(tmp_path / "balanced")) < 1e-6
    given = {"class_weights": "red=1,green=1,blue=0", "epochs": 6, **SGD, "lr": 0.05}
    never = tune(settings(images, tmp_path / "never", export="last", **given))
    assert "ClassWeights" in never.methods[-1] and not plain.methods
    predicted = {r["predicted"] for r in table(tmp_path / "never/predictions-validation.csv")}
    assert "blue" not in predicted


def test_label_smoothing_raises_the_first_loss_as_it_should(images, tmp_path):
    found = {}
    for smoothing in (0.0, 0.3):
        keep = Recorder()
        given = {"label_smoothing": smoothing, "logging_steps": 1, "epochs": 1, **SGD}
        result = tune(settings(images, tmp_path / str(smoothing), **given), callbacks=[keep])
        found[smoothing] = keep.losses
        assert bool(result.methods) == bool(smoothing)
    assert found[0.0][0] != found[0.3][0]
    made = load_model(load_config(settings(images, tmp_path / "none", **STILL)),
                      load_data(load_config({"data": str(images), "seed": 1})))  # fmt: skip
    assert made.head == "head"


# -- options of the optimiser ----------------------------------------------------------------------


@pytest.mark.parametrize("methods", [[], ["l2_sp:weight=0.1", "elr"]])
def test_accumulation_is_a_large_batch(images, tmp_path, methods):
    tune(settings(images, tmp_path / "whole", methods=methods, **SGD))
    given = {"batch_size": 2, "grad_accum_steps": 4, "methods": methods, **SGD}
    parts = tune(settings(images, tmp_path / "parts", **given))
    assert parts.steps == 6
    whole, parts = exported(tmp_path / "whole"), exported(tmp_path / "parts")
    assert apart(whole, parts) < 1e-6


def test_a_frozen_backbone_does_not_move(images, tmp_path):
    given = settings(images, tmp_path / "run", model="timm:test_efficientnet", freeze="backbone",
                     head_lr_mult=10, lr=0.01, export="last", augment="light")  # fmt: skip
    config = load_config(given)
    before = load_model(config, load_data(config))
    start = {name: tensor.clone() for name, tensor in before.model.state_dict().items()}
    tune(given)
    after = exported(tmp_path / "run")
    assert any("running_mean" in name for name in start)
    for name, tensor in start.items():
        same = torch.equal(tensor, after[name])
        assert same != name.startswith(before.head), name


def test_layers_learn_slower_below(images, tmp_path):
    keep = Recorder()
    given = {"layer_decay": 0.5, "head_lr_mult": 4, "epochs": 1, "lr_scheduler": "constant"}
    tune(settings(images, tmp_path / "run", weight_decay=0.1, **given), callbacks=[keep])
    rates = sorted({round(rate / 2e-3, 9) for rate, _, _ in keep.rates})
    assert rates[-1] == 4 and 1.0 in [round(r * 2, 9) for r in rates] + rates
    assert all(rate in {0.5**k for k in range(40)} for rate in rates[:-1])
    assert {decay for _, decay, _ in keep.rates} == {0.1, 0.0}


@pytest.mark.parametrize("optim", ["adam", "rmsprop", "adagrad", "nadam", "radam"])
def test_every_optimiser_trains(tmp_path, optim):
    given = {"optim": optim, "epochs": 1, "export": "none", "save_total_limit": 0, "lr": 5e-3}
    result = tune(settings("demo:digits", tmp_path / "run", **given))
    assert result.last["test"]["accuracy"] > 0.2


def test_half_precision_trains(images, tmp_path):
    result = tune(settings(images, tmp_path / "run", precision="bf16", methods=["elr", "l2_sp"]))
    weights = exported(tmp_path / "run").values()
    assert all(tensor.dtype == torch.float32 for tensor in weights)
    assert 0 < result.last["validation"]["nll"] < 5


@pytest.mark.long
def test_a_compiled_model_trains_alike(tmp_path):
    given = {"epochs": 1, "methods": ["adarand", "l2_sp:weight=0.01"]}
    plain = tune(settings("demo:digits", tmp_path / "plain", **given))
    compiled = tune(settings("demo:digits", tmp_path / "compiled", compile=True, **given))
    assert compiled.steps == plain.steps
    assert apart(exported(tmp_path / "plain"), exported(tmp_path / "compiled")) < 1e-4


# -- chance ----------------------------------------------------------------------------------------


def test_seeds(images, tmp_path, monkeypatch):
    rows, read = [], KeyedDataset.__getitem__

    def note(self, row):
        if self.train:
            rows.append((self.epoch, int(row)))
        return read(self, row)

    monkeypatch.setattr(KeyedDataset, "__getitem__", note)
    seen = {}
    for name, given in {
        "one": {}, "two": {}, "other": {"seed": 2}, "l2_sp": {"methods": ["l2_sp"]},
        "several": {"methods": ["adarand", "elr"]},
    }.items():  # fmt: skip
        keep = Recorder()
        rows.clear()
        config = settings(images, tmp_path / name, logging_steps=1, export="last", **given)
        tune(config, callbacks=[keep])
        seen[name] = (list(rows), keep.head, keep.losses)
    one, other = seen["one"], seen["other"]
    assert len(one[0]) == 48 and sorted(one[0]) == [(e, r) for e in (0, 1) for r in range(24)]
    for name in ("two", "l2_sp", "several"):
        assert seen[name][0] == one[0], name  # the same samples in the same order
        for key, value in one[1].items():
            assert torch.equal(value, seen[name][1][key]), name
    assert seen["two"][2] == one[2]
    assert seen["l2_sp"][2][0] == one[2][0]  # at w0 it adds nothing
    assert seen["l2_sp"][2][1:] != one[2][1:]
    assert other[0] != one[0] and apart(other[1], one[1]) > 0
    same_tensors(tmp_path / "one/model/model.safetensors", tmp_path / "two/model/model.safetensors")


def test_noise_is_in_the_training_labels_only(images, tmp_path):
    given = settings(images, tmp_path / "run", noise="symmetric:0.5", epochs=1)
    clean, noisy = (load_data(load_config({**given, "noise": n})) for n in ("", "symmetric:0.5"))
    assert clean.tables["train"].ids == noisy.tables["train"].ids
    changed = clean.tables["train"].labels != noisy.tables["train"].labels
    assert 0 < changed.mean() < 1
    assert (clean.tables["validation"].labels == noisy.tables["validation"].labels).all()
    tune(given)
    for row in table(tmp_path / "run" / "predictions-validation.csv"):
        assert row["id"].startswith(f"{row['label']}/")


def test_a_tracker_that_is_not_installed_is_refused(images, tmp_path, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "tensorboard" else find(name)
    )
    with pytest.raises(ConfigError, match=r"tensorboard is not installed: pip install tensorboard"):
        tune(settings(images, tmp_path / "run", report_to="tensorboard"))
    assert not (tmp_path / "run").exists()


def test_what_the_models_own_loss_does_not_show(of_texts, tmp_path):
    with pytest.raises(TetherError, match=r"'elr'.*the model's own loss"):
        tune(of_texts(loss="model", methods=["elr"]))
    assert not (tmp_path / "run").exists()
