import pytest
from PIL import Image

from tether.data import describe, load_data
from tether.errors import ConfigError

from .makers import config, image, image_folder, notice, table, texts


def spoil(root):
    """Six images that cannot be used, each for another reason."""
    Image.new("RGB", (80, 60), "red").save(root / "a" / "cut.jpg", quality=95)
    Image.effect_noise((80, 60), 50).save(root / "a" / "progressive.jpg", progressive=True)
    image(root / "b" / "cut.png", 77, (40, 40))
    for name in ("a/cut.jpg", "a/progressive.jpg", "b/cut.png"):
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: len(data) * 2 // 3])
    (root / "a" / "empty.jpg").write_bytes(b"")
    (root / "a" / "text.png").write_text("no image")
    (root / "b" / "<b>\x1b[31m.jpg").write_bytes(b"\xff\xd8\xff")
    return 6


def test_images_are_decoded_to_their_end(tmp_path):
    image_folder(tmp_path, {"a": 8, "b": 8})
    bad = spoil(tmp_path)
    with pytest.raises(ConfigError, match="6 of 22 samples in train cannot.*--on-bad-sample skip"):
        load_data(config(tmp_path))
    source = load_data(config(tmp_path, on_bad_sample="skip"))
    found = notice(source, "bad_image")
    assert (found.count, found.split, len(found.examples)) == (bad, "train", 5)
    assert sum(map(len, source.tables.values())) == 16


def test_a_missing_file_of_a_table_is_a_bad_image(tmp_path):
    for i in range(8):
        image(tmp_path / f"{i}.png", i)
    rows = [(f"{i}.png", i % 2) for i in range(9)]
    path = table(tmp_path / "d.csv", ["path", "label"], rows)
    with pytest.raises(ConfigError, match=r"'d.csv:10' \(there is no such file\)"):
        load_data(config(path))


def test_a_mended_image_is_looked_at_again(tmp_path):
    image_folder(tmp_path, {"a": 4, "b": 4})
    good = (tmp_path / "a" / "0.png").read_bytes()
    (tmp_path / "a" / "0.png").write_bytes(good[:50])
    with pytest.raises(ConfigError, match="a/0.png"):
        load_data(config(tmp_path))
    (tmp_path / "a" / "0.png").write_bytes(good)
    load_data(config(tmp_path))


@pytest.mark.parametrize("pair", [False, True])
def test_empty_texts(tmp_path, pair):
    rows = [(f"t{i}", f"u{i}", i % 2) for i in range(10)]
    rows[3] = ("t3", "  ", 1) if pair else (" \t", "u", 1)
    path = table(tmp_path / "d.csv", ["text1" if pair else "text", "text2", "label"], rows)
    with pytest.raises(ConfigError, match=r"'d.csv:5' \(it is empty\)"):
        load_data(config(path))
    source = load_data(config(path, on_bad_sample="skip"))
    assert notice(source, "empty_text").examples == ["d.csv:5"]
    assert sum(map(len, source.tables.values())) == 9


@pytest.mark.parametrize("labels", ["ab", "a;b"])
def test_unknown_labels_outside_training(tmp_path, labels):
    texts(tmp_path / "train.csv", ["a", "b", "a;b" if ";" in labels else "b"] * 4)
    texts(tmp_path / "val.csv", ["a", "new", "b"])
    with pytest.raises(ConfigError, match=r"1 of 3 samples in validation.*its label 'new'"):
        load_data(config(tmp_path))
    source = load_data(config(tmp_path, on_bad_sample="skip"))
    assert notice(source, "unknown_label", "validation").examples == ["val.csv:3"]
    assert len(source.tables["validation"]) == 2


def test_missing_labels(tmp_path):
    path = texts(tmp_path / "d.csv", ["a", "", "b", "a", "b", "b"])
    with pytest.raises(ConfigError, match="'d.csv:3'.*no label"):
        load_data(config(path))
    assert notice(load_data(config(path, on_bad_sample="skip")), "missing_label").count == 1
    path = texts(tmp_path / "e.csv", [0.5, "nan", 1.5, "", 2.5, 3.5] * 2)
    source = load_data(config(path, on_bad_sample="skip"))
    assert source.task == "regression" and notice(source, "missing_label").count == 4


def test_duplicates_within_and_across(tmp_path):
    for split, names in (("train", "abc"), ("validation", "de"), ("test", "fg")):
        for name in names:
            for kind in ("x", "y"):
                image(tmp_path / split / kind / f"{name}.png", ord(name) * 2 + (kind == "x"))
    copy = (tmp_path / "train" / "x" / "a.png").read_bytes()
    (tmp_path / "train" / "x" / "again.png").write_bytes(copy)
    (tmp_path / "train" / "y" / "again.png").write_bytes(copy)
    (tmp_path / "test" / "x" / "leak.png").write_bytes(copy)
    source = load_data(config(tmp_path))
    within = notice(source, "duplicate")
    assert within.count == 2 and "1 of them with another label" in within.what
    assert within.examples[0] == "train/y/again.png"
    across = notice(source, "duplicate_across")
    assert (across.split, across.count, across.examples) == ("test", 1, ["test/x/leak.png"])
    assert len(source.tables["train"]) == 8  # reported, kept


def test_texts_are_the_same_apart_from_case_and_space(tmp_path):
    path = table(tmp_path / "train.csv", ["text", "label"],
                 [("One  two", 0), ("one TWO ", 0), ("three", 1), ("four", 1)])  # fmt: skip
    table(tmp_path / "val.csv", ["text", "label"], [("THREE", 1), ("five", 0)])
    source = load_data(config(path.parent))
    assert notice(source, "duplicate").examples == ["train.csv:3"]
    assert notice(source, "duplicate_across").examples == ["val.csv:2"]


def test_an_empty_split_is_taken_as_not_there(tmp_path):
    texts(tmp_path / "train.csv", ["a", "b"] * 6)
    texts(tmp_path / "validation.csv", [])
    source = load_data(config(tmp_path))
    assert notice(source, "empty_split").split == "validation"
    assert len(source.tables["validation"]) == 2


def test_lines_for_people_are_single_lines_without_control_signs(tmp_path):
    image_folder(tmp_path, {"a": 8, "b\n\x1b[31m": 8})
    image(tmp_path / "a" / "copy\r.png", 1)
    source = load_data(config(tmp_path))
    lines = describe(source)
    assert all(line.isprintable() for line in lines)
    assert any("copy\\r.png" in line for line in lines) or notice(source, "duplicate_across")
    text = "\n".join(lines)
    assert "train 14, validation 3" in text and "17" not in text
