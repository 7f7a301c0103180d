"""What the measures return: frozen records of plain numbers and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor


class Record:
    """A result that can be written as JSON."""

    def as_json(self) -> dict[str, Any]:
        """Its fields by name: numbers, texts, lists and dicts only; arrays become lists.

        Numbers that are not finite stay; :func:`tether.files.write_json` writes them as null.
        """
        plain: dict[str, Any] = as_plain(self)
        return plain


def as_plain(value: Any) -> Any:
    """Records, mappings, sequences, arrays and tensors as dicts, lists and Python numbers.

    Args:
        value: any mixture of them; anything else is returned as it is.

    Example:
        >>> as_plain({"a": np.arange(2), "b": (np.float64(0.5), None)})
        {'a': [0, 1], 'b': [0.5, None]}
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(part) for part in value]
    if isinstance(value, Tensor):
        return value.detach().cpu().tolist()
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return value
