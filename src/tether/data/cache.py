"""Data kept as arrays, so that many runs on them share the work: decoded images, features.

What is written is a folder that ``data`` can name (:mod:`tether.data.arrays`): the same samples
under the same ids, in the same order, with the same labels. Splits, limits and noise are made by
the runs, as from the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tether.data.images import open_image, to_mode
from tether.data.load import read_tables
from tether.data.table import DataSource, Table
from tether.errors import ConfigError
from tether.files import replaced_folder, write_json

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

Array = NDArray[Any]
ABOUT = "about.json"
#: Options that say where labels are; the arrays hold what they chose.
_CHOSEN = ("text_column", "image_column", "label_column", "domain_column", "true_label_column")


def cache_images(config: TuneConfig, folder: Path) -> Path:
    """Decode all images once, into one file that is mapped into memory.

    A large photograph that training would decode at a smaller size is kept whole, so a run on the
    cache may differ from one on the files in the last digits of its pixels; runs on the same
    cache are equal to each other.

    Args:
        config: ``data`` and the options of the group Data are read.
        folder: where to; as it is if it is there already.

    Returns:
        the folder.

    Raises:
        ConfigError: the data are no images, or cannot be read.
    """
    if is_cache(folder):
        return folder
    source, keys = read_tables(config)
    if source.kind != "image":
        raise ConfigError(f"data {source.name}: only images are decoded, these are {source.kind}s")

    def arrays(split: str, table: Table, fresh: Path) -> None:
        images = [np.asarray(to_mode(open_image(each), 3)) for each in table.inputs]
        shapes = np.array([image.shape for image in images], dtype=np.int64).reshape(-1, 3)
        size = int(shapes.prod(axis=1).sum())
        pixels = np.lib.format.open_memmap(fresh / f"{split}_pixels.npy", "w+", np.uint8, (size,))
        at = 0
        for image in images:
            pixels[at : at + image.size] = image.ravel()
            at += image.size
        pixels.flush()
        np.save(fresh / f"{split}_shapes.npy", shapes)
        hashes = b"".join(keys[name] for name in table.ids)
        np.save(
            fresh / f"{split}_keys.npy", np.frombuffer(hashes, np.uint8).reshape(len(table), 16)
        )

    return write_cache(source, folder, arrays, {"of": "decoded images"})


def write_cache(
    source: DataSource, folder: Path, arrays: Callable[[str, Table, Path], None],
    about: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Write the folder: inputs by a function, and labels, ids and names of classes.

    Args:
        source: what is kept, not split or changed yet.
        folder: where to; it is whole or absent.
        arrays: writes the inputs of a split: (split, table, folder).
        about: what else :data:`ABOUT` says.

    Raises:
        ConfigError: samples have domains, which arrays do not keep.
    """
    if source.domain_names:
        raise ConfigError(f"data {source.name}: samples with domains are not kept as arrays")
    with replaced_folder(folder) as fresh:
        for split, table in source.tables.items():
            arrays(split, table, fresh)
            np.save(fresh / f"{split}_ids.npy", np.array(list(table.ids), dtype=np.str_))
            if table.labels is not None:
                np.save(fresh / f"{split}_labels.npy", _labels(source, table.labels))
            if table.true_labels is not None:
                np.save(fresh / f"{split}_true.npy", table.true_labels)
        names = "target_names" if source.task == "regression" else "class_names"
        np.save(fresh / f"{names}.npy", np.array(source.class_names, dtype=np.str_))
        known = source.tables["train"].true_labels is not None
        write_json(
            fresh / ABOUT, {**about, "task": source.task, "data": source.name, "true_labels": known}
        )
    return folder


def is_cache(folder: Path) -> bool:
    """Whether a cache was written there, to its end."""
    return (folder / ABOUT).is_file()


def cached(config: TuneConfig, folder: Path, task: str, *, true: bool) -> TuneConfig:
    """The options of a run that reads its data from a cache.

    Args:
        config: the options as they were.
        folder: the cache.
        task: what the labels are.
        true: whether labels known to be right are there.
    """
    cleared: dict[str, Any] = dict.fromkeys(_CHOSEN, "")
    if true:
        cleared["true_label_column"] = "true"
    return replace(config, data=str(folder), task=task, **cleared)


def _labels(source: DataSource, labels: Array) -> Array:
    if source.task == "multi_label":
        return labels.astype(np.uint8)
    if source.task == "regression" and labels.ndim == 1:
        return labels[:, None]
    return labels
