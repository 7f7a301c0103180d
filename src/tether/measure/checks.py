"""What the analyses share: features, scores and labels as float64 and int64, or one clear error.

Reading is done by the checks of the feature measures; here their message becomes an error that a
command prints without a traceback, and what is not a number is refused with its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from tether.errors import ConfigError
from tether.measure.features import _as_features, _as_targets

ArrayLike = Tensor | npt.NDArray[Any]


def matrix(values: ArrayLike, name: str = "features", *, least: int = 1) -> Tensor:
    """Finite float64 rows, detached; ConfigError for anything else.

    Args:
        values: samples x dimensions.
        name: what they are called in a message.
        least: fewest rows that make sense.

    Example:
        >>> matrix(torch.ones(2, 3)).dtype
        torch.float64
    """
    try:
        rows = _as_features(values, name, least).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(str(error)) from None
    finite = torch.isfinite(rows).all(1)
    if not bool(finite.all()):
        bad = torch.nonzero(~finite).flatten()
        raise ConfigError(
            f"{name} hold values that are infinite or not numbers in {len(bad)} of {len(rows)} "
            f"rows (first: row {int(bad[0])}): leave these rows out, or find where they come from"
        )
    return rows


def classes(
    targets: ArrayLike | Sequence[int], like: Tensor, *, num_classes: int | None = None
) -> Tensor:
    """Class indices, one for each row of ``like`` and on its device; ConfigError otherwise.

    Args:
        targets: class indices from 0.
        like: the rows they belong to.
        num_classes: indices must lie below it.

    Example:
        >>> classes([0, 2], torch.ones(2, 3)).tolist()
        [0, 2]
    """
    try:
        index = _as_targets(torch.as_tensor(targets), len(like), like.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(str(error)) from None
    low, high = int(index.min()), int(index.max())
    if low < 0:
        raise ConfigError(f"targets hold {low}: class indices start at 0; leave ignored rows out")
    if num_classes is not None and high >= num_classes:
        raise ConfigError(f"targets hold class {high}, but there are {num_classes} classes")
    return index


def same_length(**parts: Tensor) -> None:
    """ConfigError unless all have the same number of rows.

    Args:
        parts: name and rows of each.
    """
    sizes = {name: len(rows) for name, rows in parts.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} have {size}" for name, size in sizes.items())
        raise ConfigError(f"lengths differ: {told} rows")
