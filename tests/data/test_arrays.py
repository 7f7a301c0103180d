"""Arrays as data, decoded images that are kept, and labels known to be right."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.tuning.toys import image_folder
from tether.data import load_data
from tether.data.cache import cache_images, cached
from tether.data.transforms import image_encoder
from tether.errors import ConfigError
from tether.models.spec import ImagePreprocess
from tether.tuning.config import load_config
from tether.tuning.options import TuneConfig

RNG = np.random.default_rng(0)


def pictures(number=12):
    return RNG.integers(0, 256, (number, 8, 8, 3), dtype=np.uint8)


def arrays(**more):
    """Twelve images of three classes, a third of the given labels wrong."""
    clean = np.arange(12) % 3
    worst = clean.copy()
    worst[:4] = (clean[:4] + 1) % 3
    return {
        "train_images": pictures(), "train_clean": clean, "train_worst": worst,
        "test_images": pictures(6), "test_labels": np.arange(6) % 3,
        "class_names": np.array(["cat", "dog", "<b>owl"]), **more,
    }  # fmt: skip


def read(path, **options):
    return load_data(TuneConfig(data=str(path), **options))


def test_images_with_human_mistakes(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **arrays())
    source = read(path, label_column="worst", true_label_column="clean", validation_share=0.25)
    train = source.tables["train"]
    assert (source.kind, source.class_names) == ("image", ["cat", "dog", "<b>owl"])
    assert {name: len(table) for name, table in source.tables.items()} == {
        "train": 9, "validation": 3, "test": 6,
    }  # fmt: skip
    rows = [int(name[6:-1]) for name in train.ids]  # train[7]
    assert (train.labels == arrays()["train_worst"][rows]).all()
    assert (train.true_labels == np.array(rows) % 3).all()
    assert source.noise["realised_rate"] == pytest.approx(4 / 12)
    assert source.tables["test"].true_labels is None
    with pytest.raises(ConfigError, match="wrong labels of its own; use no --true-label-column"):
        read(path, label_column="worst", true_label_column="clean", noise="symmetric:0.2")
    other = read(path, label_column="clean", validation_share=0.25)
    assert other.fingerprints["train"] != source.fingerprints["train"]


def test_encoded_images_and_rows_of_numbers(tmp_path):
    files = []
    for each in pictures(6):
        stream = io.BytesIO()
        Image.fromarray(each).save(stream, "PNG")
        files.append(stream.getvalue())
    path = tmp_path / "bytes.npz"
    np.savez(
        path, train_bytes=np.frombuffer(b"".join(files), np.uint8), train_labels=np.arange(6) % 2,
        train_offsets=np.cumsum([0, *map(len, files)]), validation_features=np.zeros((1, 1)),
    )  # fmt: skip
    source = read(path, validation_share=0.34)
    assert source.tables["train"].inputs[0].read_bytes() in files
    rows = RNG.normal(size=(9, 5))
    rows[3, 2] = np.nan
    np.savez(tmp_path / "rows.npz", train_features=rows, train_labels=np.arange(9) % 3)
    source = read(tmp_path / "rows.npz", validation_share=0.3, on_bad_sample="skip")
    assert source.kind == "vector"
    assert next(n.kind for n in source.notices) == "bad_numbers"
    assert sum(map(len, source.tables.values())) == 8
    targets = RNG.normal(size=(9, 2)).astype(np.float32)
    np.savez(
        tmp_path / "numbers.npz", train_features=np.zeros((9, 2), np.float32) + targets,
        train_labels=targets, target_names=np.array(["x", "y"]),
    )  # fmt: skip
    source = read(tmp_path / "numbers.npz", task="regression")
    assert source.class_names == ["x", "y"]
    assert source.tables["train"].labels.shape[1] == 2


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({"train_images": None}, {}, "one entry of train_images, train_bytes"),
        ({}, {"label_column": "wrost"}, "has no entry 'train_wrost'.*did you mean 'worst'"),
        ({}, {"label_column": "clean", "true_label_column": "x"}, "option true_label_column"),
        ({}, {}, "has no entry 'train_labels'"),
        ({"train_clean": np.zeros(3, int)}, {"label_column": "clean"}, "12 inputs and 3 labels"),
        ({"train_images": np.zeros((12, 4, 4, 2), np.uint8)}, {"label_column": "clean"},
         r"uint8 \[N, H, W\]"),
        ({"train_ids": np.array(["a"] * 12)}, {"label_column": "clean"}, "holds a name twice"),
        ({}, {"text_column": "t"}, "holds arrays, not columns"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, content, options, message):
    kept = {k: v for k, v in {**arrays(), **content}.items() if v is not None}
    np.savez(tmp_path / "x.npz", **kept)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "x.npz", **options)


def test_pickles_and_broken_files_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", train_images=np.array([{}], dtype=object), train_labels=[0])
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "x.npz")
    (tmp_path / "y.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "y.npz")


def test_true_labels_in_a_table(tmp_path):
    lines = ["text,label,right"] + [f"text {i},{'ab'[i % 2]},{'ab'[i // 2 % 2]}" for i in range(8)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    source = read(tmp_path / "t.csv", true_label_column="right", validation_share=0.25)
    train = source.tables["train"]
    number = [int(text.split()[1]) for text in train.inputs]
    assert (train.true_labels == [i // 2 % 2 for i in number]).all()
    assert source.noise["realised_rate"] == 0.5
    with pytest.raises(ConfigError, match="no column 'rigt'.*did you mean 'right'"):
        read(tmp_path / "t.csv", true_label_column="rigt")
    (tmp_path / "t.csv").write_text("\n".join([*lines, "text 9,a,c"]))
    with pytest.raises(ConfigError, match="no training sample has the label 'c'"):
        read(tmp_path / "t.csv", true_label_column="right")


def test_decoded_images_give_the_same_data(tmp_path):
    folder = image_folder(tmp_path / "images", per_class=6)
    config = load_config({"data": str(folder), "model": "x", "noise": "symmetric:0.3", "shots": 3})
    kept = cached(config, cache_images(config, tmp_path / "cache"), "single_label", true=False)
    before, now = load_data(config), load_data(kept)
    assert now.fingerprints == before.fingerprints
    assert now.class_names == before.class_names
    encode = image_encoder(
        ImagePreprocess((16, 16)), train=False, augment="none", input_name="x"
    )  # fmt: skip
    for split, table in before.tables.items():
        other = now.tables[split]
        assert (table.labels == other.labels).all()
        for a, b in zip(table.inputs, other.inputs, strict=True):
            assert (encode(a)["x"] == encode(b)["x"]).all()
    stamp = (tmp_path / "cache" / "about.json").stat().st_mtime_ns
    cache_images(config, tmp_path / "cache")
    assert (tmp_path / "cache" / "about.json").stat().st_mtime_ns == stamp
