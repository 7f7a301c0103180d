"""Which samples go where: validation data, few shots, fewer samples; stratified and seeded.

Samples are dealt by a hash of the seed and their name. What is drawn therefore depends on no
library's generator, more shots contain the fewer, and most samples stay where they are when some
are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from tether.data.table import Table
from tether.errors import ConfigError

Ints = NDArray[np.int64]
_BINS = 10  # of a regression's targets


def keyed_order(ids: Sequence[str], seed: int, purpose: str) -> list[int]:
    """The rows in an order that follows from seed, purpose and ids alone."""
    start = blake2b(f"{seed}\x1f{purpose}\x1f".encode(), digest_size=16)

    def key(row: int) -> bytes:
        mine = start.copy()
        mine.update(ids[row].encode("utf-8", "surrogatepass"))
        return mine.digest()

    return sorted(range(len(ids)), key=key)


def strata(table: Table, task: str) -> Ints:
    """A group for each sample: its class, the range of its number, or one for all."""
    labels = table.labels
    assert labels is not None
    if task == "single_label":
        return np.asarray(labels, dtype=np.int64)
    if task == "regression" and labels.ndim == 1:
        bins = max(1, min(_BINS, len(labels) // _BINS))
        ranks = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
        return (ranks * bins // len(labels)).astype(np.int64)
    return np.zeros(len(table), dtype=np.int64)


def apportion(quotas: NDArray[np.float64], least: Ints, most: Ints, total: int) -> Ints:
    """Whole numbers near the quotas, between ``least`` and ``most``, with a total if they can."""
    counts = np.clip(np.floor(quotas + 1e-9).astype(np.int64), least, most)
    while (missing := total - int(counts.sum())) != 0:
        over = (counts - quotas) * np.sign(missing)
        free = counts < most if missing > 0 else counts > least
        if not free.any():
            break
        counts[np.argmin(np.where(free, over.round(9), np.inf))] += np.sign(missing)
    return counts


def draw(groups: Ints, counts: Ints, order: Sequence[int]) -> list[int]:
    """The first ``counts[g]`` rows of each group in an order; ascending."""
    left = counts.copy()
    taken = []
    for row in order:
        if left[groups[row]] > 0:
            left[groups[row]] -= 1
            taken.append(row)
    return sorted(taken)


def split_validation(table: Table, task: str, share: float, seed: int) -> tuple[Table, Table]:
    """Training and validation part of a table.

    From a class of n samples ``share * n`` go to validation, rounded up or down, and never the
    last one. Numbers are dealt by ranges of their value, several labels a sample at random.

    Raises:
        ConfigError: too few samples for that.
    """
    groups = strata(table, task)
    sizes = np.bincount(groups)
    shared = sizes * (sizes > 1)
    quotas = np.asarray(share * shared, dtype=np.float64)
    most = np.minimum(np.ceil(quotas - 1e-9), np.maximum(sizes - 1, 0)).astype(np.int64)
    total = max(1, round(float(quotas.sum())))
    counts = apportion(quotas, np.zeros_like(sizes), most, total)
    if not counts.sum():
        raise ConfigError(
            "there are too few training samples to set some aside for validation: add a "
            "validation split, or more than one sample of a class"
        )
    taken = draw(groups, counts, keyed_order(table.ids, seed, "validation"))
    inside = np.zeros(len(table), dtype=bool)
    inside[taken] = True
    return table.take(np.flatnonzero(~inside)), table.take(taken)


def take_shots(table: Table, task: str, shots: int, seed: int) -> Table:
    """``shots`` samples of each class, all where a class has fewer.

    Raises:
        ConfigError: the samples have no single class.
    """
    if task != "single_label":
        raise ConfigError(f"option shots: {task} data have no classes to count; use --limit-train")
    groups = strata(table, task)
    counts = np.full(int(groups.max()) + 1, shots)
    return table.take(draw(groups, counts, keyed_order(table.ids, seed, "shots")))


def limit(table: Table, task: str, number: int, seed: int) -> Table:
    """``number`` of the samples, in the proportions of the classes, one of each where it can."""
    if number >= len(table):
        return table
    groups = strata(table, task)
    sizes = np.bincount(groups)
    present = (sizes > 0).astype(np.int64)
    least = present if number >= int(present.sum()) else np.zeros_like(sizes)
    quotas = np.asarray(number * sizes / len(table), dtype=np.float64)
    counts = apportion(quotas, least, sizes, number)
    return table.take(draw(groups, counts, keyed_order(table.ids, seed, "limit")))
