"""Samples that occur more than once, exactly or nearly, inside a split and across splits."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tether.data.table import SPLITS, Table
from tether.files import replaced_file
from tether.labels.neighbours import nearest

#: From this cosine on two samples are the same: what differs is rounding.
EXACT = 1.0 - 1e-5
#: Two samples are nearly the same from this cosine on ...
NEAR = 0.97
#: ... and where they are so many times closer than a sample and its nearest one usually are.
_CLOSER = 10.0
#: Neighbours of a sample that are looked at.
_LOOKED_AT = 10
COLUMNS = ("id", "split", "other", "other_split", "kind", "similarity", "same_label")


@dataclass(frozen=True)
class Duplicate:
    """Two samples that are alike.

    Attributes:
        id: of one sample.
        split: where it is.
        other: id of the other one.
        other_split: where that is; of an earlier split, or the same.
        kind: ``"exact"`` or ``"near"``.
        similarity: cosine of their centred features.
        same_label: whether they have the same label; None where one has none.
    """

    id: str
    split: str
    other: str
    other_split: str
    kind: str
    similarity: float
    same_label: bool | None


def find_duplicates(
    features: Mapping[str, NDArray[Any]], tables: Mapping[str, Table], *,
    near: float | None = None, seed: int = 0,
) -> list[Duplicate]:  # fmt: skip
    """Pairs of samples with about the same features, the most alike first.

    Features are centred on the mean of the training samples. A pair inside a split is told once.

    Args:
        features: split -> ``[n, d]``, by a network in evaluation mode.
        tables: split -> samples; also ``"train"``.
        near: cosine from which two are nearly the same, in (0, 1]; by default 0.97, or more where
            most samples have a neighbour as close as that.
        seed: which samples are looked among where there are more than 50 000.

    Cost:
        O(n min(n, 50 000) d).
    """
    splits = [name for name in SPLITS if name in features and name in tables]
    middle = np.asarray(features["train"], dtype=np.float32).mean(0)
    units = {}
    for name in splits:
        rows = torch.as_tensor(np.asarray(features[name], dtype=np.float32) - middle)
        units[name] = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    if near is None:
        usual = 1.0 - float(np.median(nearest(units["train"], 1, seed=seed).similarity))
        near = max(NEAR, 1.0 - usual / _CLOSER)
    found = []
    for place, split in enumerate(splits):
        for other in splits[: place + 1]:
            same = split == other
            close = nearest(
                units[split], _LOOKED_AT, among=None if same else units[other], seed=seed
            )
            pairs = {
                (max(row, int(match)), min(row, int(match))) if same else (row, int(match)): value
                for row, (rows, values) in enumerate(zip(close.rows, close.similarity, strict=True))
                for match, value in zip(rows, values, strict=True)
                if value >= min(near, EXACT)
            }
            found += [
                _pair(tables, split, row, other, match, float(value))
                for (row, match), value in pairs.items()
            ]
    return sorted(found, key=lambda one: (-one.similarity, one.id, one.other))


def _pair(
    tables: Mapping[str, Table], split: str, row: int, other: str, match: int, value: float
) -> Duplicate:
    mine, theirs = tables[split], tables[other]
    same = None
    if mine.labels is not None and theirs.labels is not None:
        same = bool(np.all(mine.labels[row] == theirs.labels[match]))
    kind = "exact" if value >= EXACT else "near"
    return Duplicate(mine.ids[row], split, theirs.ids[match], other, kind, min(value, 1.0), same)


def of_training(found: Sequence[Duplicate]) -> dict[str, list[str]]:
    """Id of a training sample -> ids of those like it, the most alike first, of any split."""
    others: dict[str, list[str]] = {}
    for one in found:
        for mine, split, other in (
            (one.id, one.split, one.other), (one.other, one.other_split, one.id)
        ):  # fmt: skip
            if split == "train" and other not in others.setdefault(mine, []):
                others[mine].append(other)
    return others


def counts(found: Sequence[Duplicate]) -> dict[str, int]:
    """How many pairs of each kind: exact and near, across splits, with different labels."""
    return {
        "exact": sum(one.kind == "exact" for one in found),
        "near": sum(one.kind == "near" for one in found),
        "across_splits": sum(one.split != one.other_split for one in found),
        "contradicting": sum(one.same_label is False for one in found),
    }


def write_duplicates(path: Path, found: Sequence[Duplicate]) -> None:
    """Write ``duplicates.csv`` whole or not at all."""
    with replaced_file(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(COLUMNS)
        for one in found:
            same = {None: "", True: "yes", False: "no"}[one.same_label]
            out.writerow([one.id, one.split, one.other, one.other_split, one.kind,
                          f"{one.similarity:.5f}", same])  # fmt: skip
