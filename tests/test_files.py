"""Files and folders are whole or absent, and nothing else is left beside them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tether.errors import ConfigError
from tether.files import read_json, replaced_file, replaced_folder, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def break_off(writing: AbstractContextManager[Path], inside: str = "") -> None:
    with writing as fresh:
        (fresh / inside if inside else fresh).write_text("half")
        raise RuntimeError("broken off")


def test_a_file_takes_the_place_of_the_old_one_or_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "ä\n")
    assert path.read_bytes() == "ä\n".encode()
    with pytest.raises(RuntimeError, match="broken off"):
        break_off(replaced_file(path))
    assert path.read_bytes() == "ä\n".encode() and names(path.parent) == ["a.txt"]
    with replaced_file(path) as fresh:
        fresh.write_text("whole")
        assert path.read_bytes() == "ä\n".encode()
    assert path.read_text() == "whole" and names(path.parent) == ["a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_a_folder_takes_the_place_of_the_old_one_or_leaves_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with replaced_folder(folder) as fresh:
        (fresh / "deep").mkdir()
        (fresh / "deep" / "a.txt").write_text("1")
    with pytest.raises(RuntimeError, match="broken off"):
        break_off(replaced_folder(folder), "b.txt")
    assert names(folder) == ["deep"] and names(tmp_path) == ["model"]
    with replaced_folder(folder) as fresh:
        (fresh / "b.txt").write_text("whole")
    assert names(folder) == ["b.txt"] and names(tmp_path) == ["model"]


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": [1, float("nan")], "b": (float("inf"), 0.5)})
    assert read_json(tmp_path / "a.json") == {"ä": [1, None], "b": [None, 0.5]}
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ConfigError, match="holds a list; an object was expected"):
        read_json(tmp_path / "list.json")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        read_json(tmp_path / "none.json")


def test_files_start_without_torch() -> None:
    code = "import sys, tether.files; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
