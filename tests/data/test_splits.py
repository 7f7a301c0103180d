import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.data import load_data
from tether.data.splits import limit, split_validation, take_shots
from tether.data.table import Table
from tether.errors import ConfigError

from .makers import config, notice, texts

labels_of_classes = st.lists(st.integers(0, 6), min_size=4, max_size=120).filter(
    lambda y: max(np.bincount(y)) > 1
)


def as_table(labels, dtype=np.int64):
    labels = np.array(labels, dtype=dtype)
    return Table(list(range(len(labels))), labels, [f"r{i}" for i in range(len(labels))])


@settings(max_examples=100, deadline=None)
@given(labels_of_classes, st.floats(0.05, 0.9), st.integers(0, 5))
def test_validation_is_stratified_and_leaves_every_class(labels, share, seed):
    whole = as_table(labels)
    train, validation = split_validation(whole, "single_label", share, seed)
    assert sorted(train.inputs + validation.inputs) == whole.inputs
    assert train.inputs == sorted(train.inputs) and validation.inputs == sorted(validation.inputs)
    sizes, taken = np.bincount(labels), np.bincount(validation.labels, minlength=max(labels) + 1)
    for n, k in zip(sizes, taken, strict=True):
        assert k <= max(n - 1, 0)
        assert k <= np.ceil(share * n) and (n == 0 or k >= min(np.floor(share * n), n - 1))


def test_splits_follow_from_the_seed_alone():
    whole = as_table([0, 1] * 50)
    once, again, other = (split_validation(whole, "single_label", 0.2, s)[1] for s in (3, 3, 4))
    assert once.ids == again.ids != other.ids
    # a pinned draw: it must not change with versions of libraries
    assert split_validation(as_table([0, 1] * 10), "single_label", 0.2, 0)[1].ids == PINNED


PINNED = ["r1", "r8", "r13", "r18"]


def test_numbers_are_dealt_by_their_range():
    values = np.random.default_rng(0).normal(size=400)
    _, validation = split_validation(as_table(values, np.float32), "regression", 0.25, 0)
    assert len(validation) == 100
    quantiles = np.quantile(values, np.linspace(0, 1, 11)[1:-1])
    counts = np.bincount(np.digitize(validation.labels, quantiles), minlength=10)
    assert counts.min() >= 8 and counts.max() <= 12


def test_samples_added_later_move_few_others():
    small, large = as_table([0, 1] * 100), as_table([0, 1] * 105)
    before, after = (
        set(split_validation(t, "single_label", 0.2, 0)[1].ids) for t in (small, large)
    )
    assert len(before & after) >= 35


def test_single_samples_stay_and_are_reported(tmp_path):
    path = texts(tmp_path / "d.csv", ["a"] * 10 + ["b"] * 10 + ["rare"])
    source = load_data(config(path))
    assert source.tables["train"].labels.tolist().count(2) == 1
    assert 2 not in source.tables["validation"].labels
    assert notice(source, "single_sample_class").examples == ["rare"]
    with pytest.raises(ConfigError, match="too few training samples to set some aside"):
        load_data(config(texts(tmp_path / "e.csv", ["a", "b", "c"])))


@settings(max_examples=60, deadline=None)
@given(labels_of_classes, st.integers(1, 10), st.integers(0, 3))
def test_shots_are_nested(labels, shots, seed):
    whole = as_table(labels)
    few, more = (take_shots(whole, "single_label", n, seed) for n in (shots, shots + 2))
    assert set(few.ids) <= set(more.ids)
    assert (np.bincount(few.labels) == np.minimum(np.bincount(labels), shots)).all()


@settings(max_examples=60, deadline=None)
@given(labels_of_classes, st.integers(1, 140), st.integers(0, 3))
def test_limit_keeps_proportions(labels, number, seed):
    kept = limit(as_table(labels), "single_label", number, seed)
    assert len(kept) == min(number, len(labels))
    present = np.unique(labels)
    if number >= len(present):
        assert set(kept.labels) == set(present)
    if number >= 4 * len(labels) // 5:
        share = number / len(labels)
        counts = np.bincount(kept.labels, minlength=max(labels) + 1)
        assert (np.abs(counts - min(share, 1) * np.bincount(labels)) < 1 + len(present)).all()


def test_options_are_followed_in_order(tmp_path):
    path = texts(tmp_path / "d.csv", list("abcd") * 30)
    options = {"shots": 10, "limit_train": 20, "noise": "symmetric:0.5"}
    source = load_data(config(path, **options))
    train = source.tables["train"]
    assert np.bincount(train.true_labels).tolist() == [5, 5, 5, 5]
    assert (train.labels != train.true_labels).sum() == 10
    assert len(source.tables["validation"]) == 24
    other = load_data(config(path, seed=1, **options))
    assert other.fingerprints != source.fingerprints
    again = load_data(config(path, **options))
    assert again.fingerprints == source.fingerprints
    assert (again.tables["train"].labels == train.labels).all()


def test_shots_beyond_a_class_and_without_classes(tmp_path):
    source = load_data(config(texts(tmp_path / "d.csv", ["a"] * 20 + ["b"] * 5), shots=6))
    assert np.bincount(source.tables["train"].labels).tolist() == [6, 4]
    assert notice(source, "few_samples").examples == ["b"]
    with pytest.raises(ConfigError, match="--limit-train"):
        load_data(config(texts(tmp_path / "e.csv", [0.5, 1.5] * 9), shots=2))


def test_the_first_classes_alone(tmp_path):
    labels = ["a", "b", "c", "d"] * 6
    for split in ("train", "test"):
        texts(tmp_path / f"{split}.csv", labels)
    source = load_data(config(tmp_path, limit_classes=2))
    assert source.class_names == ["a", "b"]
    assert {name: len(table) for name, table in source.tables.items()} == {
        "train": 10, "validation": 2, "test": 12,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="at least 2 classes of single-label data, got 1"):
        load_data(config(tmp_path, limit_classes=1))
