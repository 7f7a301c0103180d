import numpy as np
import pytest
import torch

from tether.data.collate import Collator, PairBatches, UnlabelledBatches
from tether.data.keyed import KeyedDataset
from tether.data.table import Table
from tether.errors import ConfigError


def tokens(text):
    """Lengths of the words, as a tokenizer would give lists; a pair is joined by a 0."""
    parts = [text] if isinstance(text, str) else text
    ids = [i for part in parts for i in [*map(len, part.split()), 0]][:-1]
    return {"input_ids": ids, "attention_mask": [1] * len(ids)}


def pad(encoded):
    longest = max(len(each["input_ids"]) for each in encoded)
    return {
        name: torch.tensor([each[name] + [0] * (longest - len(each[name])) for each in encoded])
        for name in ("input_ids", "attention_mask")
    }


def pixels(row):
    return {"x": torch.rand(3, 4, 4) + row}


def text_table():
    return Table(["a bb", "a", "ccc a bb a"], np.array([0, 1, 1]), ["0", "1", "2"])


def vectors(count=6, labels=None):
    labels = np.arange(count) if labels is None else labels
    return Table([*range(count)], labels, [str(i) for i in range(count)], np.arange(count) % 2)


def test_texts_are_padded_and_views_with_them():
    data = KeyedDataset(text_table(), tokens, seed=0, train=True, views=3)
    batch = Collator(pad)([data[0], data[2]])
    assert batch["input_ids"].tolist() == [[1, 2, 0, 0], [3, 1, 2, 1]]
    assert batch["labels"].tolist() == [0, 1]
    assert {k: tuple(v.shape) for k, v in batch["views"].items()} == {
        "input_ids": (2, 2, 4), "attention_mask": (2, 2, 4),
    }  # fmt: skip
    assert torch.equal(batch["views"]["input_ids"][1], batch["input_ids"])


def test_images_are_stacked_and_views_belong_to_their_rows():
    data = KeyedDataset(vectors(), pixels, seed=0, train=True, views=2, domains=True)
    batch = Collator()([data[i] for i in (1, 4, 5)])
    assert batch["x"].shape == (3, 3, 4, 4) and batch["views"].shape == (1, 3, 3, 4, 4)
    assert batch["domains"].tolist() == [1, 0, 1] and batch["domains"].dtype == torch.int64
    assert batch["views"][0].flatten(1).min(1).values.long().tolist() == [1, 4, 5]
    assert not torch.equal(batch["views"][0], batch["x"])


@pytest.mark.parametrize("shape", [(6,), (6, 2)])
def test_labels_of_every_task(shape):
    labels = np.random.default_rng(0).random(shape, dtype=np.float32)
    data = KeyedDataset(vectors(6, labels), pixels, seed=0, train=False)
    batch = Collator()([data[i] for i in range(6)])
    assert batch["labels"].dtype == torch.float32
    np.testing.assert_array_equal(batch["labels"].numpy(), labels)


def test_unlabelled_batches_follow_from_the_step():
    table = Table([*range(7)], None, [str(i) for i in range(7)])
    batches, again = (UnlabelledBatches(table, pixels, 3, seed=4) for _ in range(2))
    rows = []
    for step in range(7):
        torch.manual_seed(step)
        batch = batches(step)
        assert batch.shape == (3, 3, 4, 4)
        rows += batch.flatten(1).min(1).values.long().tolist()
    assert torch.equal(again(5), batches(5)) and not torch.equal(batches(5), batches(6))
    assert sorted(rows) == sorted([*range(7)] * 3)  # each of them once in every seven
    assert not torch.equal(batches(0), UnlabelledBatches(table, pixels, 3, seed=5)(0))
    texts = UnlabelledBatches(text_table(), tokens, 4, seed=0, pad=pad)(0)
    assert texts["input_ids"].shape == (4, 4)
    large = UnlabelledBatches(table, pixels, 6, seed=4)
    for step in range(4):  # two processes with three samples each are one with six
        both = [place for rank in (0, 1) for place in batches.places(step, rank, 2)]
        assert both == large.places(step, 0, 1)
    with pytest.raises(ConfigError, match="--unlabelled"):
        UnlabelledBatches(Table([], None, []), pixels, 3, 0)


def test_pair_batches_keep_what_belongs_together():
    pairs = [("", "a a", "bb"), ("ccc", "dddd", "e e e")]
    batch = PairBatches(pairs, tokens, 2, seed=0, pad=pad)(0)
    better, worse = batch["chosen"]["input_ids"].tolist(), batch["rejected"]["input_ids"].tolist()
    assert sorted(better) == [[1, 1, 0], [3, 0, 4]]
    first = better.index([1, 1, 0])
    assert worse[first] == [2, 0, 0, 0, 0] and worse[1 - first] == [3, 0, 1, 1, 1]
    with pytest.raises(ConfigError, match="--pairs"):
        PairBatches([], tokens, 2, 0)
