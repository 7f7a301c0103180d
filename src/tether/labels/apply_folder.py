"""An image folder anew, with some images in another class folder; the files are hard links."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from tether.data.folder import subfolders, walk
from tether.data.raw import RawData, split_of
from tether.errors import ConfigError
from tether.files import replaced_folder
from tether.labels.corrections import Change


def write_folder(root: Path, raw: RawData, changes: Sequence[Change], output: Path) -> int:
    """Write the folder whole or not at all.

    Args:
        root: the image folder; nothing in it is touched.
        raw: what was read from it.
        changes: which images get another class.
        output: the new folder.

    Returns:
        how many files had to be copied, because no link could be made.
    """
    moved = {change.id: change.after for change in changes}
    with replaced_folder(output) as fresh:
        targets = _targets(root, raw, moved)
        for folder in _class_folders(raw):
            (fresh / folder).mkdir(parents=True, exist_ok=True)
        copied = 0
        for source, target in targets.items():
            place = fresh / target
            place.parent.mkdir(parents=True, exist_ok=True)
            copied += link_or_copy(source, place)
        return copied


def link_or_copy(source: Path, target: Path) -> int:
    """A second name for a file, or a copy where the file system gives none; 1 for a copy."""
    real = Path(os.path.realpath(source))  # what a symbolic link names, not the link
    with contextlib.suppress(OSError, NotImplementedError):
        os.link(real, target)
        return 0
    shutil.copy2(real, target)
    return 1


def all_files(root: Path) -> Iterator[Path]:
    """The files that are read from a folder, linked class folders among them; no hidden ones."""
    for place in (root, *_linked(root)):
        yield from walk(place)


def _linked(folder: Path, depth: int = 2) -> Iterator[Path]:
    for place in subfolders(folder) if depth else ():
        if place.is_symlink():
            yield place
        else:
            yield from _linked(place, depth - 1)


def _targets(root: Path, raw: RawData, moved: dict[str, str]) -> dict[Path, Path]:
    """File -> its place in the new folder; what stays keeps its name."""
    stays: dict[Path, Path] = {path: path.relative_to(root) for path in all_files(root)}
    goes: dict[Path, tuple[Path, str]] = {}  # with the class folder that it leaves
    for split, data in raw.splits.items():
        depth = _depth(split, data.ids, data.cells)
        for name, path in zip(data.ids, data.inputs, strict=True):
            if name in moved:
                stays.pop(path, None)
                parts = Path(name).parts
                goes[path] = Path(*parts[:depth], moved[name], *parts[depth + 1 :]), parts[depth]
    taken, result = set(stays.values()), dict(stays)
    for path, (wanted, left) in goes.items():
        target, number = wanted, 1
        while target in taken:
            again = f" {number}" if number > 1 else ""
            target = wanted.with_name(f"{wanted.stem} from {left}{again}{wanted.suffix}")
            number += 1
        taken.add(target)
        result[path] = target
    return result


def _depth(split: str, ids: Sequence[str], cells: Sequence[tuple[object, ...]] | None) -> int:
    """Where in the parts of an id the class folder is: behind that of the split, or first."""
    if cells is None:
        raise ConfigError(f"the {split} images have no classes")
    both = list(zip((Path(name).parts for name in ids), cells, strict=True))
    inside = all(
        len(parts) > 2 and split_of(parts[0]) == split and parts[1] == cell[0]
        for parts, cell in both
    )
    return 1 if inside else 0


def _class_folders(raw: RawData) -> set[Path]:
    """Class folders of the training data, so that one that lost its images is still there."""
    data = raw.splits["train"]
    depth = _depth("train", data.ids, data.cells)
    return {Path(*Path(name).parts[: depth + 1]) for name in data.ids}
