"""Regression of features to random vectors: formula, moments, statistics pass, balance."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from tests.reference import feature_twins as twins
from tether import RandReg, TetherError, attach
from tether.methods.features.feature_norm import feature_norm_penalty
from tether.methods.features.random_regression import random_feature_regression, unit_noise

DOUBLE = torch.float64


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=DOUBLE, generator=source(seed))


# -- formula -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 6), d=st.integers(1, 6), seed=st.integers(0, 99),
    distribution=st.sampled_from(["normal", "laplace", "uniform"]),
    reduction=st.sampled_from(["mean", "sum"]),
)  # fmt: skip
def test_value_agrees_with_the_twin_on_the_same_draw(n, d, seed, distribution, reduction):
    f, mean, std = rows(n, d, seed), rows(1, d, seed + 1)[0], rows(1, d, seed + 2)[0].abs()
    aims = mean + std * unit_noise(f, distribution, source(seed))
    found = random_feature_regression(
        f, mean, std, distribution=distribution, reduction=reduction, generator=source(seed)
    )
    wanted = twins.squared_distance(f.numpy(), aims.numpy(), list(range(n)), reduction)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("distribution", ["normal", "laplace", "uniform"])
def test_noise_has_mean_0_and_variance_1(distribution):
    noise = unit_noise(torch.empty(400_000, dtype=DOUBLE), distribution, source())
    assert abs(noise.mean()) < 0.01
    assert abs(noise.var() - 1) < 0.02
    fourth = {"normal": 3.0, "laplace": 6.0, "uniform": 1.8}[distribution]
    assert noise.pow(4).mean().item() == pytest.approx(fourth, rel=0.05)
    assert torch.isfinite(noise).all()


def test_gradient_is_a_pull_to_the_mean_plus_noise_of_known_size():
    """E dR/df = 2 (f - mean) / (N d), and its variance is (2 std / (N d))^2."""
    f, mean, std = rows(4, 8).requires_grad_(), 0.3, 0.7
    generator, draws = source(1), []
    for _ in range(4000):
        value = random_feature_regression(f, mean, std, generator=generator)
        draws.append(torch.autograd.grad(value, f)[0])
    grads = torch.stack(draws)
    scale = 2 / f.numel()
    error = scale * std / math.sqrt(len(draws))
    assert ((grads.mean(0) - scale * (f.detach() - mean)).abs() < 5 * error).all()
    assert grads.var(0).mean().item() == pytest.approx((scale * std) ** 2, rel=0.02)


def test_mean_value_is_the_closed_form():
    f, std = rows(4, 8), rows(1, 8, 1)[0].abs()
    generator = source(2)
    values = [random_feature_regression(f, 0.5, std, generator=generator) for _ in range(3000)]
    wanted = (f - 0.5).square().mean() + std.square().mean()
    assert torch.stack(values).mean().item() == pytest.approx(wanted.item(), rel=0.01)


def test_without_noise_at_zero_it_is_the_feature_norm_penalty():
    f = rows(5, 3)
    assert torch.equal(random_feature_regression(f, 0.0, 0.0), feature_norm_penalty(f))


def test_gradcheck_and_no_gradient_to_the_prior():
    f = rows(3, 4).requires_grad_()
    mean, std = rows(1, 4)[0].requires_grad_(), torch.ones(4, dtype=DOUBLE, requires_grad=True)
    for loss in ("mse", "smooth_l1"):
        assert torch.autograd.gradcheck(
            lambda x, kind=loss: random_feature_regression(
                x, mean.detach(), std.detach(), loss=kind, generator=source()
            ),
            (f,),
        )
    random_feature_regression(f, mean, std).backward()
    assert mean.grad is None and std.grad is None


def test_smooth_l1_and_rows_that_do_not_count():
    f = torch.tensor([[0.5, 3.0], [9.0, 9.0]])
    mask = torch.tensor([True, False])
    value = random_feature_regression(f, 0.0, 0.0, loss="smooth_l1", mask=mask)
    assert value.item() == pytest.approx((0.125 + 2.5) / 2)


# -- attached ------------------------------------------------------------------------------------

X = torch.randn(24, 4, generator=source(3))
Y = torch.arange(24) % 3


def network(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(4, 8), *middle, nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1)


def run(method, net, steps=4, loss="cross_entropy", y=Y):
    optimizer = sgd(net)
    reg = (
        attach(net, method, optimizer, train_data=TensorDataset(X, y), loss=loss)
        if method
        else None
    )
    for _ in range(steps):
        out = net(X)
        value = reg.loss(out, y) if reg else nn.functional.cross_entropy(out, y)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
    return reg


@pytest.mark.parametrize("balance", [None, "gradient"])
def test_weight_zero_is_plain_training_bit_for_bit(balance):
    plain, net = network(True), network(True)
    torch.manual_seed(5)
    run(None, plain)
    torch.manual_seed(5)
    run(RandReg(weight=0.0, balance=balance), net)
    for a, b in zip(plain.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_pretrained_statistics_are_those_of_the_evaluation_mode():
    net = network(True)
    run(None, net)  # running statistics of the batch norm that differ from the batch's
    net.eval()
    wanted = net[:-1](X).detach()
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    method = RandReg()
    reg = run(method, net, steps=0)
    reg.start_epoch()
    torch.testing.assert_close(method.prior_mean, wanted.mean(0))
    torch.testing.assert_close(method.prior_std, wanted.std(0).clamp(min=1e-6))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training and not method.prior_mean.requires_grad


def test_distributions_reach_the_formula():
    """Mean and variance of the distance, for features held at zero by a closed ReLU."""
    net = nn.Sequential(nn.Linear(4, 2000), nn.ReLU(), nn.Linear(2000, 3))
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].bias.fill_(-1.0)
    expected = {
        "normal": 4.0 + 9.0,
        "uniform": (2.0**3 + 1.0) / 3 / 3,  # E z^2 of U(-1, 2)
        "fixed": 4.0,
    }
    options = {"normal": {"mean": 2.0, "std": 3.0}, "fixed": {"mean": 2.0}}
    for distribution, wanted in expected.items():
        given = options.get(distribution, {"low": -1.0, "high": 2.0})
        reg = run(RandReg(distribution=distribution, **given), net, steps=0)
        reg.loss(net(X), Y)
        assert reg.parts["randreg"].item() == pytest.approx(wanted, rel=0.05)
        reg.detach()


def test_each_step_and_seed_draws_anew_and_repeats():
    values = []
    for seed in (0, 0, 1):
        net = network()[:2].append(nn.Linear(8, 3))
        reg = attach(net, RandReg(distribution="normal"), sgd(net), seed=seed)
        found = []
        for _ in range(2):
            reg.loss(net(X), Y)
            found.append(reg.parts["randreg"].item())
        values.append(found)
    assert values[0] == values[1] != values[2]
    assert values[0][0] != values[0][1]


def balance_by_hand(net, rho):
    features = net[:-1](X)
    logits = net[-1](features)
    task = torch.autograd.grad(nn.functional.cross_entropy(logits, Y), features)[0]
    own = 2 * features / features.numel()
    return (rho * task.norm() / own.norm()).detach(), features.square().mean().detach()


def test_balance_sets_the_ratio_of_the_gradients_and_smooths_it():
    net = network()
    del net[2]
    method = RandReg(distribution="fixed", balance="gradient", rho=0.3, ema=0.9)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    reg = attach(net, method, optimizer)
    ratios = []
    for step in range(3):
        ratio, value = balance_by_hand(net, 0.3)
        ratios.append(ratio)
        reg.loss(net(X), Y).backward()
        shares = torch.tensor([0.1 * 0.9 ** (step - i) for i in range(step + 1)])
        smooth = (torch.stack(ratios) * shares).sum() / shares.sum()
        torch.testing.assert_close(reg.parts["randreg"], smooth * value, rtol=1e-5, atol=0)
        assert reg.measure()["randreg"]["strength"] == pytest.approx(smooth.item(), rel=1e-5)
        optimizer.step()
        optimizer.zero_grad()
    assert ratios[0] != ratios[2]


def test_balance_works_under_autocast_and_for_other_losses():
    net = network()
    y = torch.nn.functional.one_hot(Y, 3).float()
    for loss, targets in (("binary_cross_entropy", y), ("mse", y), ("cross_entropy", Y)):
        method = RandReg(distribution="normal", balance="gradient")
        reg = attach(net, method, sgd(net), loss=loss)
        with torch.autocast("cpu", torch.bfloat16):
            out = net(X)
        reg.loss(out, targets).backward()
        assert reg.parts["randreg"] > 0
        reg.detach()


def test_state_is_saved_and_goes_on_bit_for_bit(tmp_path):
    def fresh():
        net = network()
        optimizer = sgd(net)
        method = RandReg(balance="gradient")
        return (
            net,
            optimizer,
            method,
            attach(net, method, optimizer, train_data=TensorDataset(X, Y)),
        )

    def steps(net, optimizer, reg, n):
        for _ in range(n):
            reg.loss(net(X), Y).backward()
            optimizer.step()
            optimizer.zero_grad()

    net, optimizer, method, reg = fresh()
    steps(net, optimizer, reg, 3)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    reg.save(tmp_path / "state")
    steps(net, optimizer, reg, 3)
    again, second, other, resumed = fresh()
    again.load_state_dict(weights)
    resumed.load(tmp_path / "state")
    steps(again, second, resumed, 3)
    for name in method.declared_state():
        assert torch.equal(getattr(method, name), getattr(other, name))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_refusals():
    with pytest.raises(ValueError, match=r"mean=1\.0 has no meaning for distribution='pretrained'"):
        RandReg(mean=1.0)
    with pytest.raises(ValueError, match="low and high have no meaning"):
        RandReg(distribution="normal", low=-1.0)
    with pytest.raises(ValueError, match="distribution='gauss' is not one of"):
        RandReg(distribution="gauss")
    with pytest.raises(ValueError, match="ema"):
        RandReg(balance="gradient", ema=1.0)
    net = network()
    with pytest.raises(TetherError, match=r"reads the training data: attach\(\.\.\., train_data"):
        attach(net, RandReg(), sgd(net))
    with pytest.raises(TetherError, match="not on tokens: leave balance=None"):
        attach(
            net, RandReg(distribution="normal", balance="gradient"),
            sgd(net), loss="token_cross_entropy",
        )  # fmt: skip
