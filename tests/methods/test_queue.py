"""The ring of features that methods share."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.methods.features.queue import enqueue_, filled


def write_slowly(ring: list[list[float]], seen: list[int], rows, classes, keep) -> None:
    for value, k, kept in zip(rows, classes, keep, strict=True):
        if kept and k >= 0:
            ring[k][seen[k] % len(ring[k])] = value
            seen[k] += 1


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 5), count=st.integers(1, 3), seed=st.integers(0, 999),
    batches=st.lists(st.integers(0, 9), min_size=1, max_size=4),
)  # fmt: skip
def test_rings_of_classes_agree_with_a_slow_one(size, count, seed, batches):
    draw = torch.Generator().manual_seed(seed)
    buffer, pairs = torch.zeros(count, size), torch.zeros(count, size, 2)
    seen = torch.zeros(count, dtype=torch.int64)
    slow, slow_seen = [[0.0] * size for _ in range(count)], [0] * count
    for n in batches:
        rows = torch.randn(n, generator=draw)
        classes = torch.randint(-1, count, (n,), generator=draw)
        keep = torch.rand(n, generator=draw) < 0.7
        two = rows[:, None] * torch.tensor([1.0, -1.0])
        enqueue_([buffer, pairs], seen, [rows, two], classes=classes, keep=keep)
        write_slowly(slow, slow_seen, rows.tolist(), classes.tolist(), keep.tolist())
    assert buffer.tolist() == slow
    assert pairs.tolist() == [[[v, -v] for v in row] for row in slow]
    assert seen.tolist() == slow_seen
    assert filled(seen, size).sum(1).tolist() == [min(s, size) for s in slow_seen]


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 6), batches=st.lists(st.integers(0, 14), min_size=1, max_size=5))
def test_one_ring_holds_the_newest_rows(size, batches):
    ring, labels = torch.full((size,), -1.0), torch.full((size,), -1)
    seen, at = torch.tensor(0), 0
    for n in batches:
        rows = torch.arange(at, at + n)
        enqueue_([ring, labels], seen, [rows.float(), rows])
        at += n
    assert int(seen) == at
    assert {int(v) for v in ring if v >= 0} == set(range(max(0, at - size), at))
    assert ring.tolist() == labels.tolist()
    assert all(int(v) % size == place for place, v in enumerate(labels) if v >= 0)


def test_k_plus_three_rows_leave_the_newest_in_the_first_three_places():
    ring, seen = torch.zeros(5), torch.tensor(0)
    for row in range(8):
        enqueue_([ring], seen, [torch.tensor([float(row)])])
    assert ring.tolist() == [5.0, 6.0, 7.0, 3.0, 4.0]


def test_nothing_is_written_where_no_row_counts():
    ring, seen = torch.arange(4.0), torch.tensor(2)
    enqueue_([ring], seen, [torch.full((3,), 9.0)], keep=torch.zeros(3, dtype=torch.bool))
    assert ring.tolist() == [0.0, 1.0, 2.0, 3.0] and int(seen) == 2
