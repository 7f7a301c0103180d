"""An ``.npz`` file anew, with some labels changed in their entry or beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tether.data.raw import RawData
from tether.errors import ConfigError
from tether.files import replaced_file

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

SUFFIX = ".npz"


def write_arrays(
    data: Path, raw: RawData, labels: Mapping[str, str], output: Path, column: str,
    config: TuneConfig,
) -> None:  # fmt: skip
    """Write the file whole or not at all.

    Args:
        data: the file; it stays as it is.
        raw: what was read from it.
        labels: id -> new label, of the samples that get one.
        output: the new file.
        column: labels go to the entries ``SPLIT_COLUMN``; "": over the old ones.
        config: ``label_column`` is read.

    Raises:
        ConfigError: the labels are not one text or whole number a sample, or the entry is there.
    """
    if output.suffix.lower() != SUFFIX:
        raise ConfigError(f"output {output}: the data are an {SUFFIX} file; name one")
    with np.load(data, allow_pickle=False) as found:
        arrays = dict(found)
    classes = [str(name) for name in arrays["class_names"]] if "class_names" in arrays else None
    for split, samples in raw.splits.items():
        new = {row: labels[name] for row, name in enumerate(samples.ids) if name in labels}
        if not new and not (column and split == "train"):
            continue
        old = f"{split}_{config.label_column}"
        old = old if config.label_column and old in arrays else f"{split}_labels"
        entry = f"{split}_{column}" if column else old
        if column and entry in arrays:
            raise ConfigError(f"option column: {data} has an entry {entry!r} already")
        arrays[entry] = _changed(arrays[old], new, classes, f"{data}: entry {old!r}")
    with replaced_file(output) as fresh, fresh.open("wb") as file:
        np.savez(file, **arrays)


def _changed(
    values: NDArray[Any], new: Mapping[int, str], classes: Sequence[str] | None, where: str
) -> NDArray[Any]:
    numbers = np.issubdtype(values.dtype, np.integer)
    if values.ndim != 1 or not (numbers or np.issubdtype(values.dtype, np.str_)):
        raise ConfigError(
            f"{where} is {values.dtype} {list(values.shape)}; one text or whole number a sample "
            "can be corrected"
        )
    if not numbers:
        changed = values.astype(object)  # texts of any length
        for row, label in new.items():
            changed[row] = label
        return changed.astype(str)
    changed = values.copy()
    for row, label in new.items():
        changed[row] = int(label) if classes is None else classes.index(label)
    return changed
