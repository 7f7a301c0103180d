"""Samples that occur twice are found, across splits, too; others are not."""

from __future__ import annotations

import csv

import numpy as np

from tether.data.table import Table
from tether.labels.duplicates import counts, find_duplicates, of_training, write_duplicates


def made(near=0.005):
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(60, 16)), rng.normal(size=(20, 16))
    train[7] = train[3]
    train[40] = train[20] + near * rng.normal(size=16)
    test[5] = train[11]
    tables = {
        name: Table(list(x), np.arange(len(x)) % 4, [f"{name}[{i}]" for i in range(len(x))])
        for name, x in (("train", train), ("test", test))
    }
    return {"train": train, "test": test}, tables


def test_exact_and_near_ones_inside_and_across_splits():
    features, tables = made()
    found = find_duplicates(features, tables)
    kinds = {frozenset((one.id, one.other)): one.kind for one in found}
    assert kinds == {
        frozenset(("train[7]", "train[3]")): "exact",
        frozenset(("train[40]", "train[20]")): "near",
        frozenset(("test[5]", "train[11]")): "exact",
    }
    assert counts(found) == {"exact": 2, "near": 1, "across_splits": 1, "contradicting": 1}
    assert of_training(found)["train[11]"] == ["test[5]"]
    assert of_training(found)["train[3]"] == ["train[7]"]


def test_samples_that_all_lie_close_are_no_duplicates():
    """In few dimensions a sample has a neighbour at a cosine of 0.99 for no reason."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    table = Table(list(x), np.zeros(400, dtype=np.int64), [str(i) for i in range(400)])
    assert len(find_duplicates({"train": x}, {"train": table})) < 20


def test_the_file(tmp_path):
    features, tables = made()
    write_duplicates(tmp_path / "duplicates.csv", find_duplicates(features, tables))
    with open(tmp_path / "duplicates.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and {row["same_label"] for row in rows} == {"yes", "no"}
