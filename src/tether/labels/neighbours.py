"""Nearest samples by the direction of their features, and what they vote for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Neighbours are sought among at most this many samples, drawn by seed.
MOST_ANCHORS = 50_000
_NUMBERS = 2**24  # of the similarities held at a time


@dataclass(frozen=True)
class Neighbours:
    """The nearest other samples of each sample.

    Attributes:
        rows: int64 ``[n, k]``, nearest first.
        similarity: cosines float32 ``[n, k]``.
    """

    rows: NDArray[np.int64]
    similarity: NDArray[np.float32]


def unit_rows(features: NDArray[np.floating]) -> Tensor:
    """Centred features as float32 unit vectors; a row at the centre stays zero."""
    rows = torch.as_tensor(np.asarray(features, dtype=np.float32))
    rows = rows - rows.mean(0)
    units: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return units


def nearest(
    units: Tensor, count: int, *, among: Tensor | None = None, seed: int = 0,
    most: int = MOST_ANCHORS,
) -> Neighbours:  # fmt: skip
    """The ``count`` samples of the largest cosine, without the sample itself.

    Args:
        units: unit vectors ``[n, d]``; see :func:`unit_rows`.
        count: how many; fewer where there are not as many samples.
        among: unit vectors ``[m, d]`` to look among, of other samples; None: among themselves.
        seed: which samples are looked among where there are more than ``most``.
        most: samples to look among, at most.

    Cost:
        O(n min(n, most) d).

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]])
        >>> nearest(x, 1).rows.tolist()
        [[1], [0], [1]]
    """
    own = among is None
    pool = units if among is None else among
    anchors = np.arange(len(pool))
    if len(pool) > most:
        anchors = np.sort(np.random.default_rng(seed).permutation(len(pool))[:most])
    place = torch.as_tensor(anchors)
    pool = pool[place]
    count = min(count, len(pool) - own)
    step = max(1, _NUMBERS // max(len(pool), 1))
    rows, values = [], []
    for start in range(0, len(units), step):
        cosines = units[start : start + step] @ pool.T
        if own:
            here = torch.arange(start, start + len(cosines))
            at = torch.searchsorted(place, here).clamp(max=len(place) - 1)
            mine = place[at] == here
            cosines[torch.nonzero(mine).squeeze(1), at[mine]] = -2.0
        best = cosines.topk(max(count, 0), dim=1)
        rows.append(place[best.indices].numpy())
        values.append(best.values.numpy())
    return Neighbours(
        np.concatenate(rows).astype(np.int64), np.concatenate(values).astype(np.float32)
    )


def votes(
    found: Neighbours, labels: NDArray[np.integer], classes: int, *, temperature: float = 0.1
) -> NDArray[np.float64]:
    """Shares of the neighbours' labels ``[n, K]``, nearer ones counting more.

    A neighbour of cosine c counts ``exp((c - c_1) / temperature)``, c_1 that of the nearest; half
    a vote is spread over all classes, so that no share is zero.

    Args:
        found: the neighbours.
        labels: class indices ``[n]``, or 0/1 ``[n, K]``.
        classes: K.
        temperature: of the cosines.
    """
    weights = np.exp((found.similarity - found.similarity[:, :1]).astype(np.float64) / temperature)
    if labels.ndim == 2:
        ones = np.einsum("nk,nkc->nc", weights, labels[found.rows].astype(np.float64))
        return np.asarray((ones + 0.25) / (weights.sum(1, keepdims=True) + 0.5))
    counts = np.zeros((len(found.rows), classes))
    for place in range(found.rows.shape[1]):
        np.add.at(counts, (np.arange(len(counts)), labels[found.rows[:, place]]), weights[:, place])
    return np.asarray((counts + 0.5 / classes) / (counts.sum(1, keepdims=True) + 0.5))
