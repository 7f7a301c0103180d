"""What the runs of a study share: decoded images, features; and few-shot episodes in a study."""

import json

import numpy as np
import pytest

from tests.models.tiny import bert_folder
from tests.tuning.toys import image_folder, text_file
from tether.compare.caches import shared_data
from tether.compare.estimate import plan_sections
from tether.compare.session import run_study
from tether.compare.study import load_study, study_values
from tether.errors import ConfigError
from tether.tuning.config import load_config
from tether.tuning.job import tune

FAST = {"epochs": 1, "batch_size": 8, "lr": 0.01, "device": "cpu"}


def images(tmp_path):
    return image_folder(tmp_path / "images", 6, splits=("train", "test"))


def vit(data, **more):
    return {
        "model": "timm:test_vit", "image_size": 32, "model_args": {"pretrained": False},
        "data": str(data), "seed": 1, **FAST, **more,
    }  # fmt: skip


def test_a_run_on_decoded_images_is_the_run_on_the_files(tmp_path):
    config = load_config(vit(images(tmp_path), output_dir=str(tmp_path / "a")))
    shared = shared_data(config, {}, {"train": "x"}, "image", tmp_path / "cache")
    assert shared.data.startswith(str(tmp_path / "cache" / "images-"))
    first = tune(config)
    shared.output_dir = str(tmp_path / "b")
    second = tune(shared)
    assert (first.last, first.history[0]["train_loss"]) == (
        second.last, second.history[0]["train_loss"],
    )  # fmt: skip
    other = shared_data(config, {}, {"train": "y"}, "image", tmp_path / "cache")
    assert other.data != shared.data  # a cache never serves other data


def test_a_probe_trains_a_linear_layer_on_features(tmp_path):
    data = images(tmp_path)
    config = load_config(vit(data, freeze="backbone"))
    shared = shared_data(config, {}, {}, "image", tmp_path / "cache")
    assert (shared.model, shared.freeze) == ("tether:linear", "")
    with_method = load_config(vit(data, freeze="backbone", methods=["adarand"]))
    same = shared_data(with_method, {}, {}, "image", tmp_path / "cache")
    assert same.model == "timm:test_vit"


def test_perceptrons_on_sentence_features_in_a_study(tmp_path):
    (tmp_path / "texts").mkdir()
    for split in ("train", "test"):
        text_file(tmp_path / "texts" / f"{split}.csv", 36 if split == "train" else 12)
    encoder = bert_folder(tmp_path / "bert")
    given = {
        "name": "s", "models": [{
            "name": "mlp", "model": "tether:mlp", "model_args": {"hidden": 8},
            "features_of": {"model": str(encoder)},
        }],
        "data": [{"name": "texts", "data": str(tmp_path / "texts")}], "leaks": "allow",
        "methods": "plain, elr", "seeds": 2, "trials": 1, "settings": FAST,
    }  # fmt: skip
    study = load_study(given)
    assert load_study(study_values(study)) == study
    assert "not measured before it runs" in str(plan_sections(study, 1))
    result = run_study(study, tmp_path / "study", workers=0)
    assert [row["status"] for row in result.rows] == ["done"] * 6, result.rows[0]["error"]
    assert not (tmp_path / "study" / "cache").exists()
    with pytest.raises(ConfigError, match="option lr does not bear on features"):
        load_study({**given, "models": [{"model": "tether:mlp", "features_of": {
            "model": "x", "lr": 1.0}}]})  # fmt: skip


def test_episodes_in_a_study(tmp_path):
    given = {
        "models": "demo:digits", "data": "demo:digits-few", "methods": "plain, l2_sp",
        "episodes": {"way": 3, "shot": [1, 5], "count": 6, "queries": 4}, "seeds": 2, "trials": 1,
        "settings": {"epochs": 3, "lr": 0.01, "device": "cpu"},
    }  # fmt: skip
    result = run_study(given, tmp_path / "study", workers=0)
    assert list(dict.fromkeys(row["case_id"] for row in result.rows)) == [
        "digits-few, 3-way 1-shot", "digits-few, 3-way 5-shot",
    ]  # fmt: skip
    finals = [row for row in result.rows if row["kind"] == "final"]
    assert len(finals) == 8
    for row in finals:
        assert row["status"] == "done", row["error"]
        assert len(row["test"]["episodes"]) == 3
        assert row["test"]["accuracy"] == pytest.approx(np.mean(row["test"]["episodes"]))
        assert row["validation"] == {}
    json.dumps(result.rows)
    with pytest.raises(ConfigError, match="fewer than two episodes for each of 2 seeds"):
        load_study({**given, "episodes": {"count": 3}})
    with pytest.raises(ConfigError, match="neither noise, shots nor features_of"):
        load_study({**given, "noise": "symmetric:0.4"})
