"""Slices of parameters that form groups: their norms over a model, and their scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.methods.weights.many import local_part, rows_are_whole
from tether.methods.weights.projections import wide_dtype

if TYPE_CHECKING:
    from tether.engine.context import Context
    from tether.engine.layers import WeightRef


@dataclass(frozen=True, eq=False)
class Member:
    """A parameter whose slices along ``dim`` belong to groups.

    Attributes:
        name: of the parameter.
        param: the parameter.
        dim: 0 or 1.
        index: group of every slice, ``[size of dim]``.
        groups: the groups that occur, each once, ``[g]``.
        table: slices of each of them, padded with the number of slices, ``[g, most]``.
    """

    name: str
    param: nn.Parameter
    dim: int
    index: Tensor
    groups: Tensor
    table: Tensor


def member(ref: WeightRef, dim: int, index: Tensor) -> Member:
    """A member of the group map; every slice must have its group.

    Raises:
        TetherError: the groups do not cover the tensor, or its rows are split between ranks.
    """
    size = ref.param.shape[dim]
    if index.ndim != 1 or len(index) != size:
        raise TetherError(
            f"the groups of {ref.name!r} cover {index.numel()} of its {size} slices along "
            f"dimension {dim}: give one whole number a slice"
        )
    if not rows_are_whole(ref.param):
        raise TetherError(f"the rows of {ref.name!r} are split between ranks: shard dimension 0")
    found, counts = index.unique(return_counts=True)  # type: ignore[no-untyped-call]
    table = torch.full((len(found), int(counts.max())), size)
    rows = torch.arange(len(found)).repeat_interleave(counts)
    places = torch.arange(size) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    table[rows, places] = index.argsort(stable=True)
    device = ref.param.device
    return Member(ref.name, ref.param, dim, index.to(device), found.to(device), table.to(device))


def group_squares(ctx: Context, members: Sequence[Member], count: int) -> Tensor:
    """Squared norm of every group, ``[count]`` float64, in an order that is the same each time."""
    split = torch.zeros(count, dtype=torch.float64, device=ctx.device)
    own, shard = torch.zeros_like(split), None
    for item in members:
        (mine,) = ctx.local([item.param.detach()])
        sharded, wide = bool(getattr(item.param, "placements", ())), wide_dtype(mine)
        axes = [axis for axis in range(mine.ndim) if axis != item.dim]
        sums = mine.to(wide).square()
        if axes:
            sums = torch.linalg.vector_norm(mine, dim=axes, dtype=wide).square()
        if sharded and item.dim == 0:  # rows of other ranks are zero here
            places = local_part(torch.arange(len(item.index), device=mine.device), item.param)
            sums = torch.zeros(len(item.index), dtype=wide, device=mine.device).index_copy(
                0, places, sums
            )
        padded = torch.cat([sums.double(), sums.new_zeros(1, dtype=torch.float64)])
        (split if sharded else own).index_add_(0, item.groups, padded[item.table].sum(1))
        shard = item.param if sharded else shard
    return own if shard is None else own + ctx.sum_over_shards(split, shard)


def scale_groups_(ctx: Context, members: Sequence[Member], scales: Tensor) -> None:
    """Multiply every slice by the factor of its group, in place."""
    for item in members:
        (mine,) = ctx.local([item.param])
        index = local_part(item.index, item.param) if item.dim == 0 else item.index
        factors = scales[index].to(mine.dtype)
        mine.mul_(factors.view([-1 if axis == item.dim else 1 for axis in range(mine.ndim)]))
