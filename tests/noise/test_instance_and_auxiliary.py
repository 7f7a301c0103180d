"""Noise that depends on the sample: random projections, and another network's mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import noise_twins as twins
from tether.noise import auxiliary_noise, instance_noise

Y = torch.arange(50_000) % 10
X = torch.rand(50_000, 24, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("shared", [False, True])
def test_mean_flip_rate_is_the_requested_one(shared):
    noisy = instance_noise(Y, X, 0.4, shared=shared)
    assert abs(noisy.rate - 0.4) < 0.01
    # a flip always leads to another class: the share of changed labels is the share of flips
    assert torch.equal(noisy.mask, noisy.labels != Y) and int(noisy.labels.max()) < 10


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 5), st.integers(1, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_labels_equal_those_of_the_numpy_twin(k, n, shared, seed):
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, k, n).tolist(), rng.random((n, 6))
    mine = instance_noise(y, x, 0.5, num_classes=k, std=0.3, shared=shared, seed=seed)
    assert mine.labels.tolist() == twins.instance(y, x, 0.5, k, std=0.3, shared=shared, seed=seed)


def test_errors_depend_on_the_input():
    """The same input always prefers the same wrong class; class-conditional noise does not."""
    patterns = torch.rand(5, 200, generator=torch.Generator().manual_seed(1)) * 20
    y = torch.zeros(3000, dtype=torch.long)
    noisy = instance_noise(y, patterns[torch.arange(3000) % 5], 1.0, num_classes=10, std=0.0)
    for i in range(5):
        wrong = noisy.labels[i::5]
        assert bool((wrong != 0).all()) and torch.bincount(wrong).max() > 0.95 * len(wrong)


def test_std_zero_gives_one_rate_and_std_spreads_it():
    y = torch.zeros(20_000, dtype=torch.long)
    x = torch.rand(20_000, 3)
    for std in (0.0, 0.05):
        noisy = instance_noise(y, x, 0.3, num_classes=3, std=std)
        assert abs(noisy.rate - 0.3) < 0.01
    assert instance_noise(y, x, 0.0, num_classes=3).rate == 0.0
    assert instance_noise(y, x, 1.0, num_classes=3, std=0.0).rate == 1.0


def test_scale_decides_how_sharp_the_wrong_class_is():
    """Entropy of the wrong class given a repeated input grows as inputs shrink."""
    base = torch.rand(8, 64, generator=torch.Generator().manual_seed(2))
    x, y = base.repeat_interleave(500, 0), torch.zeros(4000, dtype=torch.long)

    def entropy(**kw):
        noisy = instance_noise(y, x, 1.0, num_classes=10, std=0.0, **kw)
        rows = torch.stack([torch.bincount(c, minlength=10) for c in noisy.labels.split(500)])
        p = rows.double() / 500
        return float(-torch.xlogy(p, p).sum(1).mean())

    sharp, plain, soft = entropy(scale=16.0), entropy(), entropy(scale="standardise")
    assert sharp < 0.3 < plain < soft < np.log(9) + 1e-9 and soft > 1.5


def test_bytes_are_read_as_the_unit_interval_and_shapes_are_flattened():
    pixels = torch.randint(0, 256, (300, 3, 4, 2), generator=torch.Generator().manual_seed(0))
    y = torch.arange(300) % 5
    as_bytes = instance_noise(y, pixels.to(torch.uint8).numpy(), 0.5)
    as_floats = instance_noise(y, pixels.double().reshape(300, -1) / 255, 0.5)
    assert torch.equal(as_bytes.labels, as_floats.labels)


def test_standardise_ignores_constant_dimensions_shift_and_scale():
    x = torch.randn(400, 5, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(400) % 4
    plain = instance_noise(y, x, 0.5, scale="standardise")
    moved = instance_noise(y, 8 * x - 3, 0.5, scale="standardise")
    assert torch.equal(plain.labels, moved.labels)
    constant = torch.cat([x[:, :4], torch.full((400, 1), 7.0)], 1)
    assert instance_noise(y, constant, 0.5, scale="standardise").rate > 0.3


def test_instance_noise_is_seeded_and_leaves_inputs_and_global_state_alone():
    x, y = X[:500].clone(), Y[:500].clone()
    state = torch.get_rng_state()
    first = instance_noise(y, x, 0.4, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, X[:500]) and torch.equal(y, Y[:500])
    assert torch.equal(first.labels, instance_noise(y, x, 0.4, seed=3).labels)
    assert not torch.equal(first.labels, instance_noise(y, x, 0.4, seed=4).labels)


def network(n=4000, k=6, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + 1.2 * np.eye(k)[y]
    p = np.exp(logits)
    return torch.as_tensor(y), torch.as_tensor(p / p.sum(1, keepdims=True))


def test_auxiliary_without_rate_is_the_prediction():
    y, p = network()
    noisy = auxiliary_noise(y, p)
    assert torch.equal(noisy.labels, p.argmax(1)) and noisy.seed is None
    assert noisy.rate == float((p.argmax(1) != y).double().mean())


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.333, 0.9])
def test_auxiliary_ranking_corrupts_the_most_confident_mistakes(rate):
    y, p = network()
    noisy = auxiliary_noise(y, p, rate)
    count = int(rate * len(y) + 1e-9)
    assert int(noisy.mask.sum()) == count
    wrong = p.clone()
    wrong[torch.arange(len(y)), y] = -1
    strength, second = wrong.max(1)
    assert torch.equal(noisy.labels[noisy.mask], second[noisy.mask])
    if 0 < count < len(y):
        assert strength[noisy.mask].min() >= strength[~noisy.mask].max()


def test_auxiliary_sampling_hits_the_rate_and_follows_the_network():
    y, p = network(20_000)
    error = float((p.argmax(1) != y).double().mean())
    for rate in (error + 0.05, 0.6):
        noisy = auxiliary_noise(y, p, rate, sample=True, seed=2)
        assert abs(noisy.rate - rate) < 0.015 and noisy.seed == 2
        likely = p.gather(1, noisy.labels[noisy.mask][:, None]).mean()
        others = (1 - p.gather(1, y[:, None]))[noisy.mask].mean() / (p.shape[1] - 1)
        # labels flipped without regard to the network would make the two equal
        assert likely > 1.03 * others
    with pytest.raises(ValueError, match=r"no temperature gives a rate of 0\.05"):
        auxiliary_noise(y, p, 0.05, sample=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: instance_noise([0, 1], X[:3], 0.4), "one input for each of 2 labels"),
        (lambda: instance_noise([0, 1], X[:2], 1.4), "rate must lie"),
        (lambda: instance_noise([0, 1], X[:2], 0.4, std=-1.0), "std must be"),
        (lambda: instance_noise([0, 0], X[:2], 0.4), "at least 2 classes"),
        (lambda: instance_noise([0, 1], X[:2], 0.4, scale="unit"), "scale must be"),
        (lambda: instance_noise([0, 1], X[:2] * np.nan, 1.0, std=0.0), "not finite"),
        (lambda: auxiliary_noise([0, 1], [[0.5, 0.5]]), "shape"),
        (lambda: auxiliary_noise([0, 1], [[2.0, -1.0], [0.5, 0.5]]), "negative"),
        (lambda: auxiliary_noise([0, 1], [[2.0, 1.0], [0.5, 0.5]]), "sum to one"),
        (lambda: auxiliary_noise([0, 1], [0.2, 0.8]), "one row a sample"),
        (lambda: auxiliary_noise([0, 1], [[0.5, 0.5]] * 2, sample=True), "needs a rate"),
    ],
)
def test_bad_input_gets_one_clear_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()
