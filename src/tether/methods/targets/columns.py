"""Which outputs of a growing head belong to earlier tasks: as options name them, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor

from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.engine.context import Context

#: Classes as an option takes them: their indices, or the number of the first ones.
Classes = Union[int, Sequence[int], None]


def check_classes(option: str, value: Classes) -> None:
    """Refuse what names no classes.

    Raises:
        ValueError: no whole number from 0 on, or a class that is named twice.
    """
    if value is None:
        return
    numbers: Any = [value] if isinstance(value, int) else value
    if isinstance(numbers, str) or not all(type(k) is int and k >= 0 for k in numbers):
        raise ValueError(f"{option} is a number of classes or a list of indices, got {value!r}")
    if not isinstance(value, int) and len(set(value)) < len(value):
        raise ValueError(f"{option} names a class twice: {value!r}")


def indices_of(value: int | Sequence[int]) -> list[int]:
    """Indices of classes, in order.

    Example:
        >>> indices_of(3), indices_of([4, 1])
        ([0, 1, 2], [1, 4])
    """
    return list(range(value)) if isinstance(value, int) else sorted(value)


def columns(ctx: Context, option: str, value: Classes) -> Tensor | None:
    """The classes of an option as an index tensor on the model's device; None for None.

    Raises:
        TetherError: the head has fewer outputs.
    """
    if value is None:
        return None
    found = indices_of(value)
    if found and found[-1] >= ctx.num_classes:
        raise TetherError(
            f"method {ctx.name!r}: {option} names class {found[-1]}, the head has "
            f"{ctx.num_classes} outputs (0 to {ctx.num_classes - 1})"
        )
    return torch.tensor(found, dtype=torch.int64, device=ctx.device)
