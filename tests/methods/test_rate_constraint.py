from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import nn

from tests.methods.noisy_digits import images
from tests.reference import sparse_twins as twins
from tether import RateConstraint, attach
from tether.functional import deepshape_, estimate_gg_shape, gg_normal_, rf8_quantize
from tether.measure import exp_golomb_bits, exp_golomb_lengths
from tether.methods.weights.gg_prior import moments_of, shape_of_moments
from tether.methods.weights.rate_constraint import rate_step


@pytest.mark.parametrize("proximal", [True, False])
@pytest.mark.parametrize(("nu", "eps"), [(0.4, 1.0), (1.0, 0.1), (2.0, 0.0)])
def test_the_step_agrees_with_its_twin(nu: float, eps: float, proximal: bool) -> None:
    w = np.random.default_rng(0).normal(size=50)
    w[3] = 0.0
    t = torch.from_numpy(w)
    found = t - rate_step(t, 0.3, nu, eps=eps, proximal=proximal)
    np.testing.assert_allclose(found.numpy(), twins.backslash(w, 0.3, nu, eps, proximal), atol=1e-9)


def test_the_step_is_the_slope_of_the_rate_and_weight_decay_for_a_gaussian() -> None:
    w = torch.randn(30, dtype=torch.float64, requires_grad=True)
    (w.abs() + 0.2).pow(0.7).sum().mul(0.05).backward()
    torch.testing.assert_close(rate_step(w.detach(), 0.05, 0.7, eps=0.2, proximal=False), w.grad)
    torch.testing.assert_close(rate_step(w.detach(), 0.05, 2.0, eps=0.0), 0.1 * w.detach())


@pytest.mark.parametrize("shape", [0.5, 1.0, 1.5, 2.0])
def test_the_shape_of_drawn_weights_is_found(shape: float) -> None:
    draw = torch.Generator().manual_seed(0)
    drawn = gg_normal_(torch.empty(500, 400), shape, generator=draw)
    found, scale = estimate_gg_shape([drawn[:200], drawn[200:]])
    assert found == pytest.approx(shape, abs=0.04)
    assert float(drawn.var()) == pytest.approx(2.0 / 400, rel=0.05)
    assert found == pytest.approx(twins.gg_shape(drawn.double().numpy().ravel()), abs=1e-3)
    if shape == 2.0:  # the scale of a Gaussian is sqrt(2) deviations; its kurtosis 3
        assert scale == pytest.approx((2 * 2.0 / 400) ** 0.5, rel=0.02)
        assert float(drawn.double().pow(4).mean() / drawn.double().var() ** 2) == pytest.approx(
            3.0, abs=0.1
        )
    fan_out = gg_normal_(torch.empty(50, 400, 3, 3), shape, mode="fan_out", generator=draw)
    assert float(fan_out.var()) == pytest.approx(2.0 / (50 * 9), rel=0.1)


def test_shapes_without_weights_are_laplace_and_extremes_are_clamped() -> None:
    assert shape_of_moments(moments_of(torch.zeros(5))) == 1.0
    assert float(shape_of_moments(moments_of(torch.ones(5)))) == pytest.approx(3.0)
    lonely = torch.zeros(10**6).index_fill_(0, torch.tensor([7]), 1.0)
    assert float(shape_of_moments(moments_of(lonely))) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="shape above 0"):
        gg_normal_(torch.empty(2, 2), 0.0)


def test_code_lengths() -> None:
    numbers = torch.arange(300)
    for k in (0, 1, 4):
        wanted = [twins.exp_golomb_length(n, k) for n in range(300)]
        assert exp_golomb_lengths(numbers, k).tolist() == wanted
    assert exp_golomb_lengths(torch.tensor([0, 1, 2, 3, 7])).tolist() == [1, 3, 3, 5, 7]


def test_bits_agree_with_their_twin_and_best_is_best() -> None:
    w = 0.01 * np.random.default_rng(0).normal(size=400)
    rates = {k: exp_golomb_bits([torch.from_numpy(w)], k=k) for k in range(9)}
    for k, rate in rates.items():
        bits, entropy = twins.coding_rate(w, 13, k)
        assert (rate.bits, rate.entropy) == pytest.approx((bits, entropy))
    best = exp_golomb_bits([torch.from_numpy(w[:200]), torch.from_numpy(w[200:])])
    assert best.bits == min(rate.bits for rate in rates.values()) and best.bits >= best.entropy
    for options in ({"frac_bits": 30}, {"k": -1}):
        with pytest.raises(ValueError, match="must"):
            exp_golomb_bits([torch.zeros(1)], **options)
    with pytest.raises(ValueError, match="no weights"):
        exp_golomb_bits([])


def test_two_powers_of_two_survive_eight_bits() -> None:
    exact = [s * 2.0**e + r * 2.0 ** (e - g) for s in (1, -1) for r in (0, 1, -1) if True
             for e in (-5, 0, 3) for g in (1, 2, 3, 4) if s * r >= 0]  # fmt: skip
    values = torch.tensor([*exact, 0.0])
    # 2^e + 2^(e-1) lies half-way between two powers and may round to either first
    assert torch.equal(rf8_quantize(rf8_quantize(values)), rf8_quantize(values))
    keep = torch.tensor([0.0, 1.0, -0.5, 1.25, -1.125, 1.0625, 0.75])
    assert torch.equal(rf8_quantize(keep), keep)
    x = torch.logspace(-2, 0.6, 4001, dtype=torch.float64)
    error = ((rf8_quantize(x) - x) / x).abs()
    assert error.max() < 0.11 and error.mean() < 0.04


def test_deepshape_keeps_the_order_and_shortens_the_code() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 10))
    gg_normal_(model[0].weight.data, 1.5)
    before, bias = model[0].weight.detach().clone().flatten(), model[0].bias.detach().clone()
    bits = exp_golomb_bits([before])
    deepshape_(model, min_count=5)
    after = model[0].weight.detach().flatten()
    order = before.argsort()
    assert (after[order].diff() >= 0).float().mean() > 0.999  # ties at the edge of the levels
    assert exp_golomb_bits([after]).bits < bits.bits - 0.3
    assert torch.equal(model[0].bias.detach(), bias)
    kept = model[0].weight.detach().clone()
    deepshape_(model, min_count=10**9)  # no level is common: nothing changes
    assert torch.equal(model[0].weight.detach(), kept)


# -- attached ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "weight must be >= 0"),
        ({"shape": 5.0}, "shape must be"),
        ({"shape": "laplace"}, "shape must be"),
        ({"eps": -1.0}, "eps"),
        ({"every": 0}, "every"),
        ({"scope": "model"}, "scope"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RateConstraint(**options)  # type: ignore[arg-type]


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def train(
    model: nn.Module, methods: list, steps: int, lr: float = 0.02, seed: int = 0
) -> dict[str, float]:
    """What the method measures at the end, and the accuracy on the rest of the digits."""
    x, y = images()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    draw = torch.Generator().manual_seed(seed)
    with attach(model, methods, optimizer, total_steps=steps) as reg:
        for _ in range(steps):
            rows = torch.randint(1200, (64,), generator=draw)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        numbers = reg.measure().get("rate_constraint", {})
    right = (model(x[1200:]).argmax(1) == y[1200:]).float().mean()
    return {**numbers, "accuracy": float(right)}


@functools.cache
def pretrained(seed: int) -> dict[str, torch.Tensor]:
    model = net(seed)
    train(model, [], 300, lr=0.05, seed=seed)
    return model.state_dict()


def started(seed: int) -> nn.Sequential:
    model = net(seed)
    model.load_state_dict(pretrained(seed))
    return model


def test_weights_take_far_fewer_bits_at_nearly_the_same_accuracy() -> None:
    rows = []
    for seed in range(3):
        plain, pressed = started(seed), started(seed)
        first, second = train(plain, [], 250), train(pressed, [RateConstraint(1e-3)], 250)
        kernels = [[m[0].weight, m[2].weight] for m in (plain, pressed)]
        bits = [exp_golomb_bits(k).bits for k in kernels]
        shapes = [estimate_gg_shape(k)[0] for k in kernels]
        assert second["bits"] == pytest.approx(bits[1])
        rows.append((bits[1] / bits[0], shapes[1] / shapes[0],
                     second["accuracy"] - first["accuracy"]))  # fmt: skip
    assert max(r[0] for r in rows) < 0.6 and max(r[1] for r in rows) < 0.5, rows
    assert np.mean([r[2] for r in rows]) > -0.015, rows


def test_the_change_is_pressed_instead_and_scopes_and_shapes() -> None:
    model = started(0)
    start = [p.detach().clone() for p in model.parameters()]
    method = RateConstraint(3e-4, relative_to_reference=True, scope="tensor", estimate_every=5)
    found = train(model, [method], 100)
    assert len(method.nu) == 2 and found["bits"] < 8
    still = (model[0].weight.detach() - start[0]).abs() < 1e-7
    assert still.float().mean() > 0.4
    fixed = RateConstraint(3e-4, shape=1.0, include="0.*")
    train(started(0), [fixed], 3)
    assert fixed.nu.tolist() == [1.0]


def test_no_weight_is_plain_training_bit_for_bit() -> None:
    first, second = started(0), started(0)
    train(first, [], 5)
    train(second, [RateConstraint(0.0)], 5)
    assert torch.equal(first[0].weight, second[0].weight)
