"""Released human labels, per-label flips, the data set wrapper, and names on a command line."""

from __future__ import annotations

import pickle
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset, TensorDataset

from tether.noise import (
    NOISE_NAMES,
    NoisyDataset,
    load_cifar_n,
    multilabel_noise,
    pair_noise,
    parse_noise,
    symmetric_noise,
)

CLEAN = np.arange(100) % 10


@pytest.fixture
def released(tmp_path):
    """A file laid out as the released one: a pickled dict of int64 arrays."""
    worst = CLEAN.copy()
    worst[:40] = (worst[:40] + 1) % 10
    path = tmp_path / "CIFAR-10_human.pt"
    torch.save({"clean_label": CLEAN, "worse_label": worst, "aggre_label": CLEAN}, path)
    return path


def test_released_pt_layout_loads_without_running_code(released):
    noisy = load_cifar_n("worst", released, clean_labels=CLEAN)
    assert noisy.rate == 0.4 and torch.equal(noisy.true, torch.as_tensor(CLEAN))
    assert torch.equal(noisy.labels[:2], torch.tensor([1, 2]))
    assert load_cifar_n("aggre", released).rate == 0.0


def test_old_pickles_name_numpy_core_and_still_load(tmp_path):
    """Files written with NumPy 1 spell the module ``numpy.core``."""
    data = pickle.dumps({"clean_label": CLEAN, "worse_label": CLEAN}, protocol=2)
    old = data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    import zipfile

    torch.save({"clean_label": CLEAN, "worse_label": CLEAN}, tmp_path / "new.pt")
    with (
        zipfile.ZipFile(tmp_path / "new.pt") as src,
        zipfile.ZipFile(tmp_path / "old.pt", "w") as dst,
    ):
        for item in src.namelist():
            dst.writestr(item, old if item.endswith("data.pkl") else src.read(item))
    assert b"numpy.core.multiarray" in old
    assert load_cifar_n("worst", tmp_path / "old.pt").rate == 0.0


def test_a_file_with_code_in_it_is_refused(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"clean_label": Bomb()}, tmp_path / "bad.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_cifar_n("worst", tmp_path / "bad.pt")
    np.savez(tmp_path / "bad.npz", clean_label=np.array([Bomb()], dtype=object))
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"):
        load_cifar_n("worst", tmp_path / "bad.npz")
    assert not (tmp_path / "ran").exists()


def test_npz_with_short_names_and_a_fine_and_coarse_file(tmp_path):
    np.savez(tmp_path / "a.npz", train_clean=CLEAN.astype(np.uint8), train_worst=CLEAN[::-1])
    assert load_cifar_n("worst", tmp_path / "a.npz").rate == 1.0
    np.savez(
        tmp_path / "b.npz",
        clean_label=np.arange(100),
        noisy_label=np.arange(100)[::-1].copy(),
        clean_coarse_label=np.arange(100) % 20,
        noisy_coarse_label=np.arange(100) % 20,
    )
    assert load_cifar_n("fine", tmp_path / "b.npz").transition.shape == (100, 100)
    assert load_cifar_n("coarse", tmp_path / "b.npz").rate == 0.0


def test_wrong_order_kind_and_keys_are_told(released, tmp_path):
    with pytest.raises(ValueError, match="another order"):
        load_cifar_n("worst", released, clean_labels=CLEAN[::-1].copy())
    with pytest.raises(ValueError, match="unknown"):
        load_cifar_n("best", released)
    with pytest.raises(ValueError, match="no 'random_label1'"):
        load_cifar_n("random1", released)
    with pytest.raises(FileNotFoundError):
        load_cifar_n("worst", tmp_path / "absent.pt")


@pytest.mark.parametrize("exact", [True, False])
def test_multilabel_rates_hold_for_each_value(exact):
    y = (torch.rand(20_000, 5, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    keep = y.clone()
    noisy = multilabel_noise(y, [0.1, 0.2, 0.3, 0.4, 0.5], 0.02, exact=exact, seed=1)
    assert torch.equal(y, keep) and noisy.labels.dtype == torch.float32
    dropped, added = noisy.transition[:, 1, 0], noisy.transition[:, 0, 1]
    assert torch.allclose(dropped, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]).double(), atol=0.04)
    assert torch.allclose(added, torch.full((5,), 0.02).double(), atol=0.005)
    assert torch.allclose(noisy.transition.sum(2), torch.ones(5, 2).double())
    assert noisy.rate == noisy.mask.double().mean()
    if exact:
        positives = y.sum(0).double()
        assert ((dropped - torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])).abs() * positives < 1.01).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 10**6), st.booleans())
def test_multilabel_properties(n, labels, seed, exact):
    y = np.random.default_rng(seed).integers(0, 2, (n, labels)).astype(bool)
    both = multilabel_noise(y, 1.0, 1.0, exact=exact, seed=seed)
    assert np.array_equal(both.labels.numpy(), ~y) and both.rate == 1.0
    none = multilabel_noise(y, 0.0, 0.0, exact=exact, seed=seed)
    assert np.array_equal(none.labels.numpy(), y)
    drop = multilabel_noise(y, 0.7, 0.0, exact=exact, seed=seed)
    assert not bool((drop.labels & ~drop.true).any())
    if exact:
        assert int(drop.mask.sum()) == int(0.7 * y.sum() + 1e-9)
    assert torch.equal(drop.labels, multilabel_noise(y, 0.7, 0.0, exact=exact, seed=seed).labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: multilabel_noise([[0, 2]], 0.1, 0.1), "0 or 1"),
        (lambda: multilabel_noise([0, 1], 0.1, 0.1), "samples x labels"),
        (lambda: multilabel_noise([[0, 1]], 1.1, 0.1), "rate_positive must lie"),
        (lambda: multilabel_noise([[0, 1]], 0.1, [0.1, 0.2, 0.3]), "rate_negative must be one"),
    ],
)
def test_multilabel_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


Y = list(range(5)) * 4
NOISY = pair_noise(Y, 0.5, seed=1)


class Rows:
    """A map-style data set of any kind of sample; with ``many``, one that fetches batches."""

    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(Y)

    def __getitem__(self, i):
        return self.make(i)


class Batched(Rows):
    def __getitems__(self, indices):
        return [self.make(i) for i in indices]


Point = namedtuple("Point", "x y z")


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (lambda i: (i, Y[i]), lambda s: s[1]),
        (lambda i: [i, Y[i], "extra"], lambda s: s[1]),
        (lambda i: Point(i, torch.tensor(Y[i]), 0), lambda s: s.y),
        (lambda i: {"x": i, "labels": np.int64(Y[i])}, lambda s: s["labels"]),
        (lambda i: UserDict(x=i, label=torch.tensor([Y[i]])), lambda s: s["label"]),
    ],
)
@pytest.mark.parametrize("kind", [Rows, Batched])
def test_wrapper_replaces_the_label_and_nothing_else(make, read, kind):
    data = NoisyDataset(kind(make), NOISY)
    for i in range(len(Y)):
        sample, original = data[i], make(i)
        assert type(sample) is type(original) and len(sample) == len(original)
        assert type(read(sample)) is type(read(original))
        assert int(read(sample)) == int(NOISY.labels[i])
    # the row survives subsets of subsets, in any order, singly and in batches
    rows = [17, 3, 3, 9, 0]
    part = Subset(Subset(data, rows), [4, 1, 0])
    wanted = [int(NOISY.labels[r]) for r in (0, 3, 17)]
    assert [int(read(part[i])) for i in range(3)] == wanted
    assert [int(read(s)) for s in part.__getitems__([0, 1, 2])] == wanted
    assert data.targets == NOISY.labels.tolist()


def test_wrapper_leaves_dict_samples_of_the_data_set_alone():
    stored = [{"x": i, "label": y} for i, y in enumerate(Y)]
    data = NoisyDataset(stored, NOISY)
    assert [data[i]["label"] for i in range(len(Y))] == NOISY.labels.tolist()
    assert [s["label"] for s in stored] == Y


def test_wrapper_in_a_loader_and_with_multilabel_targets():
    x = torch.arange(20.0)
    data = NoisyDataset(TensorDataset(x, torch.tensor(Y)), NOISY)
    loader = DataLoader(Subset(data, list(range(1, 20, 2))), batch_size=4)
    seen = torch.cat([y for _, y in loader])
    assert torch.equal(seen, NOISY.labels[1::2])
    targets = (torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    noisy = multilabel_noise(targets, 0.5, 0.5)
    assert torch.equal(NoisyDataset(TensorDataset(x, targets), noisy)[7][1], noisy.labels[7])


def test_wrapper_refuses_misaligned_data():
    with pytest.raises(ValueError, match="10 samples, but there are 20 labels"):
        NoisyDataset(Subset(Rows(lambda i: (i, Y[i])), range(10)), NOISY)
    shifted = NoisyDataset(Rows(lambda i: (i, Y[(i + 1) % 20])), NOISY)
    with pytest.raises(ValueError, match="another order"):
        shifted[0]
    with pytest.raises(ValueError, match="on record"):
        NoisyDataset(Rows(lambda i: (i, [Y[i], 0])), NOISY)[0]
    assert NoisyDataset(Rows(lambda i: (i, 99)), NOISY, check=False)[0][1] == int(NOISY.labels[0])
    with pytest.raises(ValueError, match="expected"):
        NoisyDataset(Rows(lambda i: i), NOISY)[0]
    with pytest.raises(ValueError, match="no labels or label"):
        NoisyDataset(Rows(lambda i: {"x": i}), NOISY)[0]


def test_parsed_names_call_the_generators():
    y = torch.arange(200) % 10
    extra = {"asymmetric": {"mapping": {0: 1}}, "instance": {"inputs": torch.rand(200, 4)}}
    extra["auxiliary"] = {"probs": torch.softmax(torch.rand(200, 10), 1)}
    for name in NOISE_NAMES:
        function, rate = parse_noise(f"{name}:0.4")
        assert rate == 0.4
        noisy = function(y, rate=rate, seed=1, **extra.get(name, {}))
        assert 0.0 < noisy.rate <= 0.6, name
    function, rate = parse_noise(" symmetric : 0.25 ")
    assert torch.equal(function(y, rate=rate).labels, symmetric_noise(y, 0.25).labels)
    assert parse_noise("auxiliary")[1] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("symetric:0.4", "did you mean 'symmetric'"),
        ("zzz:0.4", "use one of"),
        ("pair", "needs a rate"),
        ("pair:lots", "needs a rate"),
        ("pair:1.4", "rate must lie"),
    ],
)
def test_bad_names_are_told(text, message):
    with pytest.raises(ValueError, match=message):
        parse_noise(text)
