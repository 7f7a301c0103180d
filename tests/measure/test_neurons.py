"""Neurons of the rule and of wrong labels: twins, known vectors, and modular addition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import analysis_twins as twins
from tether.errors import ConfigError
from tether.measure import (
    effective_output_weight,
    fourier_ipr_per_neuron,
    generalization_phase,
    inverse_participation_ratio,
    memorization_score,
    pruning_curve,
)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 14), st.integers(2, 3))
def test_the_ratio_agrees_with_the_transform_by_hand(seed, p, r):
    u = np.random.default_rng(seed).normal(size=(p, 3))
    found = inverse_participation_ratio(u, dim=0, r=r)
    wanted = [twins.participation(u[:, k], r) for k in range(3)]
    assert found.tolist() == pytest.approx(wanted, abs=1e-9)
    moved = inverse_participation_ratio(torch.as_tensor(7 * np.roll(u, 2, 0) + 5).T, r=r)
    assert moved.tolist() == pytest.approx(wanted, abs=1e-6)


def test_known_vectors():
    t = torch.arange(37)
    for k in (1, 5, 18):
        wave = torch.cos(2 * math.pi * k * t / 37 + 0.3)
        assert float(inverse_participation_ratio(wave)) == pytest.approx(1.0)
    spike = torch.eye(37)[4]
    assert float(inverse_participation_ratio(spike)) == pytest.approx(1 / 18)
    noise = torch.randn(400, 37, generator=torch.Generator().manual_seed(0))
    # |u^|^2 is exponential: 2 / (18 + 1) in expectation
    assert float(inverse_participation_ratio(noise).mean()) == pytest.approx(2 / 19, rel=0.05)
    assert math.isnan(float(inverse_participation_ratio(torch.full((37,), 3.0))))
    assert float(inverse_participation_ratio(torch.ones(37), drop_dc=False)) == pytest.approx(1.0)


def test_each_neuron_averages_its_vectors():
    rng = np.random.default_rng(0)
    a, b, out = rng.normal(size=(4, 11)), rng.normal(size=(4, 11)), rng.normal(size=(11, 4))
    b[2] = 0.0
    found = fourier_ipr_per_neuron([a, b], out)
    for k in (0, 1, 3):
        each = [twins.participation(v) for v in (a[k], b[k], out[:, k])]
        assert float(found[k]) == pytest.approx(np.mean(each))
    assert math.isnan(float(found[2]))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_score_of_real_data_agrees_with_the_twin(seed):
    rng = np.random.default_rng(seed)
    hidden, weight = rng.normal(size=(20, 5)), rng.normal(size=(3, 5))
    labels, wrong = rng.integers(0, 3, 20), np.arange(20) % 3 == 0
    hidden[:, 4] = 0.0
    found = memorization_score(hidden, weight, labels, wrong)
    wanted = [twins.serving(hidden, weight, labels, wrong, k) for k in range(4)]
    assert found[:4].tolist() == pytest.approx(wanted, abs=1e-9)
    assert math.isnan(float(found[4]))
    order = rng.permutation(20)
    again = memorization_score(3 * hidden[order], weight + 2, labels[order], wrong[order])
    assert again[:4].tolist() == pytest.approx(wanted, abs=1e-9)


def test_batch_norm_scales_what_a_neuron_says():
    weight = np.array([[3.0, 0.0], [4.0, 2.0]])
    found = effective_output_weight(weight, [-2.0, 1.0], [3.0, 0.0], eps=1.0)
    assert found.tolist() == pytest.approx([5.0, 2.0])


def test_pruning_nothing_and_everything():
    rng = np.random.default_rng(0)
    hidden, weight, bias = rng.normal(size=(50, 6)), rng.normal(size=(3, 6)), np.array([0, 1.0, 0])
    labels = (hidden @ weight.T + bias).argmax(1)
    scores = np.array([0.3, np.nan, 0.1, 0.5, 0.2, 0.4])
    groups = {"own": (hidden, labels), "one": (hidden, np.full(50, 1))}
    curve = pruning_curve(groups, weight, scores, head_bias=bias, fractions=(0, 0.4, 1))
    assert curve.accuracy["own"][0] == 1.0 and curve.pruned == [0, 2, 5] and curve.excluded == 1
    kept = weight.copy()
    kept[:, [2, 4]] = 0
    wanted = ((hidden @ kept.T + bias).argmax(1) == labels).mean()
    assert curve.accuracy["own"][1] == wanted
    high = pruning_curve(groups, weight, scores, head_bias=bias, fractions=(0.4,), ascending=False)
    kept = weight.copy()
    kept[:, [3, 5]] = 0
    assert high.accuracy["own"][0] == ((hidden @ kept.T + bias).argmax(1) == labels).mean()
    scored = np.where(np.isnan(scores), 0.0, scores)
    bare = pruning_curve(groups, weight, scored, head_bias=bias, fractions=(1,))
    assert bare.accuracy["one"][0] == 1.0  # the bias alone
    assert curve.as_json()["accuracy"]["own"][0] == 1.0


def test_phases():
    def phase(train, test, corrupt):
        return generalization_phase(train, test, corrupt, xi=0.2, chance=0.03)

    assert phase(1.0, 0.04, 1.0) == "memorization"
    assert phase(1.0, 1.0, 1.0) == "coherent"
    assert phase(0.9, 1.0, 0.5) == "partial_inversion"
    assert phase(0.8, 1.0, 0.02) == "full_inversion"
    assert phase(0.5, 0.6, 0.02) == "forgetting"
    assert phase(0.95, 0.5, 0.9) == "between" and phase(0.8, 0.03, 0.1) == "between"


def test_modular_addition_keeps_its_rule_in_periodic_neurons():
    p, width = 23, 96
    g = torch.Generator().manual_seed(0)
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    true = pairs.sum(1) % p
    order = torch.randperm(p * p, generator=g)
    train, test = order[: int(0.85 * p * p)], order[int(0.85 * p * p) :]
    flipped = train[: int(0.15 * len(train))]
    given_ = true.clone()
    given_[flipped] = (true[flipped] + torch.randint(1, p, (len(flipped),), generator=g)) % p
    u, v = (0.5 / math.sqrt(p) * torch.randn(width, p, generator=g) for _ in "uv")
    w = 0.5 / math.sqrt(width) * torch.randn(p, width, generator=g)
    weights = [part.requires_grad_() for part in (u, v, w)]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, betas=(0.9, 0.98), weight_decay=1.0)
    target = torch.nn.functional.one_hot(given_, p).float()

    def hidden(rows):
        return (u.T[pairs[rows, 0]] + v.T[pairs[rows, 1]]).square()

    for _ in range(600):
        optimizer.zero_grad()
        (p * (hidden(train) @ w.T - target[train]).square().mean()).backward()
        optimizer.step()
    clean = train[len(flipped) :]
    with torch.no_grad():
        groups = {
            "clean": (hidden(clean), true[clean]),
            "wrong_as_given": (hidden(flipped), given_[flipped]),
            "wrong_true": (hidden(flipped), true[flipped]),
            "test": (hidden(test), true[test]),
        }
        everything = torch.cat([hidden(clean), hidden(flipped)])
    scores = fourier_ipr_per_neuron([u.detach(), v.detach()], w.detach())
    low = pruning_curve(groups, w.detach(), scores, fractions=(0, 0.5)).accuracy
    high = pruning_curve(groups, w.detach(), scores, fractions=(0.2,), ascending=False).accuracy
    whole = {name: values[0] for name, values in low.items()}
    halved = {name: values[1] for name, values in low.items()}
    assert whole["wrong_as_given"] > 0.5 and whole["test"] > 0.8
    assert halved["wrong_as_given"] < 0.5 * whole["wrong_as_given"]
    assert halved["test"] > 0.9 and halved["wrong_true"] > whole["wrong_true"] + 0.3
    assert high["test"][0] < halved["test"] - 0.1
    # the score from activations finds the same neurons without the Fourier transform
    mark = torch.arange(len(train)) >= len(clean)
    labels = torch.cat([true[clean], given_[flipped]])
    serving = memorization_score(everything, w.detach(), labels, mark)
    alive = ~scores.isnan()
    ranks = [part[alive].argsort().argsort().double() for part in (scores, serving)]
    assert float(torch.corrcoef(torch.stack(ranks))[0, 1]) > 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: inverse_participation_ratio(torch.ones(2)), "3 tokens or more"),
        (lambda: inverse_participation_ratio(torch.ones(5), r=1), "r must be"),
        (lambda: inverse_participation_ratio(torch.full((5,), math.nan)), "not numbers"),
        (lambda: fourier_ipr_per_neuron([]), "no weights"),
        (lambda: fourier_ipr_per_neuron([torch.ones(2, 5)], torch.ones(5, 3)), "lengths differ"),
        (lambda: memorization_score(np.eye(2), np.eye(3), [0, 1], [0, 1]), "reads 3 units"),
        (lambda: memorization_score(np.eye(2), np.eye(2), [0, 1], [0, 0]), "not all and not none"),
        (lambda: effective_output_weight(np.eye(2), [1.0]), "gamma must hold 2"),
        (lambda: pruning_curve({}, np.eye(2), [0.0, 1.0]), "needs groups"),
        (lambda: pruning_curve({"a": (np.eye(2), [0, 1])}, np.eye(2), [0.0]), "2 numbers"),
        (lambda: pruning_curve({"a": (np.eye(3), [0, 1, 1])}, np.eye(2), [0.0, 1]), "3 units"),
        (
            lambda: pruning_curve({"a": (np.eye(2), [0, 1])}, np.eye(2), [0.0, 1], fractions=(2,)),
            "in \\[0, 1\\]",
        ),
        (lambda: generalization_phase(2, 1, 1, 0.1, 0.1), "train_acc must lie"),
        (lambda: generalization_phase(1, 1, 1, 0.1, 1), "chance must be below 1"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
