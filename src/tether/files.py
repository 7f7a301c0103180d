"""Files and folders that are whole or absent, also after a power cut."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tether.errors import ConfigError


@contextmanager
def replaced_file(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary neighbour of ``path`` that takes its place once the block has ended well.

    Without ``sync`` the file is still whole or absent when the process is killed, but not after a
    power cut; waiting for the disk takes some milliseconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield fresh
        if sync:
            sync_file(fresh)
        os.replace(fresh, path)
        if sync:
            sync_file(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A temporary neighbour of ``folder`` that takes its place once the block has ended well.

    The files are on the disk before the rename, so that a crash leaves the old folder or the new
    one. What stood there before is removed last.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".new", dir=folder.parent))
    try:
        yield fresh
        fresh.chmod(0o755)  # mkdtemp keeps others out
        for path in (*fresh.rglob("*"), fresh):
            sync_file(path)
        old = None
        if folder.exists() or folder.is_symlink():
            old = fresh.with_suffix(".old")
            os.rename(folder, old)
        os.rename(fresh, folder)
        sync_file(folder.parent)
        if old is not None:
            _remove(old)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write a text file whole or not at all."""
    with replaced_file(path, sync=sync) as fresh:
        fresh.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    """Write JSON whole or not at all; numbers that are not finite become null."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=False) + "\n", sync=sync)


def finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(part) for part in value]
    if isinstance(value, float) and not (float("-inf") < value < float("inf")):
        return None
    return value


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ConfigError: not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}; an object was expected")
    return value


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``.jsonl`` file; a last line that was broken off is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a ``.jsonl`` file anew."""
    write_text(path, "".join(json.dumps(finite(row)) + "\n" for row in rows))


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a ``.jsonl`` file."""
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(finite(row)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk before going on."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
