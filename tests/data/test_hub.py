import json

import numpy as np
import pytest
import torch
from PIL import Image

from tether.data import load_data
from tether.data.transforms import image_encoder
from tether.errors import ConfigError
from tether.models.spec import ImagePreprocess

from .makers import config, image, notice, texts

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(
        datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("hf_cache"))
    )


def classes(*names):
    return datasets.ClassLabel(names=list(names))


def test_a_saved_dictionary_of_splits(tmp_path):
    features = datasets.Features({"sentence": datasets.Value("string"), "label": classes("x", "a")})

    def split(count, label=None):
        rows = {"sentence": [f"s{i} of {count}" for i in range(count)],
                "label": [i % 2 if label is None else label for i in range(count)]}  # fmt: skip
        return datasets.Dataset.from_dict(rows, features=features)

    parts = {"train": split(10), "test": split(5, -1), "unsupervised": split(3, -1)}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "d"))
    source = load_data(config(tmp_path / "d"))
    assert source.class_names == ["x", "a"]  # in the data set's own order
    assert source.tables["test"].labels is None  # all of them are -1
    assert notice(source, "ignored_split").examples == ["unsupervised"]
    assert source.tables["train"].ids[0].startswith("train[")
    assert {s: len(t) for s, t in source.tables.items()} == {"train": 8, "validation": 2, "test": 5}


@pytest.mark.parametrize("how", ["saved", "files"])
def test_images_are_read_when_they_are_needed(tmp_path, how):
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (9, 9, 3), dtype=np.uint8) for _ in range(10)]
    features = datasets.Features({"img": datasets.Image(), "fine_label": classes("p", "q")})
    rows = {"img": [Image.fromarray(p) for p in pixels], "fine_label": [0, 1] * 5}
    data = datasets.Dataset.from_dict(rows, features=features)
    if how == "saved":
        data.save_to_disk(str(tmp_path / "d"))
    else:
        (tmp_path / "d" / "data").mkdir(parents=True)
        data.to_parquet(tmp_path / "d" / "data" / "train-00000-of-00001.parquet")
    source = load_data(config(tmp_path / "d"))
    assert source.kind == "image" and source.class_names == ["p", "q"]
    preprocess = ImagePreprocess((9, 9), mean=(0.0,) * 3, std=(1.0,) * 3)
    encode = image_encoder(preprocess, train=False, augment="none", input_name="x")
    train = source.tables["train"]
    row = int(train.ids[0][len("train[") : -1])
    expected = torch.from_numpy(pixels[row]).permute(2, 0, 1) / 255
    torch.testing.assert_close(encode(train.inputs[0])["x"], expected)


def test_lists_of_classes_are_several_labels(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "labels": datasets.List(classes("u", "v", "w"))}
    )
    rows = {"text": [f"t{i}" for i in range(8)], "labels": [[0, 2], [1], [], [2]] * 2}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "d"))
    source = load_data(config(tmp_path / "d"))
    assert source.task == "multi_label" and source.class_names == ["u", "v", "w"]
    at = {name: y for t in source.tables.values() for name, y in zip(t.ids, t.labels, strict=True)}
    assert at["train[0]"].tolist() == [1, 0, 1]


def test_a_folder_of_json_lines(tmp_path):
    lines = [json.dumps({"text": f"t{i}", "label": ["no", "yes"][i % 2]}) for i in range(10)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    assert load_data(config(tmp_path)).class_names == ["no", "yes"]
    (tmp_path / "train.jsonl").write_text("{]")
    with pytest.raises(ConfigError, match="datasets library cannot read it either"):
        load_data(config(tmp_path))


def test_columns_are_listed_as_for_files(tmp_path):
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "verdict": [0, 1]})
    data.save_to_disk(str(tmp_path / "d"))
    with pytest.raises(ConfigError, match="'text', 'verdict'.*--label-column"):
        load_data(config(tmp_path / "d"))
    data = datasets.DatasetDict({"validation": data})
    data.save_to_disk(str(tmp_path / "e"))
    with pytest.raises(ConfigError, match="has no split train; it has 'validation'"):
        load_data(config(tmp_path / "e"))
    (tmp_path / "d" / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_data(config(tmp_path / "d"))


def test_a_name_out_of_reach_says_how_to_pass_a_path(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    before = datasets.config.HF_HUB_OFFLINE
    for name in ("nobody/such-data", "such-data:part"):
        with pytest.raises(ConfigError, match="Give a path: an image folder.*save_to_disk"):
            load_data(config(name))
    assert before == datasets.config.HF_HUB_OFFLINE
    texts(tmp_path / "train.csv", [0, 1])
    with pytest.raises(
        ConfigError, match=r"no file or folder 'tran.csv'; did you mean 'train.csv'"
    ):
        load_data(config("tran.csv"))


@pytest.mark.parametrize("how", ["parquet", "saved"])
def test_files_outside_a_data_set_are_not_opened(tmp_path, how):
    outside = image(tmp_path / "secret.png", 99)
    kind = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    names = [str(image(tmp_path / "d" / f"{i}.png", i)) for i in range(10)] + [str(outside)]
    rows = {
        "image": [{"bytes": None, "path": name} for name in names], "label": [0, 1] * 5 + [0],
    }  # fmt: skip
    data = datasets.Dataset.from_dict(
        rows, features=datasets.Features({"image": kind, "label": classes("p", "q")})
    )
    if how == "parquet":
        path = tmp_path / "d" / "all.parquet"
        data.to_parquet(path)
    else:
        path = tmp_path / "d"
        data.save_to_disk(str(path))  # as plain columns, so that no file is taken along
        facts = json.loads((path / "dataset_info.json").read_text())
        facts["features"]["image"] = {"_type": "Image"}
        (path / "dataset_info.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=r"1 of 11 .*a file outside the data set, secret\.png"):
        load_data(config(path))
    source = load_data(config(path, on_bad_sample="skip"))
    assert sum(len(table) for table in source.tables.values()) == 10
