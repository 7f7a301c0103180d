"""Only what is complete counts; what is broken off is removed."""

from __future__ import annotations

import json

import pytest

from tether.files import append_row, read_rows, write_json, write_rows, write_text
from tether.tuning.checkpoints import (
    MANIFEST,
    checkpoints,
    newest,
    point_to,
    prune,
    read_manifest,
    seal,
)


def fill(root, step, *, sealed=True):
    folder = root / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"x" * step)
    (folder / "inner" / "rng.pt").write_bytes(b"y")
    if sealed:
        seal(folder, {"step": step, "finished": False})
    return folder


def test_the_newest_complete_one_is_found_by_number(tmp_path):
    for step in (9, 10, 100):
        fill(tmp_path, step)
    assert newest(tmp_path).name == "checkpoint-100"
    assert next(path.name for path in checkpoints(tmp_path)) == "checkpoint-100"


@pytest.mark.parametrize("damage", ["unsealed", "missing", "shorter", "manifest"])
def test_a_broken_one_does_not_count_and_is_removed(tmp_path, damage):
    whole = fill(tmp_path, 5)
    broken = fill(tmp_path, 7, sealed=damage != "unsealed")
    if damage == "missing":
        (broken / "inner" / "rng.pt").unlink()
    elif damage == "shorter":
        (broken / "optimizer.pt").write_bytes(b"x")
    elif damage == "manifest":
        (broken / MANIFEST).write_text('{"step": 7')
    assert newest(tmp_path) == whole
    assert not broken.exists()


def test_without_any_there_is_nothing(tmp_path):
    fill(tmp_path, 3, sealed=False)
    (tmp_path / "checkpoint-abc").mkdir()
    assert newest(tmp_path) is None
    assert (tmp_path / "checkpoint-abc").exists()  # not ours


def test_pruning_keeps_the_newest(tmp_path):
    for step in (1, 2, 3):
        fill(tmp_path, step)
    half = fill(tmp_path, 4, sealed=False)  # being written by somebody
    prune(tmp_path, 2)
    assert [path.name for path in checkpoints(tmp_path)] == [
        "checkpoint-4",
        "checkpoint-3",
        "checkpoint-2",
    ]
    assert half.exists()


def test_the_link_moves_in_one_step(tmp_path):
    one, two = fill(tmp_path, 1), fill(tmp_path, 2)
    point_to(tmp_path, "last", one)
    point_to(tmp_path, "last", two)
    assert (tmp_path / "last").resolve() == two.resolve()
    assert read_manifest(tmp_path / "last")["step"] == 2


def test_rows_survive_a_broken_last_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_row(path, {"step": 1, "loss": float("nan")})
    append_row(path, {"step": 2})
    with open(path, "a") as file:
        file.write('{"step": 3, "lo')
    assert read_rows(path) == [{"step": 1, "loss": None}, {"step": 2}]
    write_rows(path, read_rows(path)[:1])
    assert read_rows(path) == [{"step": 1, "loss": None}]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert json.loads(path.read_text()) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
