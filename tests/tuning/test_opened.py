"""A finished run opened again: the weights it ended with, those it began with, its data."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.tuning.toys import settings
from tether.engine.reference import named_tensors
from tether.errors import ConfigError
from tether.tuning.assembly import assemble
from tether.tuning.config import load_config
from tether.tuning.job import tune
from tether.tuning.metrics import score
from tether.tuning.opened import fill, open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three epochs on digits at a rate so high that the last is not the best."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("opened") / "run"
    tune(settings("demo:digits", folder, epochs=3, lr=0.03, seed=1))
    return folder


@pytest.fixture
def own(run, tmp_path):
    """A copy of the run that may be damaged."""
    return shutil.copytree(run, tmp_path / "run", symlinks=True)


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def logits(opened, split):
    data = opened.assembly.splits[split]
    batch = opened.assembly.collate([data[row] for row in range(len(data))])
    labels = batch.pop("labels")
    with torch.no_grad():
        return opened.model(**batch), labels


def test_weights_and_reference_are_those_of_the_run(run):
    opened = open_run(run)
    assert same(opened.model.state_dict(), load_file(run / "checkpoints/best/model.safetensors"))
    last = open_run(run, weights="last")
    assert same(last.model.state_dict(), load_file(run / "checkpoints/last/model.safetensors"))
    exported = open_run(run, weights="exported")
    assert same(exported.model.state_dict(), load_file(run / "model/model.safetensors"))
    assert not opened.model.training
    began = dict(named_tensors(assemble(load_config(run / "config.yaml")).loaded.model))
    assert same(opened.reference, began)
    assert not same(opened.reference, dict(named_tensors(opened.model)))


def test_scores_are_those_of_the_run(run):
    opened = open_run(run)
    out, labels = logits(opened, "test")
    found = score("single_label", out.numpy(), labels.numpy())
    assert found["accuracy"] == pytest.approx(opened.result.best["test"]["accuracy"])
    assert [row["epoch"] for row in opened.history] == [1, 2, 3]


def test_weights_follow_the_best_file(own):
    file = own / "checkpoints/best/model.safetensors"
    state = load_file(file)
    save_file({name: tensor + 1 for name, tensor in state.items()}, file)
    opened = open_run(own)
    assert torch.equal(opened.model.state_dict()["head.bias"], state["head.bias"] + 1)


def test_stages_give_the_last_one_and_its_pretrained_start(images, tmp_path):
    stages = [{"epochs": 1, "freeze": "backbone"}, {"epochs": 1}]
    tune(settings(images, tmp_path / "run", stages=stages, batch_size=12))
    opened = open_run(tmp_path / "run")
    best = load_file(tmp_path / "run/checkpoints/stage-2/best/model.safetensors")
    assert same(opened.model.state_dict(), best)
    first = assemble(
        load_config(tmp_path / "run/config.yaml", overrides={"stages": []})
    ).loaded.model
    assert same(opened.reference, dict(named_tensors(first)))


def test_what_needs_no_data_is_there_without_them(images, tmp_path):
    data = shutil.copytree(images, tmp_path / "photos")
    tune(settings(data, tmp_path / "run", epochs=1, batch_size=12))
    kept = open_run(tmp_path / "run").assembly.source
    shutil.rmtree(data)
    opened = open_run(tmp_path / "run")
    assert opened.config.epochs == 1 and opened.history and opened.result.best
    with pytest.raises(ConfigError, match="photos.*cannot be put together|cannot be put.*photos"):
        _ = opened.model
    shutil.copytree(images, data)
    again = open_run(tmp_path / "run", data=kept)
    assert again.assembly.source is kept and not again.model.training
    first = next(data.rglob("*.png"))
    first.write_bytes(sorted(data.rglob("*.png"))[-1].read_bytes())
    with pytest.raises(ConfigError, match="have changed in (train|validation)"):
        _ = open_run(tmp_path / "run").model


def test_refusals(own, tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"no config\.yaml"):
        open_run(own / "model")
    with pytest.raises(ConfigError, match="one of best, last, exported, got 'worst'"):
        open_run(own, weights="worst")
    shutil.rmtree(own / "checkpoints" / "best")
    with pytest.raises(ConfigError, match="kept no best weights"):
        _ = open_run(own).model
    assert open_run(own).reference  # it does not hang on the weights that were kept
    (own / "result.json").write_text(json.dumps({"metric": "accuracy"}))
    with pytest.raises(ConfigError, match=r"result\.json cannot be read"):
        open_run(own)
    (own / "DONE").unlink()
    with pytest.raises(ConfigError, match="is not finished.*--resume"):
        open_run(own)
    (own / "FAILED").write_text("why")
    with pytest.raises(ConfigError, match="failed"):
        open_run(own)


def test_fill_takes_all_or_nothing_and_tied_weights_once():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ones = torch.ones(2, 2)
    with pytest.raises(ConfigError, match=r"'1\.weight' is \(2, 2\) here and missing there"):
        fill(model, {"0.weight": ones}, "weights")
    with pytest.raises(ConfigError, match=r"'1\.weight' is \(2, 2\) here and \(3, 2\) there"):
        fill(model, {"0.weight": ones, "1.weight": torch.ones(3, 2)}, "weights")
    assert same(model.state_dict(), before)
    model[1].weight = model[0].weight
    fill(model, {"0.weight": ones}, "weights")
    assert torch.equal(model[1].weight, ones)
