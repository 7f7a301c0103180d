"""Checkpoints that are complete or do not count: a manifest of names and sizes says so.

A checkpoint of the Trainer is a folder of many files, and some that are missing (the optimiser's,
the random numbers') are passed over in silence when it is resumed. So everything in it is synced to
the disk, then a manifest is renamed into place; a folder whose manifest is absent or disagrees is
never resumed from, and is removed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from tether.files import sync_file, write_json

MANIFEST = "manifest.json"
LAST = "last"


def seal(folder: Path, about: dict[str, Any]) -> None:
    """Sync every file of a checkpoint and write its manifest.

    Args:
        folder: the checkpoint.
        about: what the manifest says besides: ``step``, and whether training was ``finished``.
    """
    sizes = {}
    for path in sorted(folder.rglob("*")):
        sync_file(path)
        if path.is_file() and path.name != MANIFEST:
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    sync_file(folder)
    sync_file(folder.parent)
    write_json(folder / MANIFEST, {**about, "files": sizes})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a complete checkpoint, else None."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sizes = manifest["files"].items()
        complete = all((folder / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError, KeyError, AttributeError):
        return None
    return manifest if complete else None


def checkpoints(root: Path) -> list[Path]:
    """Folders of checkpoints, the newest first, complete or not."""
    found = {}
    for path in root.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and path.is_dir():
            found[int(match[1])] = path
    return [found[step] for step in sorted(found, reverse=True)]


def newest(root: Path) -> Path | None:
    """The newest complete checkpoint; those that were broken off are removed."""
    for path in checkpoints(root):
        if read_manifest(path) is not None:
            return path
        shutil.rmtree(path)
    return None


def point_to(root: Path, name: str, target: Path) -> None:
    """Let ``root/name`` lead to a checkpoint, in one step."""
    link = root / name
    temporary = root / f".{name}.tmp"
    try:
        temporary.unlink(missing_ok=True)
        os.symlink(target.name, temporary)
        os.replace(temporary, link)
    except OSError:  # a file system without links: the numbers in the names say the same
        temporary.unlink(missing_ok=True)


def prune(root: Path, keep: int) -> None:
    """Keep the newest complete checkpoints and remove the others."""
    complete = [path for path in checkpoints(root) if read_manifest(path) is not None]
    for path in complete[max(keep, 1) :]:
        (path / MANIFEST).unlink()  # from here on it does not count
        shutil.rmtree(path)
