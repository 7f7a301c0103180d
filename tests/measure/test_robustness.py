"""Blurred, noisy and adversarial inputs: closed forms on linear models, and nothing left behind."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.reference import analysis_twins as twins
from tether.errors import ConfigError, TetherError
from tether.measure import Attack, gaussian_blur, robust_accuracy, wilson_interval
from tether.measure.perturbations import direction, limited


def linear(weight, bias=None):
    net = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], len(weight)))
    with torch.no_grad():
        net[1].weight.copy_(weight)
        net[1].bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return net


def images(seed, n=200, c=3, size=4):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(n, c, size, size, generator=g)
    weight = torch.randn(2, c * size * size, generator=g)
    weight -= weight.mean(1, keepdim=True)
    net = linear(weight)
    with torch.no_grad():
        y = net(x).argmax(1)
    return net, x, y, weight


def rows_of(found):
    return {(row.kind, round(row.strength, 6)): row.accuracy for row in found}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_wilson_ends_are_the_roots_of_the_score(n, share, level):
    from scipy.stats import norm

    hits = round(share * n)
    found = wilson_interval(hits, n, level)
    assert found == pytest.approx(twins.wilson(hits, n, norm.ppf((1 + level) / 2)), abs=1e-6)
    assert found[0] <= hits / n <= found[1] and found[0] >= 0 and found[1] <= 1


def test_wilson_agrees_with_scipy_and_has_an_answer_for_nothing():
    from scipy.stats import binomtest

    for hits, n in ((0, 10), (3, 10), (10, 10), (497, 500)):
        exact = binomtest(hits, n).proportion_ci(0.95, method="wilson")
        assert wilson_interval(hits, n) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ConfigError, match="between 0 and the trials"):
        wilson_interval(3, 2)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.7])
def test_the_blur_is_scipys_and_commutes_with_normalisation(sigma):
    from scipy.ndimage import gaussian_filter

    x = torch.rand(2, 3, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gaussian_blur(x, sigma)
    wanted = [[gaussian_filter(c, sigma, mode="nearest", truncate=3.0) for c in image]
              for image in x.numpy()]  # fmt: skip
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)
    torch.testing.assert_close(gaussian_blur((x - 0.4) / 0.2, sigma), (found - 0.4) / 0.2)
    assert gaussian_blur(x, 0.0) is x


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("steps", [1, 10])
def test_attacks_on_a_linear_network_reach_what_no_attack_can_surpass(norm, steps):
    net, x, y, weight = images(0)
    gap = (weight[0] - weight[1]).double()
    margin = ((x.flatten(1).double() @ gap).abs()) / (
        gap.abs().sum() if norm == "linf" else gap.norm()
    )
    epsilon = float(margin.median())
    assert int((abs(margin - epsilon) < 1e-6).sum()) <= 1
    found = robust_accuracy(
        net, [(x, y)], blur=(), noise=(), attacks=[Attack(epsilon, norm, steps)]
    )
    assert found[0].kind == "clean" and found[0].accuracy == 1.0
    # the dual norm tells exactly who falls: those nearer than epsilon
    assert found[1].accuracy == pytest.approx(float((margin > epsilon).double().mean()), abs=0.011)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_sizes_are_in_pixels_whatever_the_normalisation(norm):
    plain, x, y, _ = images(1)
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.1, 0.25, 2.0])
    shape = (1, 3, 1, 1)

    class Denormalised(nn.Module):
        def forward(self, z):
            return plain(z * std.reshape(shape) + mean.reshape(shape))

    z = (x - mean.reshape(shape)) / std.reshape(shape)
    options = {
        "blur": (0.7,), "noise": (0.3,), "bounds": (0.0, 1.0),
        "attacks": [Attack(0.03 if norm == "linf" else 0.3, norm, s) for s in (1, 5)],
    }  # fmt: skip
    wanted = rows_of(robust_accuracy(plain, [(x, y)], **options))
    found = rows_of(
        robust_accuracy(Denormalised(), [(z, y)], mean=mean.tolist(), std=std.tolist(), **options)
    )
    assert found == pytest.approx(wanted, abs=0.011)
    assert len(set(wanted.values())) > 2  # and it did something


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["linf", "l2"]))
def test_changes_stay_inside_the_ball_and_the_bounds(seed, norm):
    seen = []

    class Watched(nn.Module):
        def forward(self, z):
            seen.append(z.detach().clone())
            return z.flatten(1)[:, :2]

    x = torch.rand(5, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
    attack = Attack(0.2, norm, steps=4)
    robust_accuracy(
        Watched(), [(x, torch.zeros(5, dtype=torch.long))], blur=(), noise=(0.5,),
        attacks=[attack], bounds=(0.0, 1.0), seed=seed,
    )  # fmt: skip
    assert torch.equal(seen[0], x) and len(seen) == 2 + 5
    for z in seen:
        assert float(z.min()) >= -1e-6 and float(z.max()) <= 1 + 1e-6
    for z in seen[2:]:
        change = (z - x).flatten(1)
        size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
        assert float(size.max()) <= 0.2 + 1e-6
    assert not torch.equal(seen[2], x)  # a random start


def test_steps_follow_the_norm():
    gradient = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    assert direction(gradient, "linf").tolist() == [[1.0, -1.0], [0.0, 0.0]]
    torch.testing.assert_close(direction(gradient, "l2"), torch.tensor([[0.6, -0.8], [0.0, 0.0]]))
    inside = torch.tensor([[0.03, 0.04]])
    assert torch.equal(limited(inside, Attack(0.1, "l2")), inside)
    assert Attack(1.0).stride == 1.0 and Attack(1.0, steps=10).stride == 0.25
    assert Attack(1.0, steps=10, step_size=0.1).stride == 0.1


def test_stronger_changes_never_help_and_the_seed_repeats_them():
    net, x, y, _ = images(2)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    attacks = [Attack(size, norm, 5) for norm in ("linf", "l2") for size in (0, 0.02, 0.1)]
    options = {"blur": (0, 0.5, 2), "noise": (0, 0.1, 1.0), "attacks": attacks}
    found = robust_accuracy(net, loader, **options, seed=3)
    again = robust_accuracy(net, loader, **options, seed=3)
    assert found == again
    assert [row.kind for row in found] == ["clean"] + 3 * ["blur"] + 3 * ["noise"] + 3 * [
        "pgd_linf"
    ] + 3 * ["pgd_l2"]
    for start in (1, 4, 7, 10):
        a, b, c = (row.accuracy for row in found[start : start + 3])
        assert a == found[0].accuracy and a >= b >= c and a > c
    for row in found:
        assert row.samples == 200 and row.correct == round(200 * row.accuracy)
        assert (row.low, row.high) == wilson_interval(row.correct, 200)
    part = robust_accuracy(net, loader, **options, max_samples=40)
    assert {row.samples for row in part} == {40}


def test_the_model_is_left_as_it_was_also_after_an_error():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 2)
    )
    net[1].eval()
    net[0].weight.requires_grad_(False)
    x, y = torch.rand(12, 3, 4, 4), torch.arange(12) % 2
    net[4].weight.grad = torch.ones(2, 16)
    before, flags = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    random = torch.get_rng_state()
    robust_accuracy(net, [(x, y)], seed=1)
    with pytest.raises(ConfigError):
        robust_accuracy(net, [(x, y), (x, y.float())])
    assert flags == [m.training for m in net.modules()]
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(net[4].weight.grad, torch.ones(2, 16)) and net[4].bias.grad is None
    assert not net[0].weight.requires_grad


def test_rows_without_a_label_do_not_count_and_outputs_that_are_not_numbers_are_wrong():
    net, x, y, _ = images(0, n=20)
    y[:5] = -100
    found = robust_accuracy(net, [(x, y)], blur=(), noise=(), attacks=[Attack(0.0)])
    assert [(row.samples, row.accuracy) for row in found] == [(15, 1.0), (15, 1.0)]
    x[7] = math.nan
    found = robust_accuracy(net, [(x, y)], blur=(), noise=(), attacks=[Attack(0.01)])
    assert found[0].correct == 14 and found[1].correct <= 14


def test_dicts_are_changed_where_their_numbers_are():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 2)

        def forward(self, inputs_embeds, attention_mask):
            return {"logits": self.head((inputs_embeds * attention_mask[..., None]).mean(1))}

    torch.manual_seed(0)
    batch = {
        "inputs_embeds": torch.randn(30, 5, 4), "attention_mask": torch.ones(30, 5).long(),
        "labels": torch.arange(30) % 2,
    }  # fmt: skip
    found = robust_accuracy(Model(), [batch], blur=(), noise=(0.5,), attacks=[Attack(1.0, "l2")])
    assert found[2].accuracy < found[0].accuracy


class Detached(nn.Module):
    def forward(self, z):
        return z.detach().flatten(1)[:, :2]


class Tokens(nn.Module):
    def forward(self, input_ids):
        return nn.functional.one_hot(input_ids, 3).float().sum(1)


X, Y = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
NET = nn.Flatten()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: robust_accuracy(NET, [(X, Y.float())]), "one class index a sample"),
        (lambda: robust_accuracy(NET, [(X.flatten(1), Y)]), "pass blur=\\(\\)"),
        (lambda: robust_accuracy(NET, [(X, Y)], blur=(-1.0,)), "sigma of a blur"),
        (lambda: robust_accuracy(NET, [(X, Y)], noise=(math.nan,)), "deviations of noise"),
        (lambda: robust_accuracy(NET, [(X, Y)], std=0.0), "std must be above 0"),
        (lambda: robust_accuracy(NET, [(X, Y)], std=(1.0, 1.0, 1.0)), "3 channels"),
        (lambda: robust_accuracy(NET, [(X, Y)], bounds=(1, 0)), "smaller and a larger"),
        (lambda: robust_accuracy(NET, [(X, Y)], level=1.0), "level must lie"),
        (lambda: robust_accuracy(NET, []), "no sample with a label"),
        (lambda: robust_accuracy(NET, [(X, Y * 0 - 100)]), "no sample with a label"),
        (lambda: robust_accuracy(Tokens(), [{"input_ids": Y[:, None], "labels": Y}]), "token ids"),
        (lambda: robust_accuracy(nn.Flatten(0), [(X, Y)], blur=()), "score for each class"),
        (lambda: Attack(-1.0), "epsilon from 0"),
        (lambda: Attack(0.1, "l1"), "linf, l2"),
        (lambda: Attack(0.1, steps=0), "steps from 1"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_a_network_without_gradients_is_refused_by_name():
    with pytest.raises(TetherError, match="no gradient reaches the inputs"):
        robust_accuracy(Detached(), [(X, Y)])
    assert len(robust_accuracy(Detached(), [(X, Y)], attacks=())) == 7
