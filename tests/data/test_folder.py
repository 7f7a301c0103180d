import os

import pytest

from tether.data import describe, load_data
from tether.errors import ConfigError

from .makers import config, image, image_folder, notice


def test_classes_are_the_folders_and_a_validation_split_is_made(tmp_path):
    image_folder(tmp_path, {"cat": 10, "ant": 5, "<script>": 5, "Grüße aus Köln": 5})
    source = load_data(config(tmp_path))
    assert source.kind == "image" and source.task == "single_label"
    assert source.class_names == ["<script>", "Grüße aus Köln", "ant", "cat"]
    train, validation = source.tables["train"], source.tables["validation"]
    assert (len(train), len(validation)) == (20, 5)
    assert set(train.ids) | set(validation.ids) == {
        path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")
    }
    for each in (train, validation):
        names = [source.class_names[label] for label in each.labels]
        assert names == [i.split("/")[0] for i in each.ids]
    assert notice(source, "made_validation").count == 5


@pytest.mark.parametrize("name", ["val", "valid", "dev", "Validation"])
def test_split_folders_by_their_usual_names(tmp_path, name):
    for split, count in (("train", 4), (name, 2), ("test", 3)):
        image_folder(tmp_path / split, {"a": count, "b": count}, start=ord(split[0]) * 50)
    image(tmp_path / "notes" / "x.png")
    source = load_data(config(tmp_path))
    assert {s: len(t) for s, t in source.tables.items()} == {"train": 8, "validation": 4, "test": 6}
    assert notice(source, "ignored_folder").examples == ["notes"]
    assert source.tables["validation"].ids[0] == f"{name}/a/0.png"


def test_a_class_may_be_called_train(tmp_path):
    image_folder(tmp_path, {"train": 5, "bus": 5})
    assert load_data(config(tmp_path)).class_names == ["bus", "train"]


def test_class_folders_are_searched_deep_and_hidden_files_left_out(tmp_path):
    image_folder(tmp_path, {"a/deep/er": 5, "b": 5, ".cache": 3, "__MACOSX": 2})
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / ".DS_Store").write_text("x")
    (tmp_path / "c").mkdir()
    source = load_data(config(tmp_path))
    assert source.class_names == ["a", "b"]
    assert notice(source, "ignored_file").examples == ["a/notes.txt"]
    assert notice(source, "empty_class").examples == ["c"]


def test_test_images_without_classes_have_no_labels(tmp_path):
    image_folder(tmp_path / "train", {"a": 5, "b": 5})
    image(tmp_path / "test" / "x.png", 99)
    source = load_data(config(tmp_path))
    assert source.tables["test"].labels is None
    assert notice(source, "no_labels", "test").count == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "is empty"),
        (lambda root: image(root / "x.png"), "1 images, but none in a class folder"),
        (lambda root: image_folder(root, {"only": 4}), "all training samples are of one class"),
        (lambda root: image_folder(root / "test", {"a": 2, "b": 2}), "no train folder"),
        (
            lambda root: [
                image_folder(root / s, {"a": 2, "b": 2}) for s in ("train", "val", "dev")
            ],
            "both 'dev' and 'val'",
        ),
    ],
)
def test_folders_that_will_not_do(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_data(config(tmp_path))


def test_names_that_are_no_text_and_numbers_as_folders_are_sorted(tmp_path):
    image_folder(tmp_path, {"10": 5, "9": 5})
    os.rename(tmp_path / "9" / "0.png", os.fsencode(tmp_path / "9") + b"/caf\xe9 \x1b.png")
    source = load_data(config(tmp_path))
    assert source.class_names == ["10", "9"]  # as torchvision and timm do
    image(tmp_path / "9" / "copy.png", 6)
    assert all(line.isprintable() for line in describe(load_data(config(tmp_path))))


def test_a_missing_folder_names_the_nearest(tmp_path):
    image_folder(tmp_path / "flowers", {"a": 2, "b": 2})
    with pytest.raises(ConfigError, match="did you mean 'flowers'"):
        load_data(config(tmp_path / "flower"))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        load_data(config(tmp_path / "pipe.csv"))
    with pytest.raises(ConfigError, match="no data"):
        load_data(config(""))


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_class_folders_are_single_label(tmp_path, task):
    image_folder(tmp_path, {"a": 3, "b": 3})
    with pytest.raises(ConfigError, match="class folders give each image one class"):
        load_data(config(tmp_path, task=task))
