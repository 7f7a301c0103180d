"""A data set seen with other labels."""

from __future__ import annotations

import copy
import operator
from collections.abc import MutableMapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tether.noise.base import NoisyLabels, as_cpu_tensor

_KEYS = ("labels", "label")


class MapStyle(Protocol):
    """What a map-style data set offers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class NoisyDataset(Dataset[Any]):
    """Shows a map-style data set with corrupted labels, and leaves the data set as it is.

    Replaces the label of ``(x, y, ...)`` samples and of dict samples (key ``"labels"`` or
    ``"label"``); everything else passes through. Row i of the data set gets label i, so take a
    subset or split of this object, or corrupt the labels of the subset: never wrap a subset with
    the labels of the whole. The label found in each sample is compared with the true one, which
    catches a data set in another order.

    Args:
        dataset: a map-style data set.
        noisy: its labels, from any generator of this package.
        check: compare each sample's own label with ``noisy.true``. Switch it off for data whose
            stored labels are not the true ones.

    Shape:
        The label has the type it had: int, NumPy number, tensor (shape kept), or list.

    Cost:
        O(1) a sample; nothing is copied.

    Raises:
        ValueError: the numbers of samples and labels differ; when a sample is read: it is neither
            a pair nor a dict with a label, or its label is not the true one on record.

    Example:
        >>> from tether.noise import pair_noise
        >>> data = [("a", 0), ("b", 1), ("c", 2)]
        >>> noisy = NoisyDataset(data, pair_noise([0, 1, 2], 1.0))
        >>> [noisy[i] for i in range(3)]
        [('a', 1), ('b', 2), ('c', 0)]
    """

    def __init__(self, dataset: MapStyle, noisy: NoisyLabels, *, check: bool = True) -> None:
        if len(dataset) != len(noisy):
            raise ValueError(
                f"the data set has {len(dataset)} samples, but there are {len(noisy)} labels: wrap "
                "the whole data set and take the subset of the result, or corrupt the subset's"
            )
        self.dataset = dataset
        self.noisy = noisy
        self.check = check

    def __len__(self) -> int:
        return len(self.noisy)

    @property
    def targets(self) -> list[Any]:
        """The given labels, in order, for samplers and splitters."""
        targets: list[Any] = self.noisy.labels.tolist()
        return targets

    def __getitem__(self, index: int) -> Any:
        row = operator.index(index)
        return self._replace(self.dataset[row], row)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several samples at once: loaders and ``Subset`` ask for this where it exists."""
        rows = [operator.index(i) for i in indices]
        fetch = getattr(self.dataset, "__getitems__", None)
        items = fetch(rows) if callable(fetch) else [self.dataset[i] for i in rows]
        return [self._replace(item, row) for item, row in zip(items, rows, strict=True)]

    def _replace(self, item: Any, row: int) -> Any:
        if isinstance(item, MutableMapping):
            key = next((k for k in _KEYS if k in item), None)
            if key is None:
                raise ValueError(f"sample {row} has no {' or '.join(_KEYS)}: {list(item)}")
            changed = copy.copy(item)
            changed[key] = self._label(item[key], row)
            return changed
        if isinstance(item, (tuple, list)) and len(item) >= 2:
            parts = [item[0], self._label(item[1], row), *item[2:]]
            if hasattr(item, "_fields"):
                return type(item)(*parts)
            return type(item)(parts)
        raise ValueError(
            f"sample {row} is a {type(item).__name__}: expected (x, y) or a dict with a label"
        )

    def _label(self, old: Any, row: int) -> Any:
        """The given label in the type of the old one."""
        new, true = self.noisy.labels[row], self.noisy.true[row]
        if self.check and not _same(as_cpu_tensor(old, "label"), true):
            raise ValueError(
                f"sample {row} is labelled {old}, but its true label on record is {true.tolist()}: "
                "the data set is in another order, or already corrupted (check=False allows it)"
            )
        if isinstance(old, Tensor):
            return new.to(device=old.device, dtype=old.dtype).reshape(old.shape)
        if isinstance(old, (np.ndarray, np.generic)):
            return np.asarray(new.numpy(), dtype=old.dtype).reshape(old.shape)[()]
        return new.tolist()


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal values, whatever the dtype and the number of dimensions."""
    return torch.equal(a.flatten().double(), b.flatten().double())
