import random
import time
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tether.data.collate import Collator
from tether.data.keyed import (
    DomainBalancedSampler,
    Keyed,
    KeyedDataset,
    KeyedSampler,
    _kept_permutation,
    endless_rows,
    key_of,
    keyed_permutation,
)
from tether.data.table import Table
from tether.data.transforms import image_encoder
from tether.errors import ConfigError, TetherError
from tether.models.spec import ImagePreprocess

from .makers import image


def noisy(row):
    """Draws from every global generator."""
    drawn = [torch.rand(2), torch.tensor([random.random(), np.random.rand(), np.random.randn()])]
    return {"x": torch.cat([torch.as_tensor(row, dtype=torch.float32).reshape(1), *drawn])}


def rows(count, domains=None):
    return Table(
        list(range(count)), np.arange(count) % 3, [f"r{i}" for i in range(count)], domains=domains
    )


def epoch_of(data, workers, order=None, **options):
    loader = DataLoader(
        data, 4, sampler=order, num_workers=workers, collate_fn=Collator(), **options
    )
    found = {}
    for batch in loader:
        views = batch["views"].unbind(1) if "views" in batch else [None] * len(batch["x"])
        for x, view in zip(batch["x"], views, strict=True):
            found[int(x[0])] = (x, view)
    return found


def same(first, second):
    assert first.keys() == second.keys()
    return all(
        torch.equal(a, b) and (v is None or torch.equal(v, w))
        for (a, v), (b, w) in ((first[k], second[k]) for k in first)
    )


def test_items_depend_on_seed_epoch_row_and_view_alone():
    make = lambda seed=1, train=True: KeyedDataset(rows(12), noisy, seed=seed, train=train, views=3)  # noqa: E731
    data = make()
    torch.manual_seed(1)
    first = epoch_of(data, 0)
    torch.manual_seed(2)
    assert same(first, epoch_of(data, 0, order=list(range(11, -1, -1))))
    assert same(first, epoch_of(make(), 2, order=KeyedSampler(12, 5)))
    data.set_epoch(1)
    assert not same(first, epoch_of(data, 0))
    assert not same(first, epoch_of(make(seed=2), 0))
    x, views = first[3]
    assert len({tuple(v.tolist()) for v in (x, *views)}) == 3
    assert len({tuple(x[1:].tolist()) for x, _ in first.values()}) == 12
    still = make(train=False)
    before = epoch_of(still, 0)
    still.set_epoch(7)
    assert same(before, epoch_of(still, 0))


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_living_workers_learn_of_the_epoch(how, tmp_path):
    files = [image(tmp_path / f"{i}.png", i) for i in range(6)]
    encode = image_encoder(
        ImagePreprocess((8, 8)), train=True, augment="default", input_name="x"
    )  # picklable, as spawned workers need it
    table = Table(files, np.arange(6), [f.name for f in files])
    data = KeyedDataset(table, encode, seed=0, train=True)
    workers = {"num_workers": 2 if how == "fork" else 1, "multiprocessing_context": how}
    loader = DataLoader(data, 3, persistent_workers=True, collate_fn=Collator(), **workers)
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        got = torch.cat([batch["x"] for batch in loader])
        assert torch.equal(got, torch.stack([data[i]["x"] for i in range(6)]))
    del loader


def test_global_generators_go_on_as_before():
    def draw():
        return torch.rand(3).tolist(), [random.gauss(0, 1) for _ in range(3)], np.random.rand(3)

    def start():
        torch.manual_seed(3), random.seed(3), np.random.seed(3)
        draw()

    data = KeyedDataset(rows(5), noisy, seed=0, train=True)
    start()
    expected = draw()
    start()
    item = data[2]
    got = draw()
    assert expected[:2] == got[:2] and (expected[2] == got[2]).all()
    np.random.seed(9)
    assert torch.equal(data[2]["x"], item["x"])
    start()
    with pytest.raises(ZeroDivisionError), Keyed(1, 2):  # noqa: PT012
        draw()
        1 / 0  # noqa: B018
    assert torch.rand(3).tolist() == expected[0]


def test_the_key_costs_little():
    def enter():
        with Keyed(0, 1, 2, 3):
            pass

    enter()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(50):
            enter()
        times.append((time.perf_counter() - start) / 50)
    assert min(times) < 2e-4


def test_keys_are_pinned_and_distinct():
    assert key_of(0, 1, 2) == PINNED
    assert len({key_of(a, b) for a in range(50) for b in range(50)}) == 2500
    assert key_of(2**70) == key_of(2**70)  # any whole number is a seed


PINNED = 8901564848246840783


def test_labels_and_domains():
    table = rows(6, domains=np.arange(6) % 2)
    item = KeyedDataset(table, noisy, seed=0, train=True, domains=True)[np.int64(5)]
    assert item["labels"].dtype == torch.int64 and int(item["labels"]) == 2
    assert int(item["domains"]) == 1 and "views" not in item
    assert "domains" not in KeyedDataset(table, noisy, seed=0, train=True)[0]
    bare = Table(table.inputs, None, table.ids)
    assert "labels" not in KeyedDataset(bare, noisy, seed=0, train=False)[0]
    with pytest.raises(ConfigError, match="--domain-column"):
        KeyedDataset(bare, noisy, seed=0, train=True, domains=True)


def test_a_file_that_vanished_is_named(tmp_path):
    file = image(tmp_path / "x.png")
    encode = image_encoder(ImagePreprocess((8, 8)), train=False, augment="none", input_name="x")
    data = KeyedDataset(Table([file], np.array([0]), ["a/x.png"]), encode, seed=0, train=True)
    data[0]
    file.unlink()
    with pytest.raises(TetherError, match=r"sample 'a/x.png' cannot be read any more"):
        data[0]


# -- samplers --------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(0, 9), st.integers(0, 9))
def test_keyed_order(count, seed, epoch):
    sampler, again = KeyedSampler(count, seed), KeyedSampler(count, seed)
    sampler.set_epoch(epoch), again.set_epoch(epoch)
    torch.manual_seed(seed)
    order = list(sampler)
    torch.manual_seed(seed + 1)
    assert order == list(again) == list(sampler) and sorted(order) == list(range(count))
    assert len(sampler) == count


def test_orders_differ_from_epoch_to_epoch():
    sampler = KeyedSampler(50, 0)
    orders = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        orders.append(tuple(sampler))
    assert len(set(orders)) == 4


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=2, max_size=4), st.integers(1, 4), st.integers(0, 5))
def test_every_batch_holds_equally_many_of_each_domain(sizes, each, epoch):
    domains = np.repeat(np.arange(len(sizes)) * 2, sizes)  # indices need not be dense
    batch = each * len(sizes)
    sampler = DomainBalancedSampler(domains, batch, seed=1)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(order) == len(sampler) == -(-len(domains) // batch) * batch
    for start in range(0, len(order), batch):
        counts = np.bincount(domains[order[start : start + batch]])
        assert (counts[::2] == each).all()
    assert order == list(sampler)


def test_every_row_is_seen_over_the_epochs():
    domains = np.array([0] * 30 + [1] * 3)
    sampler = DomainBalancedSampler(domains, 4, seed=0)
    counts = np.zeros(33, dtype=int)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        counts += np.bincount(list(sampler), minlength=33)
    assert np.ptp(counts[:30]) <= 1 and np.ptp(counts[30:]) <= 1  # none is preferred


def test_domains_that_cannot_be_balanced():
    with pytest.raises(ConfigError, match=r"32 samples.*3 domains; take 33"):
        DomainBalancedSampler([0, 1, 2], 32, 0)
    with pytest.raises(ConfigError, match="at least two domains"):
        DomainBalancedSampler([1, 1], 4, 0)


def test_an_endless_series_draws_each_order_once():
    _kept_permutation.cache_clear()
    steps = [endless_rows(10, start, 4, 7, 1) for start in range(0, 40, 4)]
    assert _kept_permutation.cache_info().misses == 4
    whole = [keyed_permutation(10, 7, 1, turn).tolist() for turn in range(4)]
    assert [*chain(*steps)] == [*chain(*whole)]
    again = [endless_rows(10, start, 4, 7, 1) for start in range(0, 40, 4)]
    assert again == steps and _kept_permutation.cache_info().misses == 4
