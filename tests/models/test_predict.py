"""Predictions: the logits of the evaluation, all kinds of inputs, a file whole or not at all."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.models.tiny import bert_folder, config, source
from tether.data.collate import Collator
from tether.data.keyed import KeyedDataset
from tether.data.table import Table
from tether.errors import ConfigError
from tether.models import LoadedModel, load_model, predict, write_predictions
from tether.models.predict import evaluation_encoder
from tether.tuning.assembly import encoders

NAMES = ("cat", "dog", 'o"w,l')


def pictures(folder: Path, names: list[str]) -> None:
    generator = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (40, 56, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def image_run(folder: Path, task: str = "single_label", **settings: Any) -> LoadedModel:
    loaded = load_model(
        config("timm:resnet10t", model_args={"pretrained": False}, image_size=32),
        source(names=NAMES, task=task),
    )
    with torch.no_grad():  # larger logits, so that no two probabilities are alike
        loaded.model.get_submodule(loaded.head).weight.mul_(50)
    loaded.save(folder / "model")
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return loaded


def text_run(folder: Path, task: str = "single_label", **settings: Any) -> LoadedModel:
    loaded = load_model(
        config(str(bert_folder(folder / "bert"))), source("text", names=NAMES, task=task)
    )
    loaded.save(folder / "run" / "model")
    (folder / "run" / "config.yaml").write_text(yaml.safe_dump(settings))
    return loaded


def evaluated(loaded: LoadedModel, inputs: list[Any]) -> torch.Tensor:
    """As the trainer evaluates: the data layer's set and collator."""
    table = Table(inputs, np.zeros(len(inputs), np.int64), [str(i) for i in range(len(inputs))])
    data = KeyedDataset(table, evaluation_encoder(loaded), seed=0, train=False)
    batch = Collator(loaded.pad)([data[i] for i in range(len(data))])
    batch = {k: v for k, v in batch.items() if k not in ("labels", "sample_index")}
    loaded.model.eval()
    with torch.no_grad():
        out = loaded.model(**batch)
    return getattr(out, "logits", out)


def test_images_with_and_without_classes(tmp_path: Path) -> None:
    loaded = image_run(tmp_path / "run")
    pictures(tmp_path / "flat", ["b.png", "a.jpg"])
    out = predict(tmp_path / "run", str(tmp_path / "flat"), output=tmp_path / "p.csv")
    found = rows(out)
    shares = [f"p_{name}" for name in NAMES]
    assert list(found[0]) == ["id", "predicted", "confidence", *shares]
    assert [row["id"] for row in found] == ["a.jpg", "b.png"]
    logits = evaluated(loaded, [tmp_path / "flat" / "a.jpg", tmp_path / "flat" / "b.png"])
    expected = logits.double().softmax(1)
    for row, chances in zip(found, expected, strict=True):
        assert row["predicted"] == NAMES[int(chances.argmax())]
        assert [float(row[s]) for s in shares] == pytest.approx(chances.tolist(), rel=1e-7)
        assert float(row["confidence"]) == pytest.approx(float(chances.max()), rel=1e-7)

    pictures(tmp_path / "sorted", ["cat/1.png", "zebra/2.png"])
    out = predict(tmp_path / "run" / "model", tmp_path / "sorted", output=tmp_path / "q.csv")
    assert [row["label"] for row in rows(out)] == ["cat", "zebra"]
    out = predict(tmp_path / "run", tmp_path / "flat" / "a.jpg", output=tmp_path / "r.csv")
    assert rows(out)[0]["predicted"] == found[0]["predicted"] and len(rows(out)) == 1


def test_logits_are_those_of_the_evaluation_to_the_bit(tmp_path: Path) -> None:
    loaded = image_run(tmp_path / "run", task="regression")
    pictures(tmp_path / "d", [f"{i}.png" for i in range(3)])
    out = predict(tmp_path / "run", tmp_path / "d", output=tmp_path / "p.csv")
    columns = [f"predicted_{name}" for name in NAMES]
    found = [[float(row[c]) for c in columns] for row in rows(out)]
    expected = evaluated(loaded, [tmp_path / "d" / f"{i}.png" for i in range(3)])
    assert torch.equal(torch.tensor(found, dtype=torch.float32), expected)


def test_texts_read_the_columns_of_the_run(tmp_path: Path) -> None:
    loaded = text_run(tmp_path, text_column="q", label_column="topic")
    (tmp_path / "d.csv").write_text("n,q,topic\n1,good film,cat\n2,the plot was bad,new\n")
    out = predict(tmp_path / "run", tmp_path / "d.csv", output=tmp_path / "p.csv")
    found = rows(out)
    assert [row["label"] for row in found] == ["cat", "new"]
    expected = evaluated(loaded, ["good film", "the plot was bad"]).double().softmax(1)
    assert float(found[1]["p_cat"]) == pytest.approx(float(expected[1, 0]), rel=1e-7)
    (tmp_path / "other.csv").write_text("words\ngood\n")
    with pytest.raises(ConfigError, match="no column 'q'"):
        predict(tmp_path / "run", tmp_path / "other.csv", output=tmp_path / "p.csv")
    out = predict(
        tmp_path / "run", tmp_path / "other.csv", output=tmp_path / "p.csv",
        overrides={"text_column": "words"},
    )  # fmt: skip
    assert "label" not in rows(out)[0]
    (tmp_path / "t.txt").write_text("good film\n\nbad\n")
    out = predict(tmp_path / "run", tmp_path / "t.txt", output=tmp_path / "p.csv")
    assert [row["id"] for row in rows(out)] == ["t.txt:1", "t.txt:3"]


def test_data_sets_whose_labels_cannot_be_trained_on(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = text_run(tmp_path, label_column="topic")
    inputs = ["good film", "the plot was bad"]
    plain = datasets.Dataset.from_dict({"text": inputs})
    expected = evaluated(loaded, inputs).double().softmax(1)[:, 0].tolist()

    def predicted(where: str) -> list[dict[str, str]]:
        out = predict(tmp_path / "run", tmp_path / where, output=tmp_path / "p.csv")
        assert [float(row["p_cat"]) for row in rows(out)] == pytest.approx(expected, rel=1e-7)
        return rows(out)

    plain.save_to_disk(str(tmp_path / "unlabelled"))
    found = predicted("unlabelled")
    assert "label" not in found[0]
    assert [row["id"] for row in found] == ["train/train[0]", "train/train[1]"]

    one = datasets.ClassLabel(names=["cat", "dog"])
    same = plain.add_column("label", [1, 1]).cast_column("label", one)
    same.save_to_disk(str(tmp_path / "same"))
    assert [row["label"] for row in predicted("same")] == ["dog", "dog"]

    parts = {"test": plain.select([0]), "later": same.select([1])}  # no split train
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "parts"))
    found = predicted("parts")
    assert [row["id"] for row in found] == ["test/test[0]", "later/later[0]"]
    assert [row["label"] for row in found] == ["", "dog"]

    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "train.csv").write_text("topic,text\ncat,good film\n")
    (tmp_path / "tables" / "test.csv").write_text("topic,text\nnever seen,the plot was bad\n")
    assert [row["label"] for row in predicted("tables")] == ["cat", "never seen"]
    (tmp_path / "tables" / "train.csv").unlink()
    out = predict(tmp_path / "run", tmp_path / "tables", output=tmp_path / "p.csv")
    assert [row["id"] for row in rows(out)] == ["test/test.csv:2"]


def test_several_labels(tmp_path: Path) -> None:
    loaded = text_run(tmp_path, task="multi_label")
    (tmp_path / "t.txt").write_text("good film\n")
    found = rows(predict(tmp_path / "run", tmp_path / "t.txt", output=tmp_path / "p.csv"))[0]
    chances = evaluated(loaded, ["good film"]).sigmoid()[0].tolist()
    assert [float(found[f"p_{n}"]) for n in NAMES] == pytest.approx(chances, rel=1e-6)
    assert found["predicted"] == ";".join(
        n for n, p in zip(NAMES, chances, strict=True) if p >= 0.5
    )
    assert "confidence" not in found


def test_several_labels_are_joined_as_those_of_the_data(tmp_path: Path) -> None:
    text_run(tmp_path, task="multi_label", label_separator="|")
    (tmp_path / "d.csv").write_text("text,label\ngood film,cat|dog\n")
    found = rows(predict(tmp_path / "run", tmp_path / "d.csv", output=tmp_path / "p.csv"))[0]
    likely = [n for n in NAMES if float(found[f"p_{n}"]) >= 0.5]
    assert found["label"] == "cat|dog" and found["predicted"] == "|".join(likely)
    table = Table(["x"], np.array([[1, 0, 1]], np.float32), ["a"])
    write_predictions(
        tmp_path / "m.csv", table, np.array([[1.0, 1.0, 0.0]]), NAMES, "multi_label", separator="|"
    )
    row = rows(tmp_path / "m.csv")[0]
    assert (row["label"], row["predicted"]) == (f"cat|{NAMES[2]}", f"cat|dog|{NAMES[2]}")


@pytest.mark.parametrize("device", ["foo", "mps", "cuda:", "cuda:99", "CPU", "meta", ""])
def test_devices_that_are_not_there(tmp_path: Path, device: str) -> None:
    text_run(tmp_path)
    (tmp_path / "t.txt").write_text("good film\n")
    with pytest.raises(ConfigError, match="device"):
        predict(tmp_path / "run", tmp_path / "t.txt", output=tmp_path / "p.csv", device=device)
    assert not (tmp_path / "p.csv").exists()


def test_the_demo_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(config("demo:digits"), source("vector", tuple("0123456789")))
    loaded.save(tmp_path / "run" / "model")
    monkeypatch.chdir(tmp_path)
    out = predict("run", "demo:digits-few")
    found = rows(out)
    assert out == Path("predictions.csv") and found[0]["id"].startswith("train/")
    assert {row["id"].split("/")[0] for row in found} >= {"train", "validation"}
    assert all(row["label"] in "0123456789" for row in found)
    np.save(tmp_path / "rows.npy", np.zeros((2, 64)))
    assert len(rows(predict("run", "rows.npy"))) == 2


def test_evaluation_draws_no_random_numbers(tmp_path: Path) -> None:
    rows_of_numbers = load_model(config("demo:digits"), source("vector", tuple("0123456789")))
    for loaded in (rows_of_numbers, image_run(tmp_path / "i"), text_run(tmp_path / "t")):
        encode = evaluation_encoder(loaded)
        assert encode.draws is False
        varied, plain = encoders(config("", augment="light"), loaded)
        assert type(plain) is type(encode) and plain.draws is False
        assert varied.draws is (loaded.kind == "image")


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    image_run(tmp_path / "run")
    pictures(tmp_path / "d", ["a.png"])
    (tmp_path / "d" / "broken.png").write_bytes(b"no image")
    (tmp_path / "p.csv").write_text("old")
    with pytest.raises(ConfigError, match=r"broken.png"):
        predict(tmp_path / "run", tmp_path / "d", output=tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == "old"
    with pytest.warns(UserWarning, match="broken.png"):
        predict(
            tmp_path / "run", tmp_path / "d", output=tmp_path / "p.csv",
            overrides={"on_bad_sample": "skip"},
        )  # fmt: skip
    assert len(rows(tmp_path / "p.csv")) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "p.csv", "run"]


def test_data_or_models_that_do_not_fit(tmp_path: Path) -> None:
    image_run(tmp_path / "run")
    (tmp_path / "d.csv").write_text("text\nx\n")
    with pytest.raises(ConfigError, match="the model reads images"):
        predict(tmp_path / "run", tmp_path / "d.csv")
    with pytest.raises(ConfigError, match="no such folder"):
        predict(tmp_path / "none", tmp_path / "d.csv")
    with pytest.raises(ConfigError, match="batch_size"):
        predict(tmp_path / "run", tmp_path / "d.csv", batch_size=0)


def test_tables_of_a_run(tmp_path: Path) -> None:
    labels = np.array([0, 2], np.int64)
    table = Table(["x", "y"], labels, ["a", "b"], true_labels=np.array([1, 2], np.int64))
    write_predictions(
        tmp_path / "p.csv", table, np.array([[9.0, 0.0, 0.0], [0.0, 0.0, 1000.0]]), NAMES,
        "single_label",
    )  # fmt: skip
    found = rows(tmp_path / "p.csv")
    assert [row["label"] for row in found] == ["cat", NAMES[2]]
    assert [row["true_label"] for row in found] == ["dog", NAMES[2]]
    assert float(found[1]["confidence"]) == 1.0
    multi = Table(["x"], np.array([[1, 0, 1]], np.float32), ["a"])
    write_predictions(tmp_path / "m.csv", multi, np.array([[-1e4, 1e4, 0.0]]), NAMES, "multi_label")
    row = rows(tmp_path / "m.csv")[0]
    assert row["label"] == f"cat;{NAMES[2]}" and row["predicted"] == f"dog;{NAMES[2]}"
    numbers = Table(["x"], np.array([0.5], np.float32), ["a"])
    write_predictions(tmp_path / "n.csv", numbers, np.array([0.25]), ["age"], "regression")
    assert rows(tmp_path / "n.csv") == [{"id": "a", "label": "0.5", "predicted_age": "0.25"}]
