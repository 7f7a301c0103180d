"""A second network in one attach: made from the model, trained beside it, fed parts of a batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.engine.context import Context

#: What of the second network is drawn anew.
STARTS = ("head", "all", "copy")


def check_start(start: str) -> str:
    """The option of a method, or a ``ValueError``."""
    if start not in STARTS:
        raise ValueError(f"second must be one of {', '.join(STARTS)}, got {start!r}")
    return start


def second_network(ctx: Context, start: str, name: str = "second") -> nn.Module:
    """A copy of the model that differs from it, and is trained by an optimiser like the main one.

    Its learning rates follow those of the main optimiser, group by group.

    Args:
        ctx: of the method, in ``setup``.
        start: ``"head"`` draws its head anew, ``"all"`` every layer that can be (training from
            random weights), ``"copy"`` nothing.
        name: of the module, unique within the method.

    Raises:
        TetherError: the parameters are sharded, or the head cannot be drawn anew.
    """
    if any(hasattr(p, "full_tensor") for p in ctx.model.parameters()):
        raise TetherError(
            f"method {ctx.name!r} trains a second network, which every process holds whole: it "
            "does not go with fully_shard; use DDP"
        )
    twin = copy.deepcopy(ctx.model)
    if start == "head":
        head = ctx.head_module
        path = next(path for path, module in ctx.model.named_modules() if module is head)
        reset = [twin.get_submodule(path)]
    else:
        reset = list(twin.modules()) if start == "all" else []
    able = [module for module in reset if callable(getattr(module, "reset_parameters", None))]
    if reset and not able:
        raise TetherError(
            f"method {ctx.name!r}: the head ({type(reset[0]).__name__}) cannot be drawn anew for "
            "the second network: name a linear layer with attach(..., head=...), or second='copy'"
        )
    for module in able:
        module.reset_parameters()  # type: ignore[operator]
    return ctx.add_module(name, twin)


def wide_logits(logits: Tensor) -> Tensor:
    """In float32 or wider, for losses and comparisons."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def rows_of_call(
    args: Sequence[Any], kwargs: Mapping[str, Any], rows: slice, count: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call for some of its rows: every tensor of ``count`` rows is cut.

    Example:
        >>> rows_of_call([torch.arange(4)], {"scale": 2.0}, slice(0, 2), 4)
        ((tensor([0, 1]),), {'scale': 2.0})
    """

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[rows] if value.ndim and value.shape[0] == count else value
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(cut(part) for part in value)
        if isinstance(value, dict):
            return {key: cut(part) for key, part in value.items()}
        return value

    return tuple(cut(value) for value in args), {key: cut(v) for key, v in kwargs.items()}
