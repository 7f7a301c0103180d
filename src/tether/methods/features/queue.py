"""A ring of rows: recent features, keys and labels, the oldest overwritten.

A method declares the buffers and one counter as its state (``add_state``) and writes with
:func:`enqueue_` inside ``ctx.defer(...)``. Under data parallelism :func:`gathered` brings the rows
of all ranks together first, so that the buffers stay equal. Nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tether.engine.context import Context


@torch.no_grad()
def enqueue_(
    buffers: Sequence[Tensor],
    seen: Tensor,
    rows: Sequence[Tensor],
    *,
    classes: Tensor | None = None,
    keep: Tensor | None = None,
) -> None:
    """Write rows into a ring, or into the rings of their classes, in place.

    Args:
        buffers: one ring ``[Q, ...]`` each, or a ring a class ``[C, Q, ...]``.
        seen: how many rows were ever written, int64: ``[]``, or ``[C]`` for a ring a class; moved
            on. The next row goes to place ``seen % Q``.
        rows: as many tensors as buffers, ``[N, ...]`` each, the oldest first. Of more than Q rows
            the last Q stay.
        classes: class of each row ``[N]``, where each class has a ring of its own.
        keep: bool ``[N]``, False for rows that are left out; None: all are written.

    Example:
        >>> ring, seen = torch.zeros(3), torch.tensor(0)
        >>> enqueue_([ring], seen, [torch.tensor([1.0, 2.0, 3.0, 4.0])])
        >>> ring, seen
        (tensor([4., 2., 3.]), tensor(4))
    """
    count = len(rows[0])
    if count == 0:
        return
    by_class = classes is not None
    size = buffers[0].shape[1 if by_class else 0]
    if classes is None:
        classes = torch.zeros(count, dtype=torch.int64, device=seen.device)
    keep = torch.ones_like(classes, dtype=torch.bool) if keep is None else keep
    counters = seen.reshape(-1)
    inside = keep & (classes >= 0)
    classes = classes.clamp(min=0)
    # how many kept rows of its class stand up to and with a row; those of the whole batch
    same = (classes[:, None] == classes[None, :]) & inside[None, :]
    upto, whole = same.tril().sum(1), same.sum(1)
    stays = inside & (whole - upto < size)
    place = classes * size + (counters[classes] + upto - 1).clamp(min=0) % size

    # a row that is left out repeats the write of the first that stays, so that all have one shape
    first = stays.to(torch.int8).argmax()
    source = torch.where(stays, torch.arange(count, device=seen.device), first)
    place = place[source]
    for buffer, values in zip(buffers, rows, strict=True):
        flat = buffer.view(-1, *buffer.shape[2:]) if by_class else buffer
        kept = stays.any().reshape([1] * values.ndim)
        flat.index_copy_(0, place, torch.where(kept, values[source].to(flat.dtype), flat[place]))
    counters.index_add_(0, classes, inside.to(counters.dtype))


def filled(seen: Tensor, size: int) -> Tensor:
    """Places of a ring that hold a row: bool ``[Q]``, or ``[C, Q]`` for a ring a class.

    Example:
        >>> filled(torch.tensor(2), 4)
        tensor([ True,  True, False, False])
    """
    return torch.arange(size, device=seen.device) < seen.unsqueeze(-1)


def gathered(ctx: Context, rows: Sequence[Tensor]) -> list[Tensor]:
    """The rows of all ranks, those of rank 0 first; each rank brings as many.

    Args:
        ctx: of the method that asks.
        rows: tensors ``[N, ...]``, without a graph.
    """
    if ctx.world_size == 1:
        return list(rows)
    return [ctx.all_gather(tensor.contiguous()).flatten(0, 1) for tensor in rows]
