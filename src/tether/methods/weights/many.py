"""The projections over all weights of a model at once: in place, sharded, without a host sync."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tether.methods.weights.projections import (
    length,
    per_row,
    project_mars,
    pull_back,
    row_sums,
    wide_dtype,
)

#: Elements of the differences held at once: on the CPU what stays in the cache (three times as
#: fast as one long list), elsewhere what bounds the memory.
_BUCKET_CPU, _BUCKET = 1 << 20, 1 << 26


def local_part(full: Tensor, param: Any) -> Tensor:
    """The rows of a whole tensor that lie beside this rank's shard of ``param``.

    An ordinary parameter gets the whole tensor. Shards are contiguous chunks of rows.
    """
    start, rows = 0, len(full)
    for dim, placement in enumerate(getattr(param, "placements", ())):
        if placement.is_shard():
            chunk = -(-rows // param.device_mesh.size(dim))
            skipped = min(chunk * param.device_mesh.get_local_rank(dim), rows)
            start, rows = start + skipped, min(chunk, rows - skipped)
    return full.narrow(0, start, rows)


def rows_are_whole(param: Any) -> bool:
    """Whether no row of the parameter is split between ranks."""
    return all(p.dim == 0 for p in getattr(param, "placements", ()) if p.is_shard())


def distances(
    tensors: Sequence[Tensor],
    centers: Sequence[Tensor | None],
    *,
    norm: str = "fro",
    total: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:
    """Distances to the centres (None: zero): a scalar a tensor, for ``"mars"`` one a row.

    Args:
        tensors: weights, or the local shards of weights that are split along their rows.
        centers: what they are measured from, shard for shard.
        norm: ``"fro"`` or ``"mars"``.
        total: sums a vector of partial values over the shards; None where nothing is split.
    """
    if norm == "mars":  # rows stay whole on a rank, so that nothing is summed
        moved = differences(list(tensors), list(centers))
        return [row_sums(gap) for gap in moved]
    lengths: list[Tensor] = []
    for bucket in buckets(tensors):
        moved = differences([tensors[i] for i in bucket], [centers[i] for i in bucket])
        if moved[0].device.type == "cpu":
            lengths += [length(gap) for gap in moved]
        else:
            lengths += torch._foreach_norm(moved, 2, wide_dtype(moved[0]))
    if total is not None:
        return list(total(torch.stack(lengths).square()).sqrt().unbind())
    return lengths


def project_(
    tensors: Sequence[Tensor],
    centers: Sequence[Tensor | None],
    radii: Sequence[Tensor],
    *,
    norm: str = "fro",
    method: str = "radial",
    total: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Project many tensors in place; the formulas of :func:`project_ball` without a host sync.

    ``radii`` holds one tensor a weight (0-dim, or ``[rows]`` for ``"mars"``), on its device. On
    the CPU, where reading a number stops nothing, weights inside their ball are not written.
    """
    found = distances(tensors, centers, norm=norm, total=total)
    if norm == "fro":
        pulls = list(pull_back(torch.stack(found), torch.stack(list(radii))).unbind())
    else:
        pulls = [pull_back(rows, radius) for rows, radius in zip(found, radii, strict=True)]
    for tensor, center, pull, radius in zip(tensors, centers, pulls, radii, strict=True):
        if pull.device.type == "cpu" and not pull.numpy().any():
            continue
        if norm == "mars" and method == "euclidean":
            middle = torch.zeros_like(tensor) if center is None else center.to(tensor.device)
            tensor.copy_(project_mars(tensor, middle, radius, method))
            continue
        share = (per_row(pull, tensor) if norm == "mars" else pull).to(tensor.dtype)
        if center is None:
            tensor.mul_(1.0 - share)
        else:
            tensor.lerp_(center.to(tensor.device), share)


def differences(tensors: list[Tensor], centers: list[Tensor | None]) -> list[Tensor]:
    """``W - W0`` of many tensors; where the centre is None (zero), the tensor itself.

    A centre kept on another device (``reference_device``) is brought over for the moment.
    """
    moved = list(tensors)
    known = [i for i, center in enumerate(centers) if center is not None]
    if known:
        starts = [
            center.to(tensor.device)
            for tensor, center in zip(tensors, centers, strict=True)
            if center is not None
        ]
        gaps = torch._foreach_sub([tensors[i] for i in known], starts)
        for i, gap in zip(known, gaps, strict=True):
            moved[i] = gap
    return moved


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Positions of the tensors in runs of bounded size, one tensor at least."""
    bucket: list[int] = []
    held = 0
    for i, tensor in enumerate(tensors):
        limit = _BUCKET_CPU if tensor.device.type == "cpu" else _BUCKET
        if bucket and held + tensor.numel() > limit:
            yield bucket
            bucket, held = [], 0
        bucket.append(i)
        held += tensor.numel()
    if bucket:
        yield bucket
