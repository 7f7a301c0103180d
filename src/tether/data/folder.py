"""Folders of images: one sub-folder a class, with or without folders for the splits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tether.data.images import is_image_name
from tether.data.raw import RawData, RawSplit, by_split
from tether.data.table import SPLITS, Notice
from tether.errors import ConfigError
from tether.words import listed, printable

LAYOUT = (
    "expected FOLDER/CLASS/image.jpg, or FOLDER/train/CLASS/image.jpg (and validation, test "
    "beside train)"
)


def read_folder(root: Path) -> RawData:
    """The images of a folder, their classes, and their splits.

    Args:
        root: a folder of class folders, or of ``train``, ``validation`` (``val``, ``valid``,
            ``dev``) and ``test`` folders of them. Class folders are searched to any depth.

    Raises:
        ConfigError: no images, no class folders, or folders that contradict each other.
    """
    folders = subfolders(root)
    splits = by_split([f.name for f in folders], f"folder {root}")
    train = splits.get("train")
    notices: list[Notice] = []
    if train is None or not _is_split(root / train, alone=len(splits) == 1):
        if folders and len(splits) == len(folders):
            raise ConfigError(
                f"folder {root} has {listed(sorted(splits.values()))} and no train folder with "
                f"class folders; {LAYOUT}"
            )
        return RawData("image", {"train": _read_split(root, root, notices)}, ["class"],
                       folder=True, notices=notices)  # fmt: skip
    others = [f.name for f in folders if f.name not in splits.values()]
    if others:
        what = "folders beside train that are no split were left out"
        notices.append(Notice("ignored_folder", "", len(others), what, others[:5]))
    tables: dict[str, RawSplit] = {}
    for split in SPLITS:
        if split in splits:
            found = _read_split(root / splits[split], root, notices, split)
            if len(found) or split == "train":
                tables[split] = found
            else:
                what = f"folder {splits[split]} holds no image: taken as not there"
                notices.append(Notice("empty_split", split, 0, what))
    return RawData("image", tables, ["class"], folder=True, notices=notices)


def _is_split(folder: Path, alone: bool) -> bool:
    """Whether it holds class folders; a class that happens to be called "train" holds images."""
    return bool(subfolders(folder)) and not (alone and any(_images_here(folder)))


def _read_split(folder: Path, root: Path, notices: list[Notice], split: str = "train") -> RawSplit:
    inputs: list[Path] = []
    classes: list[str] = []
    empty: list[str] = []
    others: list[Path] = []
    for place in subfolders(folder):
        images: list[Path] = []
        for path in walk(place):
            (images if is_image_name(path.name) else others).append(path)
        if not images:
            empty.append(place.name)
        inputs += images
        classes += [place.name] * len(images)
    loose = sorted(_images_here(folder))
    if not inputs and loose and split == "test":  # images to predict
        return RawSplit(list(loose), _ids(loose, root), None)
    if not inputs and split == "train":
        why = f"has {len(loose)} images, but none in a class folder" if loose else "has no images"
        raise ConfigError(f"folder {folder} {why}; {LAYOUT}")
    for kind, names, what in (
        ("empty_class", empty, "class folders without an image: no class was made of them"),
        ("ignored_file", _ids(others, root), "files that are no images"),
        ("ignored_file", _ids(loose, root), "images outside the class folders were left out"),
    ):
        if names:
            notices.append(Notice(kind, split, len(names), what, names[:5]))
    return RawSplit(list(inputs), _ids(inputs, root), [(name,) for name in classes])


def read_images(root: Path) -> RawSplit:
    """All images below a folder, without labels.

    Raises:
        ConfigError: there are none.
    """
    found = [path for path in walk(root) if is_image_name(path.name)]
    if not found:
        raise ConfigError(f"folder {root} has no images")
    return RawSplit(list(found), _ids(found, root), None)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder by name, without hidden ones."""
    try:
        found = [p for p in folder.iterdir() if not _hidden(p.name) and p.is_dir()]
    except OSError as error:
        reason = printable(error.strerror or error)
        raise ConfigError(f"folder {folder} cannot be read: {reason}") from None
    return sorted(found, key=lambda p: p.name)


def walk(folder: Path) -> Iterator[Path]:
    """All files below a folder in a fixed order, without hidden ones."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        for name in sorted(files):
            if not _hidden(name):
                yield Path(place, name)


def _images_here(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if not _hidden(path.name) and is_image_name(path.name) and path.is_file():
            yield path


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _ids(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]
