"""Write a folder or a file whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tether.errors import ConfigError


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """A temporary neighbour of ``folder`` that takes its place once the block has ended well.

    The files are flushed to the disk before the rename, so that a crash leaves the old folder or
    the new one. What stood there before is removed last.
    """
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".new", dir=folder.parent))
    try:
        yield fresh
        fresh.chmod(0o755)  # mkdtemp keeps others out
        for path in fresh.rglob("*"):
            if path.is_file():
                _flush(path)
        old = None
        if folder.exists() or folder.is_symlink():
            old = fresh.with_suffix(".old")
            os.rename(folder, old)
        os.rename(fresh, folder)
        if old is not None:
            _remove(old)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A temporary neighbour of ``path`` that takes its place once the block has ended well."""
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        _flush(Path(name))
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Readable JSON, UTF-8."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state on the CPU, each tensor on its own; sharded ones are gathered (on every rank)."""
    state = {}
    for name, value in model.state_dict().items():
        whole = value.full_tensor() if hasattr(value, "full_tensor") else value
        state[name] = whole.detach().to("cpu", copy=True).contiguous()
    return state


def writes() -> bool:
    """Whether this process writes files: always, except on ranks above 0."""
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or (
        distributed.get_rank() == 0
    )


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
