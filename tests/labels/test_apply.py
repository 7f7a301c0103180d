"""Corrections made into new data: every layout, nothing in place, nothing half written."""

from __future__ import annotations

import csv
import os
from dataclasses import replace

import numpy as np
import pytest

from tests.labels.makers import CLASSES, NASTY, image_data, make_run, suspects_of, table, text_data
from tether.cli import app as cli
from tether.data import load_data
from tether.errors import ConfigError
from tether.labels.apply import apply_corrections
from tether.labels.journal import Entry, Journal, format_journal
from tether.tuning.options import TuneConfig


def entry(row, decision="accept", label=None, number=1):
    told = {"accept": row["suggested"], "keep": row["given"], "skip": "", "undo": ""}
    label = told.get(decision, label) if label is None else label
    return Entry(
        "2026-01-01T00:00:00Z", row["id"], row["split"], row["given"], decision, label, number,
        "0123456789abcdef",
    )  # fmt: skip


def decide(run, *entries):
    """The journal in the run's folder."""
    path = run / "labels" / "corrections.csv"
    Journal(path).add([replace(e, sequence=n) for n, e in enumerate(entries)])
    return path


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def labels_in(data, **options):
    """Id -> label of the training data as tether reads them."""
    source = load_data(TuneConfig(data=str(data), validation_share=0.2, **options))
    return {
        name: source.class_names[int(label)]
        for split in source.tables.values()
        for name, label in zip(split.ids, split.labels, strict=True)
    }


def rows_of(path, delimiter=","):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


# -- image folders ---------------------------------------------------------------------------------


def test_a_folder_of_images(tmp_path):
    data = image_data(tmp_path / "photos", 12)
    (data / "cat" / "notes.txt").write_text("keep me")
    run = make_run(tmp_path / "run", data)
    rows = suspects_of(run)
    last = [row for row in rows if row["given"] == CLASSES[2]][-1]  # its suggestion is a cat
    path = decide(
        run, entry(rows[0]), entry(rows[1], "other", CLASSES[2]), entry(rows[2], "keep"),
        entry(rows[3], "skip"), entry(rows[4]), entry(rows[4], "undo"), entry(last),
    )  # fmt: skip
    before = tree(data)
    done = apply_corrections(path, data, tmp_path / "new")
    assert tree(data) == before
    assert done.planned.pairs() == [
        ("cat", "dog", 1),
        ("cat", CLASSES[2], 1),
        (CLASSES[2], "cat", 1),
    ]
    assert (done.planned.kept, done.planned.skipped, done.copied) == (1, 1, 0)
    new = tree(tmp_path / "new")
    moved = {}
    for row, label in ((rows[0], "dog"), (rows[1], CLASSES[2]), (last, "cat")):
        name = row["id"].partition("/")[2]
        left = f"{name[:-4]} from {row['given']}.png"  # an image of this name is there already
        moved[row["id"]] = f"{label}/{left}"
        assert new[f"{label}/{left}"] == before[row["id"]]
    assert set(new) == (set(before) - set(moved)) | set(moved.values())
    for name in set(before) & set(new):
        assert os.path.samefile(data / name, tmp_path / "new" / name)
    labels = labels_in(tmp_path / "new")
    assert [labels[moved[row["id"]]] for row in (rows[0], rows[1], last)] == [
        "dog",
        CLASSES[2],
        "cat",
    ]
    assert NASTY[0] in moved[rows[0]["id"]]


def test_split_folders_and_the_test_labels(tmp_path):
    data = tmp_path / "data"
    for split in ("train", "val", "test"):
        image_data(data / split, 8)
    run = make_run(tmp_path / "run", data)
    test = {"id": "test/cat/7.png", "split": "test", "given": "cat", "suggested": "dog"}
    rows = suspects_of(run)
    path = decide(run, entry(rows[0]), entry(test))
    done = apply_corrections(path, data, tmp_path / "new")
    assert [c.id for c in done.planned.protected] == [test["id"]] and not done.scores
    assert (tmp_path / "new" / "test" / "cat" / "7.png").is_file()
    assert (tmp_path / "new" / "train" / "dog").is_dir()
    with pytest.raises(ConfigError, match=r"both scores must be told: name the run with --run"):
        apply_corrections(path, data, tmp_path / "all", include_test=True)
    assert not (tmp_path / "all").exists()
    table(run / "predictions-test.csv", [
        {"id": test["id"], "label": "cat", "predicted": "dog"},
        {"id": "test/cat/6.png", "label": "cat", "predicted": "cat"},
    ])  # fmt: skip
    done = apply_corrections(path, data, tmp_path / "all", include_test=True)
    assert done.scores == {"test": (0.5, 1.0)} and not done.planned.protected
    assert (tmp_path / "all" / "test" / "dog" / "7 from cat.png").is_file()


def test_a_validation_split_that_the_run_made_is_left_alone_too(tmp_path):
    data = image_data(tmp_path / "photos", 12)
    run = make_run(tmp_path / "run", data)
    source = load_data(TuneConfig(data=str(data)))
    name = source.tables["validation"].ids[0]
    given = name.partition("/")[0]
    other = next(c for c in CLASSES if c != given)
    row = {"id": name, "split": "validation", "given": given, "suggested": other}
    path = decide(run, entry(row))
    with pytest.raises(ConfigError, match="no label to change in the training data; 1 are of val"):
        apply_corrections(path, data, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos", "run"]


def test_links_across_class_folders_and_file_systems(tmp_path, monkeypatch):
    data = image_data(tmp_path / "photos", 6)
    elsewhere = tmp_path / "elsewhere"
    (data / "dog").rename(elsewhere)
    (data / "dog").symlink_to(elsewhere, target_is_directory=True)
    run = make_run(tmp_path / "run", data)
    path = decide(run, entry(suspects_of(run)[0]))

    def refuse(*names, **options):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    done = apply_corrections(path, data, tmp_path / "new")
    assert done.copied == 18
    assert len(tree(tmp_path / "new")) == 18 and not (tmp_path / "new" / "dog").is_symlink()


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["", "checked"])
def test_a_csv_file(tmp_path, column):
    data = text_data(tmp_path / "t.csv", 8)
    run = make_run(tmp_path / "run", data)
    rows = suspects_of(run)
    path = decide(run, entry(rows[0]), entry(rows[1], "other", CLASSES[2]), entry(rows[2], "keep"))
    before = data.read_bytes()
    apply_corrections(path, data, tmp_path / "new.csv", column=column)
    assert data.read_bytes() == before
    wanted = {rows[0]["id"]: rows[0]["suggested"], rows[1]["id"]: CLASSES[2]}
    old, new = rows_of(data), rows_of(tmp_path / "new.csv")
    for line, (was, now) in enumerate(zip(old, new, strict=True), start=2):
        expected = wanted.get(f"t.csv:{line}", was["label"])
        assert now == ({**was, column: expected} if column else {**was, "label": expected})
    found = labels_in(tmp_path / "new.csv", label_column=column or "label")
    assert found[rows[0]["id"].replace("t.csv", "new.csv")] == rows[0]["suggested"]


def test_a_tsv_file_with_line_breaks_and_whole_numbers(tmp_path):
    data = tmp_path / "t.tsv"
    lines = [f'"one\r\n""{i}"""\t{i % 3}.0' for i in range(30)]
    data.write_bytes("\r\n".join(["text\ty", *lines, ""]).encode())
    run = make_run(tmp_path / "run", data)
    row = suspects_of(run)[0]
    apply_corrections(decide(run, entry(row)), data, tmp_path / "new.tsv")
    old, new = rows_of(data, "\t"), rows_of(tmp_path / "new.tsv", "\t")
    changed = [(a["y"], b["y"]) for a, b in zip(old, new, strict=True) if a != b]
    assert changed == [(f"{row['given']}.0", row["suggested"])]
    assert [r["text"] for r in old] == [r["text"] for r in new]


def test_a_table_of_images_is_moved_with_its_paths(tmp_path):
    image_data(tmp_path / "photos", 8)
    paths = [p.relative_to(tmp_path).as_posix() for p in (tmp_path / "photos").rglob("*.png")]
    rows = [{"path": p, "label": p.split("/")[1]} for p in sorted(paths)]
    data = table(tmp_path / "photos.csv", rows)
    run = make_run(tmp_path / "run", data)
    row = suspects_of(run)[0]
    (tmp_path / "deep" / "er").mkdir(parents=True)
    target = tmp_path / "deep" / "er" / "new.csv"
    apply_corrections(decide(run, entry(row)), data, target)
    assert rows_of(target)[0]["path"] == "../../" + rows[0]["path"]
    assert labels_in(target)[row["id"].replace("photos.csv", "new.csv")] == row["suggested"]


def test_a_folder_of_tables(tmp_path):
    for split in ("train", "test"):
        text_data(tmp_path / "data" / f"{split}.csv", 8)
    run = make_run(tmp_path / "run", tmp_path / "data")
    row = suspects_of(run)[0]
    apply_corrections(decide(run, entry(row)), tmp_path / "data", tmp_path / "new")
    old, new = tree(tmp_path / "data"), tree(tmp_path / "new")
    assert old["test.csv"] == new["test.csv"] and old["train.csv"] != new["train.csv"]
    assert labels_in(tmp_path / "new")[row["id"]] == row["suggested"]


@pytest.mark.parametrize("names", [None, ["ant", "bee", "wasp"]])
@pytest.mark.parametrize("column", ["", "checked"])
def test_arrays(tmp_path, names, column):
    features = np.arange(120, dtype=np.float32).reshape(30, 4)
    arrays = {"train_features": features, "train_labels": np.arange(30) % 3}
    if names:
        arrays["class_names"] = np.array(names)
    data = tmp_path / "d.npz"
    np.savez(data, **arrays)
    run = make_run(tmp_path / "run", data)
    row = suspects_of(run)[0]
    path = decide(run, entry(row))
    apply_corrections(path, data, tmp_path / "new.npz", column=column)
    new = dict(np.load(tmp_path / "new.npz", allow_pickle=False))
    changed = new[f"train_{column or 'labels'}"]
    place = int(row["id"].partition("[")[2][:-1])
    assert (changed != arrays["train_labels"]).nonzero()[0].tolist() == [place]
    assert (names or "012")[changed[place]] == row["suggested"]
    assert labels_in(tmp_path / "new.npz", label_column=column)[row["id"]] == row["suggested"]
    assert set(new) == {*arrays, f"train_{column or 'labels'}"}


@pytest.mark.parametrize("kind", ["text", "number", "list"])
def test_parquet(tmp_path, kind):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    labels = {"text": ["a", "b", "c"], "number": [0, 1, 2], "list": [["a"], ["a", "b"], ["c"]]}[
        kind
    ]
    columns = {"text": [f"t{i}" for i in range(30)], "label": [labels[i % 3] for i in range(30)]}
    data = tmp_path / "t.parquet"
    pq.write_table(pa.table({**columns, "other": list(range(30))}), data)
    run = make_run(tmp_path / "run", data)
    row = suspects_of(run)[0]
    apply_corrections(decide(run, entry(row)), data, tmp_path / "new.parquet")
    old, new = pq.read_table(data), pq.read_table(tmp_path / "new.parquet")
    assert old.schema.types == new.schema.types
    place = int(row["id"].rpartition(":")[2])
    now = new.column("label").to_pylist()
    wanted = row["suggested"].split(";") if kind == "list" else row["suggested"]
    assert now[place] == (int(wanted) if kind == "number" else wanted)
    assert now[:place] + now[place + 1 :] == [
        v for i, v in enumerate(columns["label"]) if i != place
    ]
    assert old.drop_columns("label") == new.drop_columns("label")


def test_several_labels_in_one_column_or_in_several(tmp_path):
    tags = [("a", "a;b", "c", "b;c")[i % 4] for i in range(40)]
    data = table(tmp_path / "t.csv", [{"text": f"t{i}", "tags": t} for i, t in enumerate(tags)])
    run = make_run(tmp_path / "run", data, label_column="tags")
    row = next(r for r in suspects_of(run) if r["given"] == "b;c")
    apply_corrections(decide(run, entry(row, "other", "c;a")), data, tmp_path / "new.csv")
    line = int(row["id"].rpartition(":")[2])
    assert rows_of(tmp_path / "new.csv")[line - 2]["tags"] == "c;a"

    flags = [{"text": f"t{i}", "x": i % 2, "y": ("False", "True")[i % 3 == 0]} for i in range(40)]
    data = table(tmp_path / "f.csv", flags)
    run = make_run(tmp_path / "flags", data, label_column="x,y")
    row = next(r for r in suspects_of(run) if r["given"] == "x")
    apply_corrections(decide(run, entry(row, "other", "y")), data, tmp_path / "newf.csv")
    line = int(row["id"].rpartition(":")[2])
    now = rows_of(tmp_path / "newf.csv")[line - 2]
    assert (now["x"], now["y"]) == ("0", "True")


# -- what is refused -------------------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path):
    data = text_data(tmp_path / "t.csv", 6)
    run = make_run(tmp_path / "run", data)
    return data, run, suspects_of(run)


def refused(message, path, data, output, **options):
    before = sorted(os.listdir(output.parent)) if output.parent.is_dir() else None
    with pytest.raises(ConfigError, match=message):
        apply_corrections(path, data, output, **options)
    if before is not None:
        assert sorted(os.listdir(output.parent)) == before


def test_other_data_other_labels_no_such_label(tmp_path, texts):
    data, run, rows = texts
    new = tmp_path / "new.csv"
    path = decide(run, entry(rows[0]))
    other = text_data(tmp_path / "other.csv", 6)
    refused("of other data: 1 of 1 samples are not in", path, other, new)
    wrong = tmp_path / "wrong.csv"
    given = rows[0]["given"]
    for changed, message in (
        (
            replace(entry(rows[0]), given=next(c for c in CLASSES if c != given)),
            "other labels than",
        ),
        (entry(rows[0], "other", "dgo"), "did you mean 'dog'"),
        (entry(rows[0], "keep"), "there is no label to change"),
        (entry(rows[0], "skip"), "there is no label to change"),
    ):
        wrong.write_text(format_journal([changed]), encoding="utf-8")
        refused(message, wrong, data, new)
    wrong.write_text("a,b\n1,2\n")
    refused("holds no corrections: it has no columns 'id' and 'label'", wrong, data, new)
    wrong.write_text(f"id,label\n{rows[0]['id']},dog\n{rows[0]['id']},cat\n")
    refused("names some samples twice", wrong, data, new)
    refused("there is no file of corrections", tmp_path / "none.csv", data, new)
    refused(r"there is .*labels.corrections.csv", run / "corrections.csv", data, new)


def test_places_that_are_taken(tmp_path, texts):
    data, run, rows = texts
    path = decide(run, entry(rows[0]))
    refused("is the data: name a new place", path, data, data)
    refused("name a file that ends so", path, data, tmp_path / "new.tsv")
    refused("lie in the output", path, data, tmp_path)
    refused("is there already", path, data, path)
    refused("no such folder or file", path, "demo:digits", tmp_path / "new.csv")
    refused("there is a column 'label' already", path, data, tmp_path / "new.csv", column="label")
    photos = image_data(tmp_path / "photos", 4)
    run = make_run(tmp_path / "run2", photos)
    path = decide(run, entry(suspects_of(run)[0]))
    refused("lies in the data", path, photos, photos / "new")
    refused("is not empty", path, photos, tmp_path / "run")
    refused("an image folder has no columns", path, photos, tmp_path / "new", column="x")
    (tmp_path / "empty").mkdir()
    apply_corrections(path, photos, tmp_path / "empty")  # an empty folder may be there
    assert (tmp_path / "empty" / "cat").is_dir()


def test_what_is_no_table_cannot_be_written_anew(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    np.save(data / "train_features.npy", np.zeros((30, 4), np.float32) + np.arange(30)[:, None])
    np.save(data / "train_labels.npy", np.arange(30) % 3)
    run = make_run(tmp_path / "run", data)
    path = decide(run, entry(suspects_of(run)[0]))
    refused("only image folders and tables", path, data, tmp_path / "new")


def test_a_plain_list_of_ids_and_labels_does(tmp_path, texts):
    data, _, rows = texts
    mine = table(tmp_path / "mine.csv", [
        {"id": rows[0]["id"], "label": rows[0]["suggested"]}, {"id": rows[1]["id"], "label": ""},
    ])  # fmt: skip
    done = apply_corrections(mine, data, tmp_path / "new.csv")
    assert done.run is None and [c.id for c in done.planned.changes] == [rows[0]["id"]]


def test_the_command_tells_what_it_did(tmp_path, texts, capsys):
    data, run, rows = texts
    path = decide(run, entry(rows[0]), entry(rows[1], "keep"))
    words = ["labels", "apply", str(path), "--data", str(data), "-o", str(tmp_path / "new.csv")]
    assert cli.run(words) == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'new.csv'}\n"
    assert "1 labels changed" in told.err and "1 labels kept, 0 skipped" in told.err
    assert f"tether report {run} {run}-corrected" in told.err
    assert cli.run(words) == 2
    assert "is there already" in capsys.readouterr().err
