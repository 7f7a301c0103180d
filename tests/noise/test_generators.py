"""Class-conditional generators: exact twins, realised matrices, identities, seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import noise_twins as twins
from tether.noise import (
    CIFAR10_FLIPS,
    CIFAR100_SUPERCLASSES,
    asymmetric_noise,
    block_mapping,
    cifar100_superclass_labels,
    class_agnostic_noise,
    matrix_noise,
    pair_noise,
    symmetric_noise,
    transition_matrix,
)

K = 10
BALANCED = torch.arange(50_000) % K


def random_labels(n: int, k: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, k, n).tolist()


def assert_within_deviations(realised, wanted, sizes, limit=3.0):
    """Cells off by more than ``limit`` standard deviations are as rare as chance allows."""
    sd = torch.sqrt(wanted * (1 - wanted) / sizes[:, None])
    assert torch.equal(realised[sd == 0], wanted[sd == 0])
    z = ((realised - wanted).abs() / sd)[sd > 0]
    assert (z > limit).double().mean() <= 0.02 and z.max() < 4.5


def generators():
    """Every class-conditional generator, as (labels, seed) -> result, with the requested T."""
    eye, ones = torch.eye(K, dtype=torch.float64), torch.ones(K, K, dtype=torch.float64)
    skew = torch.softmax(torch.randn(K, K, generator=torch.Generator().manual_seed(3)).double(), 1)
    q = torch.softmax(torch.arange(K).double(), 0)
    flips = eye.clone()
    for i, j in CIFAR10_FLIPS.items():
        flips[i, i], flips[i, j] = 0.6, 0.4
    cyclic = 0.6 * eye + 0.4 * eye.roll(1, 1)
    return {
        "symmetric": (
            lambda y, **kw: symmetric_noise(y, 0.4, **kw),
            0.6 * eye + 0.4 / (K - 1) * (ones - eye),
        ),
        "symmetric_inclusive": (
            lambda y, **kw: symmetric_noise(y, 0.4, include_true=True, **kw),
            0.6 * eye + 0.4 / K * ones,
        ),
        "class_agnostic": (
            lambda y, **kw: class_agnostic_noise(y, 0.4, distribution=q, **kw),
            0.6 * eye + 0.4 * ones * q,
        ),
        "pair": (lambda y, **kw: pair_noise(y, 0.4, **kw), cyclic),
        "asymmetric": (lambda y, **kw: asymmetric_noise(y, "cifar10", 0.4, **kw), flips),
        "matrix": (lambda y, **kw: matrix_noise(y, skew, **kw), skew),
    }


CASES = generators()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("exact", [True, False])
def test_realised_matrix_is_the_requested_one(name, exact):
    make, wanted = CASES[name]
    noisy = make(BALANCED, exact=exact, seed=1)
    assert_within_deviations(noisy.transition, wanted, torch.bincount(BALANCED).double())
    assert noisy.rate == (noisy.labels != BALANCED).double().mean()
    assert torch.equal(noisy.mask, noisy.labels != noisy.true)


@pytest.mark.parametrize(
    "make",
    [
        lambda y, r: (pair_noise(y, r, stratified=True), None),
        lambda y, r: (asymmetric_noise(y, {0: 3, 3: 1, 2: 0}, r), None),
        lambda y, r: (symmetric_noise(y, r, stratified=True), None),
    ],
)
@pytest.mark.parametrize("rate", [0.1, 0.29, 0.4, 1 / 3])
def test_exact_counts_are_within_one_sample_of_each_class(make, rate):
    y = torch.tensor(random_labels(997, 7, 5))
    noisy, _ = make(y, rate)
    sizes = torch.bincount(y).double()
    flipped = 1 - noisy.transition.diag()
    touched = flipped > 0
    assert ((flipped - rate).abs()[touched] <= 1 / sizes[touched] + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.integers(5, 200), st.integers(0, 10**6))
def test_exact_matrix_is_within_one_sample_in_every_cell(k, n, seed):
    y = torch.tensor(random_labels(n, k, seed))
    t = np.random.default_rng(seed + 1).dirichlet(np.full(k, 0.5), size=k)
    noisy = matrix_noise(y, t, exact=True, seed=seed)
    sizes = torch.bincount(y, minlength=k).double()
    present = sizes > 0
    off = (noisy.transition - torch.as_tensor(t)).abs() * sizes[:, None]
    assert (off[present] < 1 + 1e-6).all()


def test_matrix_from_large_n_is_not_limited_by_chunks():
    k = 600
    y = torch.arange(30_000) % k
    t = torch.eye(k, dtype=torch.float64).roll(1, 1) * 0.5 + torch.eye(k, dtype=torch.float64) * 0.5
    noisy = matrix_noise(y, t, seed=0)
    assert set(((noisy.labels - y) % k).tolist()) == {0, 1}
    assert abs(noisy.rate - 0.5) < 0.01


def test_rates_of_the_two_symmetric_conventions():
    assert symmetric_noise(BALANCED, 0.4).rate == 0.4
    assert abs(symmetric_noise(BALANCED, 0.4, include_true=True).rate - 0.36) < 0.01
    indoor = torch.arange(67 * 80) % 67
    inclusive = symmetric_noise(indoor, 0.4, include_true=True).rate
    assert abs(inclusive - 0.4 * 66 / 67) < 0.01


@pytest.mark.parametrize("name", [n for n in CASES if n != "matrix"])
def test_rate_zero_changes_nothing(name):
    function = {
        "symmetric": symmetric_noise,
        "symmetric_inclusive": lambda y, r, **kw: symmetric_noise(y, r, include_true=True, **kw),
        "class_agnostic": class_agnostic_noise,
        "pair": pair_noise,
        "asymmetric": lambda y, r, **kw: asymmetric_noise(y, "cifar10", r, **kw),
    }[name]
    for exact in (True, False):
        noisy = function(BALANCED[:500], 0.0, exact=exact)
        assert torch.equal(noisy.labels, BALANCED[:500]) and noisy.rate == 0.0
        assert torch.equal(noisy.transition, torch.eye(K, dtype=torch.float64))


@pytest.mark.parametrize("exact", [True, False])
def test_pair_noise_of_rate_one_is_a_cyclic_shift(exact):
    assert torch.equal(pair_noise(BALANCED, 1.0, exact=exact).labels, (BALANCED + 1) % K)


def test_symmetric_noise_of_rate_one_leaves_no_label():
    assert bool(symmetric_noise(BALANCED, 1.0).mask.all())


def test_class_agnostic_rate_and_spread_of_the_default_distribution():
    noisy = class_agnostic_noise(BALANCED, 1.0, seed=4)
    counts = torch.bincount(noisy.labels, minlength=K).double()
    assert counts.max() / counts.min() < np.e * 1.1
    q = counts / counts.sum()
    assert abs(noisy.rate - (1 - (q / K).sum())) < 0.005


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 7),
    st.integers(1, 60),
    st.sampled_from([0.0, 0.2, 0.29, 0.5, 1.0]),
    st.integers(0, 2**32 - 1),
)
def test_labels_equal_those_of_the_numpy_twins(k, n, rate, seed):
    y = random_labels(n, k, seed % 1000)
    rng = np.random.default_rng(seed % 997)
    t = rng.dirichlet(np.ones(k), size=k)
    mapping = {c: int(rng.integers(0, k)) for c in range(0, k, 2)}
    kw = {"num_classes": k, "seed": seed}
    for exact, stratified in ((True, False), (True, True), (False, False)):
        options = {"exact": exact, "stratified": stratified}
        for include in (False, True):
            mine = symmetric_noise(y, rate, include_true=include, **options, **kw)
            twin = twins.symmetric(y, rate, k, include_true=include, **options, seed=seed)
            assert mine.labels.tolist() == twin
        assert pair_noise(y, rate, **options, **kw).labels.tolist() == twins.pair(
            y, rate, k, **options, seed=seed
        )
    assert class_agnostic_noise(y, rate, **kw).labels.tolist() == twins.class_agnostic(
        y, rate, k, seed=seed
    )
    assert asymmetric_noise(y, mapping, rate, **kw).labels.tolist() == twins.asymmetric(
        y, mapping, rate, k, seed=seed
    )
    legacy = asymmetric_noise(y, mapping, rate, legacy=True, **kw)
    assert legacy.labels.tolist() == twins.asymmetric_legacy(y, mapping, rate, k, seed=seed)
    for exact in (True, False):
        assert matrix_noise(y, t, exact=exact, seed=seed).labels.tolist() == twins.matrix(
            y, t, exact=exact, seed=seed
        )


@pytest.mark.parametrize("name", CASES)
def test_same_seed_same_labels_and_global_state_untouched(name):
    make, _ = CASES[name]
    y = BALANCED[:300]
    torch.manual_seed(1)
    np.random.seed(1)
    before, before_np = torch.get_rng_state(), np.random.get_state()
    first = make(y, seed=11)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), before_np, strict=True))
    torch.manual_seed(999)
    again = make(y, seed=11)
    assert torch.equal(first.labels, again.labels) and first.seed == 11
    assert not torch.equal(first.labels, make(y, seed=12).labels)
    own = make(y, generator=torch.Generator().manual_seed(11))
    assert torch.equal(first.labels, own.labels) and own.seed is None


def test_a_passed_generator_moves_on():
    rng = torch.Generator().manual_seed(0)
    one, two = (symmetric_noise(BALANCED[:300], 0.4, generator=rng) for _ in range(2))
    assert not torch.equal(one.labels, two.labels)


@pytest.mark.parametrize("name", CASES)
def test_input_is_never_modified_and_any_container_serves(name):
    make, _ = CASES[name]
    array = BALANCED[:200].numpy().astype(np.uint8)
    array.setflags(write=False)
    tensor = torch.from_numpy(array.copy()).to(torch.int32)
    keep = tensor.clone()
    results = [make(v) for v in (array, tensor, array.tolist(), array[::-1][::-1])]
    assert torch.equal(tensor, keep)
    for noisy in results:
        assert torch.equal(noisy.labels, results[0].labels)
        assert noisy.labels.dtype == noisy.true.dtype == torch.int64
        assert torch.equal(noisy.true, keep.long())
        assert noisy.labels.data_ptr() != noisy.true.data_ptr() != tensor.data_ptr()


def test_legacy_cifar10_mode_reproduces_the_published_bias():
    noisy = asymmetric_noise(BALANCED, "cifar10", 0.4, legacy=True)
    assert abs(noisy.rate - 0.184) < 0.002
    flipped = 1 - noisy.transition.diag()
    assert abs(flipped[3] - 0.24) < 0.01
    assert torch.allclose(flipped[[9, 2, 4, 5]], torch.tensor(0.4).double(), atol=0.02)
    assert asymmetric_noise(BALANCED, "cifar10", 0.4).rate == 0.2


def test_cifar100_superclasses_are_twenty_fives_in_alphabetical_indices():
    # the published coarse label of every fine label
    published = [
        4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
        6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
        16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
        12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
    ]  # fmt: skip
    assert cifar100_superclass_labels() == published
    assert [len(v) for v in CIFAR100_SUPERCLASSES.values()] == [5] * 20


@pytest.mark.parametrize("blocks", ["superclass", "index"])
def test_cifar100_noise_stays_within_blocks(blocks):
    y = torch.arange(10_000) % 100
    noisy = asymmetric_noise(y, "cifar100", 0.4, blocks=blocks)
    owner = torch.tensor(cifar100_superclass_labels()) if blocks == "superclass" else None
    owner = torch.arange(100) // 5 if owner is None else owner
    assert torch.equal(owner[noisy.labels], owner[y]) and noisy.rate == 0.4
    assert torch.equal(1 - noisy.transition.diag(), torch.full((100,), 0.4, dtype=torch.float64))
    # five steps through the cycle of a block lead home
    step = block_mapping(owner.tolist())
    assert all(step[step[step[step[step[c]]]]] == c and step[c] != c for c in range(100))


def test_transition_matrix_counts_and_handles_absent_classes():
    t = transition_matrix([0, 0, 2, 2, 2], [0, 2, 2, 2, 0], num_classes=4)
    wanted = [[0.5, 0, 0.5, 0], [0, 1, 0, 0], [1 / 3, 0, 2 / 3, 0], [0, 0, 0, 1]]
    assert torch.allclose(t, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symmetric_noise([0, 1], 1.2), r"rate must lie in \[0, 1\]"),
        (lambda: symmetric_noise([0, 1], -0.1), "rate must lie"),
        (lambda: symmetric_noise([0, 1], float("nan")), "rate must lie"),
        (lambda: symmetric_noise([0, 0], 0.2), "at least 2 classes"),
        (lambda: symmetric_noise([0, 1], 0.2, exact=False, stratified=True), "stratified"),
        (lambda: pair_noise([0, -1], 0.2), "class indices start at 0"),
        (lambda: pair_noise([0, 5], 0.2, num_classes=5), "num_classes is 5"),
        (lambda: pair_noise([], 0.2), "empty"),
        (lambda: pair_noise([0.0, 1.0], 0.2), "must be integers"),
        (lambda: pair_noise(np.ones((3, 2), dtype=int), 0.2), "one dimension"),
        (lambda: pair_noise(["cat", "dog"], 0.2), "cannot be read"),
        (lambda: matrix_noise([0, 1], [[0.5, 0.4], [0.0, 1.0]]), "row 0 sums to 0.9"),
        (lambda: matrix_noise([0, 1], [[1.5, -0.5], [0.0, 1.0]]), "negative"),
        (lambda: matrix_noise([0, 1], [[1.0, 0.0]]), "square"),
        (lambda: matrix_noise([0, 2], np.eye(2)), "num_classes is 2"),
        (lambda: asymmetric_noise([0, 1], {0: 7}, 0.2, num_classes=2), "sends 0 to 7"),
        (lambda: asymmetric_noise([0, 1], {-1: 0}, 0.2), "sends -1 to 0"),
        (lambda: asymmetric_noise([0, 1], {0: 0.5}, 0.2), "class indices to class indices"),
        (lambda: asymmetric_noise([0, 1], {}, 0.2), "empty"),
        (lambda: asymmetric_noise([0, 1], "cifar", 0.2), "unknown"),
        (lambda: asymmetric_noise([0, 1], "cifar100", 0.2, legacy=True), "blocks='index'"),
        (lambda: asymmetric_noise([0, 1], "cifar100", 0.2, blocks="fine"), "blocks must be"),
        (lambda: class_agnostic_noise([0, 1], 0.2, distribution=[0.5, 0.2]), "sum to one"),
        (lambda: class_agnostic_noise([0, 1], 0.2, distribution=[1.0]), "shape"),
        (lambda: transition_matrix([0, 1], [0]), "lengths differ"),
    ],
)
def test_bad_input_gets_one_clear_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()
