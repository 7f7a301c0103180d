import subprocess
import sys

import pytest

from tether.data import describe, load_data, load_inputs
from tether.errors import ConfigError

from .makers import config, image, image_folder, notice, table, texts


def test_unlabelled_texts_from_every_file(tmp_path):
    data = texts(tmp_path / "d.csv", [0, 1] * 5)
    (tmp_path / "more.txt").write_text("one\n\nzwei ü\n  \ndrei", encoding="utf-8")
    source = load_data(config(data, unlabelled=str(tmp_path / "more.txt")))
    assert source.unlabelled.inputs == ["one", "zwei ü", "drei"]
    assert source.unlabelled.ids == ["more.txt:1", "more.txt:3", "more.txt:5"]
    assert source.unlabelled.labels is None
    assert "unlabelled: 3" in describe(source)
    more = table(tmp_path / "more.csv", ["text"], [("a",), ("",), ("b",)])
    with pytest.raises(ConfigError, match=r"in unlabelled.*'more.csv:3' \(it is empty\)"):
        load_data(config(data, unlabelled=str(more)))
    source = load_data(config(data, unlabelled=str(more), on_bad_sample="skip"))
    assert source.unlabelled.inputs == ["a", "b"]
    assert notice(source, "empty_text", "unlabelled").count == 1


def test_only_line_feeds_end_a_text(tmp_path):
    data = "one\u2028more\x0c\r\ntwo\x85\x1e.\r\n\r\nthree\rfour\n"
    (tmp_path / "more.txt").write_bytes(data.encode())
    found, _ = load_inputs(str(tmp_path / "more.txt"), config(""), kind="text")
    assert found.inputs == ["one\u2028more\x0c", "two\x85\x1e.", "three\rfour"]
    assert found.ids == ["more.txt:1", "more.txt:2", "more.txt:4"]


def test_unlabelled_images_at_any_depth(tmp_path):
    image_folder(tmp_path / "d", {"a": 4, "b": 4})
    for i, name in enumerate(("x.png", "deep/er/y.png")):
        image(tmp_path / "more" / name, i)
    source = load_data(config(tmp_path / "d", unlabelled=str(tmp_path / "more")))
    assert sorted(source.unlabelled.ids) == ["deep/er/y.png", "x.png"]
    one, notices = load_inputs(str(tmp_path / "more" / "x.png"), config(""), kind="image")
    assert one.ids == ["x.png"] and not notices


def test_unlabelled_data_of_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = texts(tmp_path / "d.csv", [0, 1] * 5)
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(str(tmp_path / "more"))
    source = load_data(config(data, unlabelled=str(tmp_path / "more")))
    assert source.unlabelled.inputs == ["a", "b"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p, "no file or folder.*did you mean 'd.csv'"),
        (lambda p: image(p / "x.png").parent, "holds images, but texts are expected"),
        (lambda p: p.mkdir() or p, "has no images"),
    ],
)
def test_unlabelled_data_that_will_not_do(tmp_path, make, message):
    data = texts(tmp_path / "d.csv", [0, 1] * 5)
    place = make(tmp_path / "d.csvv")
    with pytest.raises(ConfigError, match=message):
        load_data(config(data, unlabelled=str(place)))


def test_pairs(tmp_path):
    data = texts(tmp_path / "d.csv", [0, 1] * 5)
    rows = [("q", "good", "bad"), ("", "better", "worse"), ("q", "x", " ")]
    pairs = table(tmp_path / "p.csv", ["prompt", "chosen", "rejected"], rows)
    with pytest.raises(ConfigError, match=r"in pairs.*'p.csv:4'"):
        load_data(config(data, pairs=str(pairs)))
    source = load_data(config(data, pairs=str(pairs), on_bad_sample="skip"))
    assert source.pairs == rows[:2] and "preference pairs: 2" in describe(source)
    bare = table(tmp_path / "b.csv", ["chosen", "rejected"], [("a", "b")])
    assert load_data(config(data, pairs=str(bare))).pairs == [("", "a", "b")]
    wrong = table(tmp_path / "w.csv", ["chosen", "refused"], [("a", "b")])
    with pytest.raises(ConfigError, match="no column 'rejected'; it has 'chosen', 'refused'"):
        load_data(config(data, pairs=str(wrong)))
    with pytest.raises(ConfigError, match="no file .*did you mean 'p.csv'"):
        load_data(config(data, pairs=str(tmp_path / "pp.csv")))
    image_folder(tmp_path / "i", {"a": 3, "b": 3})
    with pytest.raises(ConfigError, match="pairs are texts"):
        load_data(config(tmp_path / "i", pairs=str(bare)))


def test_column_options_need_columns(tmp_path):
    image_folder(tmp_path, {"a": 3, "b": 3})
    for option in ("domain_column", "text_column", "image_column", "label_column"):
        with pytest.raises(ConfigError, match=f"{option}: an image folder has no columns"):
            load_data(config(tmp_path, **{option: "x"}))


def test_description_of_numbers_and_of_many_classes(tmp_path):
    lines = describe(load_data(config(texts(tmp_path / "d.csv", [0.5, 1.5, 2.5] * 8))))
    assert any("train, label: 0.5 to 2.5" in line for line in lines)
    many = texts(tmp_path / "m.csv", [f"class {i}" for i in range(40) for _ in range(3 + i % 2)])
    lines = describe(load_data(config(many)))
    assert any("the largest and smallest of 40 classes" in line for line in lines)
    assert len(lines) < 20


def test_reading_data_starts_without_torch():
    code = "import sys, tether.data; assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
