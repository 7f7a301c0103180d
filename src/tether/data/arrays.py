"""Arrays as data: an ``.npz`` file, or a folder of memory-mapped ``.npy`` files.

Entries are named by split: ``train_images`` (uint8 ``[N, H, W]`` or ``[N, H, W, C]``), or
``train_bytes`` with ``train_offsets`` (encoded images, one after another), or ``train_pixels``
with ``train_shapes`` (decoded ones of any size, see :mod:`tether.data.cache`), or
``train_features`` (numbers ``[N, D]``); ``train_labels`` (class indices, numbers or texts);
``train_ids`` where samples have names. ``class_names`` names the classes. With
``label_column="worst"`` labels are read from ``train_worst`` where there is one, and labels known
to be right from the entry that ``true_label_column`` names.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tether.data.columns import cell
from tether.data.images import MappedImage, StoredImage
from tether.data.raw import Cell, RawData, RawSplit
from tether.data.table import SPLITS
from tether.errors import ConfigError
from tether.optional import require
from tether.words import listed, nearest

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

Array = NDArray[Any]
_INPUTS = ("images", "bytes", "pixels", "features")


class ArrayFolder(Mapping[str, Array]):
    """The ``.npy`` files of a folder by their names, mapped into memory when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Array:
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            raise KeyError(name)
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.stem for path in self.folder.glob("*.npy")))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def is_array_folder(folder: Path) -> bool:
    """Whether a folder holds arrays that :func:`read_arrays` reads."""
    return any((folder / f"train_{name}.npy").is_file() for name in _INPUTS)


def read_arrays(path: Path, config: TuneConfig, *, labels: bool = True) -> RawData:
    """The samples of a file or folder of arrays.

    Args:
        path: an ``.npz`` file, or a folder of ``.npy`` files.
        config: ``label_column`` and ``true_label_column`` are read.
        labels: whether labels are needed, or read where there are some.

    Raises:
        ConfigError: it cannot be read, an entry is missing, or arrays do not belong together.
    """
    for option in ("text_column", "image_column", "domain_column"):
        if getattr(config, option):
            raise ConfigError(f"option {option}: {path.name} holds arrays, not columns")
    try:
        if path.is_dir():
            return _read(ArrayFolder(path), path, config, labels)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return _read(arrays, path, config, labels)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def _read(arrays: Any, path: Path, config: TuneConfig, labels: bool) -> RawData:
    names = list(arrays)
    kinds = {part for part in _INPUTS if f"train_{part}" in names}
    if not labels and not kinds:
        kinds = {part for part in _INPUTS for split in SPLITS if f"{split}_{part}" in names}
    if len(kinds) != 1:
        raise ConfigError(
            f"{path}: one entry of train_images, train_bytes, train_pixels and train_features is "
            f"expected; it has {listed(names, most=20)}"
        )
    part = kinds.pop()
    classes = [str(name) for name in arrays["class_names"]] if "class_names" in names else None
    targets = [str(name) for name in arrays["target_names"]] if "target_names" in names else None
    splits = {}
    for split in SPLITS:
        if f"{split}_{part}" not in names:
            continue
        inputs, ids = _inputs(arrays, names, split, part, path), _ids(arrays, names, split, path)
        ids = ids or [f"{split}[{row}]" for row in range(len(inputs))]
        needed = labels and split != "test"
        cells = _cells(arrays, names, split, config.label_column, path, classes, needed=needed)
        true = None
        if config.true_label_column and split == "train" and labels:
            true = _cells(
                arrays, names, split, config.true_label_column, path, classes, needed=True,
                option="true_label_column",
            )  # fmt: skip
        for what, found in (("ids", ids), ("labels", cells), ("true labels", true)):
            if found is not None and len(found) != len(inputs):
                raise ConfigError(
                    f"{path}: {split} has {len(inputs)} inputs and {len(found)} {what}"
                )
        splits[split] = RawSplit(inputs, ids, rows_of(cells, targets), None, true)
    kind = "vector" if part == "features" else "image"
    return RawData(kind, splits, targets or [config.label_column or "labels"], classes)


def rows_of(cells: list[Any] | None, targets: list[str] | None) -> list[tuple[Cell, ...]] | None:
    """Labels as rows of cells: one cell each, or one for each target of a regression."""
    if cells is None:
        return None
    return [tuple(each) for each in cells] if targets else [(each,) for each in cells]


def _inputs(arrays: Any, names: list[str], split: str, part: str, path: Path) -> list[Any]:
    array = arrays[f"{split}_{part}"]
    if part == "features":
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            raise ConfigError(f"{path}: {split}_features are numbers [N, D], not {_form(array)}")
        return list(array if array.dtype == np.float32 else array.astype(np.float32))
    if part == "bytes":
        if f"{split}_offsets" not in names:
            raise ConfigError(f"{path}: {split}_bytes needs {split}_offsets")
        data, bounds = array.tobytes(), arrays[f"{split}_offsets"].tolist()
        store = [data[a:b] for a, b in pairwise(bounds)]
        return [StoredImage(store, row) for row in range(len(store))]
    if part == "pixels":
        return _mapped(array, arrays, names, split, path)
    channels = array.shape[3] if array.ndim == 4 else 1
    if array.dtype != np.uint8 or array.ndim not in (3, 4) or channels not in (1, 3):
        raise ConfigError(
            f"{path}: {split}_images are uint8 [N, H, W] or [N, H, W, 3], not {_form(array)}"
        )
    images = require("PIL.Image", "vision")
    return [images.fromarray(each.squeeze(-1) if each.shape[-1:] == (1,) else each)
            for each in array]  # fmt: skip


def _mapped(
    pixels: Array, arrays: Any, names: list[str], split: str, path: Path
) -> list[MappedImage]:
    missing = [part for part in ("shapes", "keys") if f"{split}_{part}" not in names]
    if missing:
        raise ConfigError(f"{path}: {split}_pixels needs {split}_{missing[0]}")
    shapes, keys = arrays[f"{split}_shapes"], arrays[f"{split}_keys"]
    ends = np.cumsum(shapes.prod(axis=1, dtype=np.int64))
    if len(ends) and ends[-1] != len(pixels):
        raise ConfigError(f"{path}: {split}_pixels are not as many as {split}_shapes say")
    return [
        MappedImage(pixels[end - size.prod(dtype=np.int64) : end].reshape(size), key.tobytes())
        for end, size, key in zip(ends, shapes, keys, strict=True)
    ]


def _form(array: Array) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _ids(arrays: Any, names: list[str], split: str, path: Path) -> list[str]:
    if f"{split}_ids" not in names:
        return []
    ids = [str(name) for name in arrays[f"{split}_ids"]]
    if len(set(ids)) < len(ids):
        raise ConfigError(f"{path}: {split}_ids holds a name twice")
    return ids


def _cells(
    arrays: Any, names: list[str], split: str, column: str, path: Path,
    classes: list[str] | None, *, needed: bool, option: str = "label_column",
) -> list[Cell] | None:  # fmt: skip
    """Labels of a split as texts, from the entry that was asked for or from ``SPLIT_labels``."""
    name = f"{split}_{column}"
    if column and name not in names and (split == "train" or f"{split}_labels" not in names):
        if not needed:
            return None
        mine = [n.removeprefix(f"{split}_") for n in names if n.startswith(f"{split}_")]
        raise ConfigError(
            f"option {option}: {path} has no entry {name!r}; it has {listed(names, most=20)}"
            f"{nearest(column, mine)}"
        )
    if name not in names:
        name = f"{split}_labels"
    if name not in names:
        if needed:
            raise ConfigError(f"{path} has no entry {name!r}; it has {listed(names, most=20)}")
        return None
    values = arrays[name]
    if values.ndim == 2 and np.issubdtype(values.dtype, np.floating):  # several targets
        return [tuple(repr(value) for value in row) for row in values.tolist()]
    if values.ndim == 2:  # several labels a sample: the names of those that are one
        known = classes or [str(k) for k in range(values.shape[1])]
        return [tuple(known[k] for k in np.flatnonzero(row)) for row in values]
    if np.issubdtype(values.dtype, np.integer):
        return [cell(int(value), classes) for value in values]
    if np.issubdtype(values.dtype, np.str_):
        return [text.strip() for text in values.tolist()]
    return [cell(value, None) for value in values.tolist()]
