"""Suspects for other tools."""

from __future__ import annotations

import base64
import csv
import io
import json
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from PIL import Image

from tests.labels.makers import CLASSES, image_data, make_run, suspects_of, text_data
from tests.labels.test_apply import decide, entry
from tether.cli import app as cli
from tether.errors import ConfigError
from tether.labels.apply import apply_corrections
from tether.labels.exports import export
from tether.labels.review.suspects import open_review


def test_label_studio_tasks_of_images(tmp_path):
    data = image_data(tmp_path / "photos", 6)
    run = make_run(tmp_path / "run", data)
    rows = suspects_of(run)
    decide(run, entry(rows[0]), entry(rows[1], "skip"), entry(rows[2], "keep"))
    review = open_review(run)
    paths = export(review, tmp_path / "tasks.json", form="label-studio")
    tasks = json.loads(paths[0].read_text(encoding="utf-8"))
    assert len(tasks) == len(rows)
    for task, row in zip(tasks, rows, strict=True):
        start, _, path = task["data"]["image"].partition("?d=")
        assert start == "/data/local-files/" and (data / unquote(path)).is_file()
        assert task["data"]["id"] == row["id"] == unquote(path)
        (found,) = task["predictions"][0]["result"]
        assert found["value"]["choices"] == [row["suggested"]]
    assert tasks[0]["annotations"][0]["result"][0]["value"]["choices"] == [rows[0]["suggested"]]
    assert "annotations" not in tasks[1]
    config = ElementTree.fromstring(paths[1].read_text(encoding="utf-8"))
    assert [c.get("value") for c in config.iter("Choice")] == list(CLASSES)
    names = {e.get("name") for e in config.iter()}
    assert {found["from_name"], found["to_name"]} <= names

    export(review, tmp_path / "inside.json", form="label-studio", embed=True, limit=2)
    (first, _) = json.loads((tmp_path / "inside.json").read_text())
    start, _, code = first["data"]["image"].partition(",")
    assert Image.open(io.BytesIO(base64.b64decode(code))).size == (96, 72)
    with pytest.raises(ConfigError, match="name the folder that Label Studio serves with --root"):
        export(review, tmp_path / "no.json", form="label-studio", root=tmp_path / "run")
    assert not (tmp_path / "no.json").exists()


def test_texts_and_the_plain_file_that_apply_takes(tmp_path, capsys):
    data = text_data(tmp_path / "t.csv", 6)
    run = make_run(tmp_path / "run", data)
    rows = suspects_of(run)
    decide(run, entry(rows[0]), entry(rows[1], "keep"))
    assert cli.run(["labels", "export", str(run), "-o", str(tmp_path / "plain.csv")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'plain.csv'}\n"
    with (tmp_path / "plain.csv").open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    assert [(r["id"], r["given"], r["suggested"]) for r in written] == [
        (r["id"], r["given"], r["suggested"]) for r in rows
    ]
    assert [(r["decision"], r["label"]) for r in written[:3]] == [
        ("accept", rows[0]["suggested"]), ("keep", rows[1]["given"]), ("", ""),
    ]  # fmt: skip
    done = apply_corrections(tmp_path / "plain.csv", data, tmp_path / "new.csv")
    assert [c.id for c in done.planned.changes] == [rows[0]["id"]]
    words = ["labels", "export", str(run), "--format", "label-studio", "-o"]
    assert cli.run([*words, str(tmp_path / "tasks.json")]) == 0
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert tasks[0]["data"]["text"].startswith("<script>")
    assert cli.run([*words[:-1], "-o", str(tmp_path)]) == 2
    assert cli.run(["labels", "export", str(run), "--format", "xml", "-o", "x"]) == 2
    assert "none of csv and label-studio" in capsys.readouterr().err
