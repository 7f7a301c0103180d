"""Noise stability against closed forms and twins; draws in pairs; profiles; refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from tests.measure.models import half_square, image_model, images, rows, seeded, smooth_net
from tests.reference import perturbation_twins as twins
from tether.errors import ConfigError
from tether.measure import noise_stability, noise_stability_difference
from tether.measure.intervals import means, t_quantile
from tether.measure.weights import Perturbation, chosen_weights


def linear(n=12, d=4, k=3, seed=0):
    """A linear model in float64 whose targets are its outputs and some noise."""
    net = seeded(lambda: nn.Linear(d, k, bias=False).double(), seed)
    x, _ = rows(n, d, k)
    y = net(x).detach() + 0.3 * rows(n, k, 2, seed=9)[0]
    return net, x, y


def drawn(net, seed, count):
    """The noise of each draw, as the measure takes it."""
    weights = chosen_weights(net)
    with Perturbation(weights, seed) as noise:
        for r in range(count):
            noise.draw("noise", r)
            yield [u.clone().numpy() for u in noise.noise]


@pytest.mark.parametrize("antithetic", [True, False])
def test_parity_with_the_twin(antithetic):
    net, x, y = linear()
    sigmas = (1e-3, 0.1, 1.0)
    found = noise_stability(
        net, [(x[:5], y[:5]), (x[5:], y[5:])], sigmas=sigmas, draws=3, loss=half_square,
        antithetic=antithetic, seed=4,
    )  # fmt: skip
    w = net.weight.detach().numpy()
    assert found.loss == pytest.approx(twins.quadratic_loss(x.numpy(), y.numpy(), w), rel=1e-9)
    signs = (1, -1) if antithetic else (1,)
    for r, (u,) in enumerate(drawn(net, 4, 3)):
        for s, sigma in enumerate(sigmas):
            twin = twins.noisy_increase(x.numpy(), y.numpy(), w, u, sigma, signs)
            assert found.curve.draws[s, r] == pytest.approx(twin, rel=1e-6, abs=1e-14)
    assert found.curve.perturbed == pytest.approx(found.loss + found.curve.increase)


def test_a_quadratic_loss_grows_by_half_the_trace():
    net, x, y = linear(40, 6, 3)
    sigmas = (1e-3, 1e-2, 1e-1)
    found = noise_stability(net, [(x, y)], sigmas=sigmas, draws=400, loss=half_square)
    trace = twins.quadratic_trace(x.numpy(), 3)
    for s, sigma in enumerate(sigmas):
        error = found.curve.standard_error[s]
        assert abs(found.curve.increase[s] - sigma**2 / 2 * trace) < 3 * error
        assert error < 0.05 * found.curve.increase[s]
        assert found.curve.low[s] < found.curve.increase[s] < found.curve.high[s]
    # the same draws at every sigma: exactly quadratic, draw by draw
    scaled = found.curve.draws / np.square(sigmas)[:, None]
    assert np.allclose(scaled, scaled[0], rtol=1e-6)


@pytest.mark.parametrize("act", [nn.Tanh, nn.GELU])
def test_smooth_networks_obey_the_second_order_identity(act):
    net = smooth_net((6, 8, 4), act)
    x, y = rows(30, 6, 4)
    found = noise_stability(net, [(x, y)], sigmas=[1e-3], draws=20)
    weights = chosen_weights(net)

    def loss(*tensors):
        named = dict(zip(weights, tensors, strict=True))
        return nn.functional.cross_entropy(torch.func.functional_call(net, named, (x,)), y)

    hessian = torch.autograd.functional.hessian(loss, tuple(weights.values()))
    sizes = [w.numel() for w in weights.values()]
    whole = np.block(
        [[h.reshape(a, -1).numpy() for h in r] for a, r in zip(sizes, hessian, strict=True)]
    )
    for r, noise in enumerate(drawn(net, 0, 20)):  # exact draw by draw, not on average alone
        u = np.concatenate([part.flatten() for part in noise])
        assert found.curve.draws[0, r] == pytest.approx(0.5e-6 * u @ whole @ u, rel=1e-3, abs=1e-10)


def test_intervals_are_students_and_cover_the_truth():
    rng = np.random.default_rng(0)
    for freedom in (1, 2, 3, 7, 20, 199):
        for level in (0.5, 0.9, 0.95, 0.999):
            expected = scipy.stats.t.ppf((1 + level) / 2, freedom)
            assert t_quantile(level, freedom) == pytest.approx(expected, rel=1e-9)
    found = means(rng.normal(2.0, 3.0, (2000, 6)), 0.9)
    covered = ((found.low < 2) & (found.high > 2)).mean()
    assert abs(covered - 0.9) < 3 * math.sqrt(0.09 / 2000)
    low, high = scipy.stats.t.interval(0.95, 2, loc=2, scale=1 / math.sqrt(3))
    one = means(np.array([1.0, 2.0, 3.0]), 0.95)
    assert float(one.low) == pytest.approx(low) and float(one.high) == pytest.approx(high)


def test_one_draw_tells_no_error():
    net, x, y = linear()
    curve = noise_stability(net, [(x, y)], sigmas=[0.1], draws=1, loss=half_square).curve
    assert curve.increase[0] > 0
    assert np.isnan([curve.standard_error[0], curve.low[0], curve.high[0]]).all()


def test_antithetic_draws_are_far_surer():
    net, x, y = linear()
    y = y + 5.0  # a steep place
    both, one = (
        noise_stability(net, [(x, y)], sigmas=[1e-3], loss=half_square, antithetic=a).curve
        for a in (True, False)
    )
    assert both.standard_error[0] < one.standard_error[0] / 100


# -- pairs -------------------------------------------------------------------------------------


def test_draws_depend_on_seed_and_name_alone():
    small = nn.Sequential(nn.Linear(3, 2))
    large = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 5)).double()
    a, b, other = (next(drawn(n, s, 1)) for n, s in ((small, 1), (large, 1), (small, 2)))
    assert np.array_equal(a[0], b[0].astype(np.float32)) and len(b) == 2
    assert not np.allclose(a[0], other[0])
    first, second = list(drawn(small, 1, 2))
    assert not np.allclose(first[0], second[0])
    flat = nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(2, 2, 3)
    assert np.array_equal(next(drawn(flat, 1, 1))[0], next(drawn(plain, 1, 1))[0])


def test_a_paired_comparison_is_surer_than_two_alone():
    net, x, y = linear()
    wider = [(1.1 * x, y)]
    a = noise_stability(net, wider, sigmas=[0.1, 0.2], loss=half_square)
    b = noise_stability(net, [(x, y)], sigmas=[0.1, 0.2], loss=half_square)
    found = noise_stability_difference(a, b)
    assert found.difference == pytest.approx(a.curve.increase - b.curve.increase)
    assert found.difference == pytest.approx(0.21 * b.curve.increase)
    assert (found.standard_error < 0.22 * b.curve.standard_error).all()
    assert (found.low > 0).all() and json.dumps(found.as_json())
    again = noise_stability_difference(a, a)
    assert not again.difference.any() and not again.high.any()


@pytest.mark.parametrize("other", [{"sigmas": [0.2]}, {"seed": 1}, {"relative": True}, {"antithetic": False}, {"layers": "all"}, {"max_samples": 5}, {"draws": 3}])  # fmt: skip # noqa: E501
def test_what_was_not_measured_alike_is_not_compared(other):
    net = smooth_net()
    data = [rows(8, 5, 3)]
    common = {"sigmas": [0.1], "draws": 2}
    a, b = noise_stability(net, data, **common), noise_stability(net, data, **(common | other))
    name = {"layers": "tensors", "max_samples": "samples"}.get(*[next(iter(other))] * 2)
    with pytest.raises(ConfigError, match=f"differ in {name}"):
        noise_stability_difference(a, b)


# -- which weights -----------------------------------------------------------------------------


def test_all_tensors_of_two_dimensions_are_taken_shortcuts_too():
    net = image_model()
    found = noise_stability(net, images(), sigmas=[0.1], draws=1, per_layer=True)
    names = ("stem.weight", "block.weight", "downsample.weight", "head.weight")
    assert found.tensors == names and tuple(found.profile) == names
    every = noise_stability(net, images(), sigmas=[0.1], draws=1, layers="all")
    assert set(every.tensors) == {n for n, _ in net.named_parameters()}
    some = noise_stability(net, images(), sigmas=[0.1], draws=1, layers=["head", "bn.weight"])
    assert some.tensors == ("bn.weight", "head.weight")


def test_a_profile_is_what_each_layer_gives_alone():
    net, data = smooth_net((5, 7, 6, 3)), [rows(10, 5, 3)]
    options = {"sigmas": [0.05, 0.5], "draws": 3, "seed": 2}
    found = noise_stability(net, data, per_layer=True, **options)
    for name, curve in found.profile.items():
        alone = noise_stability(net, data, layers=[name], **options)
        assert np.array_equal(curve.draws, alone.curve.draws)
    plain = noise_stability(net, data, **options)
    assert np.array_equal(plain.curve.draws, found.curve.draws) and plain.profile == {}
    grouped = noise_stability(net, data, per_layer="group", **options)
    assert list(grouped.profile)[-1] == "head" and len(grouped.profile) == 3
    assert np.array_equal(grouped.profile["head"].draws, found.profile["4.weight"].draws)


def test_relative_noise_follows_the_size_of_each_tensor():
    net, x, y = linear()
    w = net.weight.detach()
    rms = float(w.square().mean().sqrt())
    plain = noise_stability(net, [(x, y)], sigmas=[0.1 * rms], draws=3, loss=half_square)
    own = noise_stability(net, [(x, y)], sigmas=[0.1], draws=3, loss=half_square, relative=True)
    assert own.curve.draws == pytest.approx(plain.curve.draws, rel=1e-6)
    far = noise_stability(
        net, [(x, y)], sigmas=[0.1], draws=3, loss=half_square, relative=True,
        reference={"weight": 3 * w},
    )  # fmt: skip
    assert far.curve.draws == pytest.approx(9 * plain.curve.draws, rel=1e-6)
    new = noise_stability(
        net, [(x, y)], sigmas=[0.1], draws=3, loss=half_square, relative=True,
        reference={"weight": 0 * w},
    )  # fmt: skip
    assert new.own_scale == ("weight",) and np.array_equal(new.curve.draws, own.curve.draws)


def test_relative_noise_does_not_see_the_scale_before_batch_norm():
    net, data = image_model().double(), [(x.double(), y) for x, y in images()]
    options = {"sigmas": [0.1], "draws": 3, "layers": ["stem"]}
    before = [noise_stability(net, data, relative=r, **options).curve.increase for r in (0, 1)]
    with torch.no_grad():  # batch norm in evaluation mode divides by its own statistics
        for t in (net.stem.weight, net.stem.bias, net.bn.running_mean):
            t.mul_(10.0)
        net.bn.running_var.mul_(100.0).add_(99 * net.bn.eps)
    after = [noise_stability(net, data, relative=r, **options).curve.increase for r in (0, 1)]
    assert after[1] == pytest.approx(before[1], rel=1e-6)
    assert abs(after[0] / before[0] - 1) > 0.5


def test_noise_that_blows_a_network_up_is_told_as_such():
    net, x, y = linear()
    loss = lambda z, t: half_square(z, t) + torch.where(z.abs().sum(1) > 1e3, math.inf, 0.0)  # noqa: E731
    found = noise_stability(net, [(x, y)], sigmas=[1e-3, 1e6], draws=2, loss=loss)
    assert np.isfinite(found.curve.increase[0]) and np.isinf(found.curve.increase[1])
    assert found.as_json()["curve"]["increase"][1] == math.inf


def test_tied_weights_get_one_noise():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(self.a(x).tanh())

    found = noise_stability(seeded(Tied), [rows(6, 4, 4, torch.float32)], sigmas=[0.1], draws=1)
    assert found.tensors == ("a.weight",)


def test_bad_options_get_one_clear_message():
    net, data = smooth_net(), [rows(4, 5, 3)]
    for options, message in (
        ({"sigmas": []}, "sigmas must be numbers above 0"),
        ({"sigmas": [0.0]}, "sigmas must be numbers above 0"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"level": 1.0}, "level must lie between 0 and 1"),
        ({"per_layer": "groups"}, "per_layer must be True, False or 'group'"),
        ({"layers": ["2.wieght"]}, r"names '2\.wieght', .* did you mean '2\.weight'"),
        ({"layers": []}, "layers is empty"),
        ({"relative": True, "reference": {"0.weight": torch.ones(7, 5)}}, r"lacks '2\.weight'"),
        (
            {"relative": True, "reference": {"0.weight": torch.ones(1), "2.weight": torch.ones(1)}},
            r"shape \(7, 5\), in the reference \(1,\)",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            noise_stability(net, data, **options)
    with pytest.raises(ConfigError, match="no weight tensors"):
        noise_stability(nn.Sequential(nn.LayerNorm(5)), data)


def test_results_are_plain():
    net, data = smooth_net(), [rows(4, 5, 3)]
    found = noise_stability(net, data, sigmas=[0.1], draws=2, per_layer=True).as_json()
    assert json.loads(json.dumps(found)) == found
    assert (
        set(found["profile"]) == {"0.weight", "2.weight"} and len(found["curve"]["draws"][0]) == 2
    )
