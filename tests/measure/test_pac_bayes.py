"""The PAC-Bayes bound: its formulas, its validity in a simulation, and what it says."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from tests.measure.models import image_model, images, rows, seeded, smooth_net
from tests.reference import perturbation_twins as twins
from tether.errors import ConfigError
from tether.measure import pac_bayes_bound
from tether.measure.pac_bayes_formulas import (
    bound_kl,
    bound_sqrt,
    complexity,
    gaussian_kl,
    kl_bernoulli,
    kl_inverse,
)


def state(net):
    return {n: t.detach().clone() for n, t in net.state_dict().items()}


def shifted(net, amount):
    """A start from which every tensor moved by ``amount`` in each coordinate."""
    return {n: t - amount if t.is_floating_point() else t for n, t in state(net).items()}


# -- formulas ----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.03, 0.4, 0.97])
@pytest.mark.parametrize("budget", [1e-3, 0.1, 2.0])
def test_the_inverse_agrees_with_its_twin(p, budget):
    found = kl_inverse(p, budget)
    assert found == pytest.approx(twins.kl_inverse(p, budget), abs=1e-5)
    assert kl_bernoulli(p, found) == pytest.approx(budget, rel=1e-6) or found > 1 - 1e-12


def test_the_divergence_of_gaussians_agrees_with_the_general_formula():
    rng = np.random.default_rng(0)
    mean, start, sigma = rng.normal(size=12), rng.normal(size=12), rng.uniform(0.1, 2, 12)
    found = gaussian_kl(np.abs(mean - start), sigma)
    assert found == pytest.approx(twins.gaussian_kl(mean, start, sigma), rel=1e-6)
    assert gaussian_kl([0.0, 0.0], [0.0, 1.0]) == 0.0 and gaussian_kl([1.0], [0.0]) == math.inf


def test_forms_and_their_order():
    rng = np.random.default_rng(1)
    for _ in range(200):
        e, cost, m, d = rng.uniform(), rng.exponential(), rng.integers(1, 500), rng.uniform(0.01, 1)
        tight, loose = bound_kl(e, cost, draws=m, delta=d), bound_sqrt(e, cost, draws=m, delta=d)
        assert e <= tight <= min(loose, 1.0) + 1e-12
    n, kl, delta = 400, 30.0, 0.05
    assert bound_sqrt(0.1, complexity(kl, n, delta)) == pytest.approx(
        twins.additive_bound(0.1, kl, n, delta), rel=1e-6
    )
    costs = [complexity(kl, n, 0.05) for n in (10, 100, 1000)]
    assert costs == sorted(costs, reverse=True)
    assert complexity(1.0, 100, 0.05) < complexity(2.0, 100, 0.05) < complexity(2.0, 100, 0.01)
    with pytest.raises(ConfigError, match="at least one sample"):
        complexity(1.0, 0, 0.05)


def test_unequal_draws_count_by_the_largest():
    """The tail of a weighted mean of independent draws is that of 1 / (largest weight) equal ones.

    Exactly, over all outcomes of few coins.
    """
    weights, p = np.array([0.35, 0.25, 0.2, 0.15, 0.05]), np.array([0.5, 0.2, 0.3, 0.4, 0.6])
    outcomes = np.array(np.meshgrid(*[[0, 1]] * 5)).reshape(5, -1).T
    chances = np.prod(np.where(outcomes, p, 1 - p), axis=1)
    truth, m = float(weights @ p), 1 / weights.max()
    for delta in (0.05, 0.2, 0.5, 0.9):
        ends = [kl_inverse(float(o @ weights), math.log(1 / delta) / m) for o in outcomes]
        assert chances[np.array(ends) < truth].sum() <= delta


# -- validity ----------------------------------------------------------------------------------


def true_noisy_error(net, sigmas, mean, rng):
    """Error of a linear classifier under noise on two Gaussian classes, a tenth flipped."""
    w, b = (p.detach().double().numpy() for p in net.parameters())
    draws = rng.normal(size=(1000, *w.shape)) * sigmas[0] + w
    offsets = rng.normal(size=(1000, 2)) * sigmas[1] + b
    direction, offset = draws[:, 1] - draws[:, 0], offsets[:, 1] - offsets[:, 0]
    length = np.linalg.norm(direction, axis=1)
    wrong = [norm.cdf(-s * (s * direction @ mean + offset) / length) for s in (1, -1)]
    return 0.1 + 0.8 * float(np.mean(wrong))


def test_the_bound_holds_in_repeated_experiments():
    """200 trainings: the bound fails in no more than delta of them, and it says something."""
    rng, mean = np.random.default_rng(3), np.array([1.5, 0.0, 0.0])
    delta, times, n = 0.05, 200, 400
    failed, naive, useful, bounds = 0, 0, 0, []
    for turn in range(times):
        sign = rng.choice([-1, 1], n)
        x = torch.tensor(sign[:, None] * mean + rng.normal(size=(n, 3)), dtype=torch.float32)
        flipped = rng.random(n) < 0.1
        y = torch.tensor((sign > 0) ^ flipped).long()
        net = nn.Linear(3, 2)
        with torch.no_grad():  # trained in one go: to the nearest class mean
            net.weight.copy_(torch.stack([x[y == k].mean(0) for k in (0, 1)]))
            net.bias.copy_(-net.weight.square().sum(1) / 2)
        start = {n: torch.zeros_like(t) for n, t in state(net).items()}
        found = pac_bayes_bound(
            net, start, [(x, y)], delta=delta, draws=100, seed=turn, sigmas=[0.5],
            families=[("isotropic",), ("isotropic", "distance")][turn % 2],
        )  # fmt: skip
        truth = true_noisy_error(net, list(found.sigmas.values()), mean, rng)
        failed += found.bound < truth
        naive += found.noisy_error < truth
        useful += not found.vacuous
        bounds.append(found.bound)
        assert found.certificate
    assert failed <= delta * times + 2 * math.sqrt(delta * (1 - delta) * times)
    assert useful > 0.5 * times and np.mean(bounds) < 0.5  # it is not trivially true
    assert naive > 0.2 * times  # what holds without paying would have been found out


# -- behaviour ---------------------------------------------------------------------------------


def test_nothing_moved_costs_nothing():
    net, (x, y) = smooth_net(), rows(50, 5, 3)
    found = pac_bayes_bound(net, state(net), [(x, y)])
    errors = float((net(x).argmax(1) != y).double().mean())
    assert found.kl == 0.0 and found.family == "none" and not found.sigmas
    assert found.error == found.noisy_error == found.noisy_error_bound == errors
    assert found.grid == 0.0 and found.draws == math.inf and found.draw_slack == 0.0
    assert found.bound == pytest.approx(kl_inverse(errors, complexity(0.0, 50, 0.05)))
    assert found.sqrt_form == pytest.approx(twins.additive_bound(errors, 0.0, 50, 0.05))


def test_terms_add_up():
    net, (x, y) = smooth_net(), rows(50, 5, 3)
    found = pac_bayes_bound(net, shifted(net, 0.01), [(x[:30], y[:30]), (x[30:], y[30:])], draws=7)
    sizes = {n: p.numel() for n, p in net.named_parameters()}
    assert set(found.sigmas) == set(sizes)  # biases too
    by_hand = {n: sizes[n] * 1e-4 / (2 * s * s) for n, s in found.sigmas.items()}
    assert found.layer_kl == pytest.approx(by_hand, rel=1e-6)
    assert found.kl == pytest.approx(sum(by_hand.values()), rel=1e-6)
    half = found.delta / 2
    assert found.complexity == pytest.approx(
        (found.kl + found.grid + math.log(2 * math.sqrt(50) / half)) / 50
    )
    assert found.draws == pytest.approx(5 * 50 / 30) and found.draws >= 7
    allowed = kl_inverse(found.noisy_error, math.log(1 / half) / found.draws)
    assert found.noisy_error_bound == pytest.approx(allowed)
    assert found.draw_slack == pytest.approx(allowed - found.noisy_error)
    assert found.bound == pytest.approx(kl_inverse(allowed, found.complexity))
    additive = found.noisy_error + math.sqrt(math.log(1 / half) / (2 * found.draws))
    assert found.sqrt_form == pytest.approx(additive + math.sqrt(found.complexity / 2))
    assert found.bound <= found.sqrt_form
    assert len(found.candidates) == 24 and found.guessing == pytest.approx(2 / 3)
    assert json.dumps(found.as_json())


def test_every_choice_is_paid():
    net, data = smooth_net(), [rows(50, 5, 3)]
    start = shifted(net, 0.01)
    options = {"sigmas": [0.1, 0.2], "draws": 5}
    grids = {
        families: pac_bayes_bound(net, start, data, families=families, **options).grid
        for families in (("isotropic",), ("start",), ("distance",))
    }
    assert grids[("isotropic",)] == grids[("start",)] == pytest.approx(math.log(2))
    assert grids[("distance",)] == pytest.approx(4 * math.log(31))
    both = pac_bayes_bound(net, start, data, families=("isotropic", "start"), **options)
    assert both.grid == pytest.approx(math.log(4)) and len(both.candidates) == 4
    best = min(both.candidates, key=lambda c: c.bound)
    assert (both.family, both.sigma) == (best.family, best.sigma)
    assert both.ranking == min(c.sqrt_form for c in both.candidates if c.family == "isotropic")


def test_families_scale_the_noise_as_they_say():
    net, data = smooth_net(), [rows(50, 5, 3)]
    start = shifted(net, 0.01)
    start["2.bias"] = torch.zeros_like(start["2.bias"])
    sizes = {n: p.numel() for n, p in net.named_parameters()}
    rms = {n: float(start[n].square().mean().sqrt()) for n in sizes}
    whole = math.sqrt(sum(rms[n] ** 2 * k for n, k in sizes.items()) / sum(sizes.values()))
    rms["2.bias"] = whole
    found = pac_bayes_bound(net, start, data, families=("start",), sigmas=[0.2], draws=1)
    assert found.sigmas == pytest.approx({n: 0.2 * r for n, r in rms.items()}, rel=1e-6)
    found = pac_bayes_bound(net, start, data, families=("distance",), sigmas=[0.2], draws=1)
    for name, parameter in net.named_parameters():
        far = 0.2 * float((parameter.detach() - start[name]).norm())
        level = math.log2(found.sigmas[name])
        assert level == round(level) and abs(level - math.log2(far)) <= 0.5
    found = pac_bayes_bound(net, start, data, families=("isotropic",), sigmas=[0.2], draws=1)
    assert set(found.sigmas.values()) == {0.2}


def test_it_grows_with_distance_and_falls_with_samples():
    net, (x, y) = smooth_net((5, 3)), rows(400, 5, 3)
    y = net(x).argmax(1)
    near, mid, far = (pac_bayes_bound(net, shifted(net, a), [(x, y)]) for a in (0.01, 0.1, 0.5))
    assert near.bound < mid.bound < far.bound and near.ranking < mid.ranking < far.ranking
    few = pac_bayes_bound(net, shifted(net, 0.1), [(x, y)], max_samples=50)
    assert few.samples == 50 and few.bound > mid.bound
    sure = pac_bayes_bound(net, shifted(net, 0.1), [(x, y)], delta=1e-4)
    assert sure.bound > mid.bound and "99.99 %" in sure.statement
    assert not near.vacuous and near.bound < 0.3


def test_it_is_reproducible_and_the_noise_counts():
    net, (x, _) = smooth_net(), rows(50, 5, 3)
    data = [(x, net(x).argmax(1))]
    start = shifted(net, 0.05)
    a, b, c = (pac_bayes_bound(net, start, data, draws=20, sigmas=[0.3], seed=s) for s in (0, 0, 1))
    assert a == b and a.noisy_error != c.noisy_error
    one = pac_bayes_bound(net, start, data, draws=20, sigmas=[1e-6, 30.0], families=["isotropic"])
    small, large = one.candidates
    assert small.noisy_error == one.error < large.noisy_error


def test_only_what_moved_gets_noise():
    net, (x, y) = smooth_net(), rows(50, 5, 3)
    start = state(net)
    start["2.weight"] -= 0.1
    start["2.bias"] -= 0.1
    head = pac_bayes_bound(net, start, [(x, y)], draws=5)
    assert set(head.sigmas) == {"2.weight", "2.bias"} == set(head.layer_kl)
    with_zero = {n: t for n, t in start.items() if not n.startswith("2")}
    zero = pac_bayes_bound(net, with_zero, [(x, y)], draws=5, from_zero=["2"])
    size = sum(net[2].get_parameter(n).square().sum().item() for n in ("weight", "bias"))
    by_hand = size / (2 * zero.sigma**2) if zero.family == "isotropic" else zero.kl
    assert zero.kl == pytest.approx(by_hand, rel=1e-6)


def test_moved_statistics_make_it_no_certificate():
    net = image_model()
    start = state(net)
    data = images()
    with torch.no_grad():
        net.head.weight.add_(0.1)
    held = pac_bayes_bound(net, start, data, draws=5, sigmas=[0.1])
    assert held.certificate and held.reasons == () and len(held.assumptions) == 3
    net.bn.num_batches_tracked.add_(5)
    assert pac_bayes_bound(net, start, data, draws=5, sigmas=[0.1]).certificate
    net.bn.running_mean.add_(0.1)
    moved = pac_bayes_bound(net, start, data, draws=5, sigmas=[0.1])
    assert not moved.certificate and "'bn.running_mean'" in moved.reasons[0]
    assert moved.statement.startswith("This is no certificate, since the buffers")
    weights = {n: t for n, t in start.items() if "running" not in n}
    unknown = pac_bayes_bound(net, weights, data, draws=5, sigmas=[0.1])
    assert not unknown.certificate and "whether they moved is unknown" in unknown.reasons[0]


def test_it_says_honestly_when_it_says_nothing():
    net, data = smooth_net(), [rows(20, 5, 3)]
    found = pac_bayes_bound(net, shifted(net, 3.0), data, draws=5)
    assert found.vacuous and found.bound > 2 / 3
    assert "This is vacuous: guessing errs on 66.7 %; the weights moved too far" in found.statement
    few = pac_bayes_bound(net, state(net), [rows(1, 5, 3)])
    assert few.vacuous and "the samples are too few" in few.statement
    net, (x, _) = smooth_net((5, 3)), rows(2000, 5, 3)
    good = pac_bayes_bound(net, shifted(net, 0.01), [(x, net(x).argmax(1))], draws=50)
    assert not good.vacuous and good.statement.startswith("With probability 95 % over the draw")
    assert "It says nothing of the network without noise." in good.statement
    assert f"at most {100 * good.bound:.1f} % of new samples" in good.statement


def test_several_labels_and_networks_without_numbers():
    net = smooth_net((5, 4))
    x, _ = rows(60, 5, 3)
    y = (net(x) > 0).double()
    y[:6] = 1 - y[:6]
    found = pac_bayes_bound(
        net, shifted(net, 0.01), [(x, y)], draws=20, loss="binary_cross_entropy"
    )
    assert found.error == pytest.approx(0.1) and found.guessing == 0.5

    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            out = self.head(x)
            return torch.where(out.abs().amax(1, keepdim=True) > 50, torch.nan, out)

    net = seeded(Breaks)
    x, y = rows(30, 5, 3, torch.float32)
    found = pac_bayes_bound(
        net, shifted(net, 0.1), [(x, y)], draws=5, sigmas=[1e4], families=["isotropic"]
    )
    assert found.noisy_error > 0.95  # an output that is no number counts as wrong


def test_bad_input_gets_one_clear_message():
    net, data = smooth_net(), [rows(20, 5, 3)]
    start = shifted(net, 0.1)
    for options, message in (
        ({"delta": 0.0}, "delta must lie between 0 and 1"),
        ({"delta": 1.0}, "delta must lie between 0 and 1"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"sigmas": [-1.0]}, "sigmas must be numbers above 0"),
        ({"families": []}, "families must be some of isotropic, start, distance"),
        ({"families": ["flat"]}, "families must be some of isotropic"),
        ({"from_zero": ["3"]}, "from_zero names '3'"),
    ):
        with pytest.raises(ConfigError, match=message):
            pac_bayes_bound(net, start, data, **options)
    gone = {n: t for n, t in start.items() if not n.endswith("bias")}
    with pytest.raises(ConfigError, match=r"lacks '0\.bias', '2\.bias' \(2 of 4 tensors\)"):
        pac_bayes_bound(net, gone, data)
    x, _ = rows(20, 5, 3)
    with pytest.raises(ConfigError, match="the error counts wrong classes"):
        pac_bayes_bound(net, start, [(x, 5 * x[:, :3])], loss="mse")
