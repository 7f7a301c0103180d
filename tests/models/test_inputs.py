"""What predict reads: with labels or without, and what it says where it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.models.tiny import config
from tether.errors import ConfigError
from tether.models.inputs import read_inputs

ANY = config("x")


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


def test_images(tmp_path: Path) -> None:
    one = picture(tmp_path / "flat" / "b.png")
    picture(tmp_path / "flat" / "a.jpg")
    picture(tmp_path / "flat" / ".thumbs" / "x.png")
    (tmp_path / "flat" / "notes.txt").write_text("x")
    table, given, _ = read_inputs(tmp_path / "flat", "image", ANY, class_names=["cat"])
    assert table.ids == ["a.jpg", "b.png"] and given is None and table.labels is None
    table, given, _ = read_inputs(one, "image", ANY)
    assert table.inputs == [one] and table.ids == ["b.png"] and given is None


def test_folders_are_labels_only_where_they_bear_a_class_name(tmp_path: Path) -> None:
    for name in ("test/cat/1.png", "test/new/2.png", "3.png"):
        picture(tmp_path / name)
    table, given, _ = read_inputs(tmp_path, "image", ANY, class_names=["cat", "dog"])
    assert table.ids == ["3.png", "test/cat/1.png", "test/new/2.png"]
    assert given == ["", "cat", "new"]
    assert read_inputs(tmp_path, "image", ANY, class_names=["owl"])[1] is None


def test_lines_of_a_text(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_bytes("\ufeffgood\r\n\r\nnot bad\r\nlast".encode())
    table, given, _ = read_inputs(file, "text", ANY)
    assert table.inputs == ["good", "not bad", "last"] and given is None
    assert table.ids == ["t.txt:1", "t.txt:3", "t.txt:4"]


def test_tables(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('review,stars\n"so, ""so""\nreally",3\nbad,1\n')
    table, given, _ = read_inputs(tmp_path / "a.csv", "text", config("x", text_column="review"))
    assert table.inputs == ['so, "so"\nreally', "bad"] and given is None
    table, given, _ = read_inputs(
        tmp_path / "a.csv", "text", config("x", text_column="review", label_column="stars")
    )
    assert given == ["3", "1"]
    (tmp_path / "b.tsv").write_text("premise\thypothesis\tlabel\na\tb\tyes\n")
    table, given, _ = read_inputs(tmp_path / "b.tsv", "text", ANY)
    assert table.inputs == [("a", "b")] and given == ["yes"]
    picture(tmp_path / "img" / "p.png")
    (tmp_path / "d.csv").write_text("file,u,v\nimg/p.png,0.1,0.2\n")
    both = config("x", label_column="u,v")
    table, given, _ = read_inputs(tmp_path / "d.csv", "image", both)
    assert table.inputs == [tmp_path / "img" / "p.png"] and given == ["0.1;0.2"]


def test_parquet_and_rows_of_numbers(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        arrow.table({"text": ["x", "y"], "label": [1, None]}), tmp_path / "a.parquet"
    )
    table, given, _ = read_inputs(tmp_path / "a.parquet", "text", ANY)
    assert table.inputs == ["x", "y"] and given == ["1", ""]
    np.save(tmp_path / "a.npy", np.arange(6.0).reshape(2, 3))
    table, _, _ = read_inputs(tmp_path / "a.npy", "vector", ANY)
    assert [row.tolist() for row in table.inputs] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", b"txt,label\nx,1\n", {"text_column": "text"}, "no column 'text'; it has 'txt'"),
        ("a.csv", b"p,q\nx,y\n", {}, "no column looks like texts or images among 'p', 'q'"),
        ("a.csv", b"text\nok\n\xff\xfe\n", {}, "line 3: byte 0xff is not UTF-8"),
        ("a.csv", b"text,label\nok\n", {}, "line 2: 1 fields"),
        ("a.csv", b"text\n", {}, "holds nothing"),
        ("a.csv", b"image\na.png\n", {}, "holds images .*the model reads texts"),
        ("a.csv", b"text,label\nx,1\n ,2\n", {}, "1 of 2 samples .*a.csv:3"),
        ("a.txt", b"\n \n", {}, "holds nothing"),
        ("a.png", b"x", {}, "holds images, but texts are expected"),
        ("a.pdf", b"x", {}, "not an image, nor a file"),
    ],
)
def test_one_clear_message(
    tmp_path: Path, name: str, content: bytes, options: dict[str, str], message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_inputs(tmp_path / name, "text", config("x", **options))


def test_missing_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file or folder"):
        read_inputs(tmp_path / "none", "text", ANY)
    with pytest.raises(ConfigError, match="no images"):
        read_inputs(tmp_path, "image", ANY)
    with pytest.raises(ConfigError, match="an existing .npy file"):
        read_inputs(tmp_path / "a.npy", "vector", ANY)


def test_unreadable_samples_follow_the_policy(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"1 of 2 samples .*b.png"):
        read_inputs(tmp_path, "image", ANY)
    table, _, notices = read_inputs(tmp_path, "image", config("x", on_bad_sample="skip"))
    assert table.ids == ["a.png"] and notices[0].examples == ["b.png"]
