"""Hessian traces and products along distances, against full Hessians and closed forms."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.measure.models import half_square, image_model, images, rows, seeded, smooth_net
from tests.reference import perturbation_twins as twins
from tether.errors import ConfigError, TetherError
from tether.measure import hessian_distance, hessian_trace, noise_stability
from tether.measure.weights import chosen_weights


def full_hessian(net, x, y, loss=nn.functional.cross_entropy):
    """Blocks ``[i][j]`` of the Hessian over all weight tensors, as matrices."""
    weights = chosen_weights(net)

    def value(*tensors):
        named = dict(zip(weights, tensors, strict=True))
        return loss(torch.func.functional_call(net, named, (x,)), y)

    blocks = torch.autograd.functional.hessian(value, tuple(weights.values()))
    sizes = [w.numel() for w in weights.values()]
    return [[blocks[i][j].reshape(a, b) for j, b in enumerate(sizes)] for i, a in enumerate(sizes)]


def moved(net, amount=0.3):
    """A start that a network may have had."""
    rng = torch.Generator().manual_seed(5)
    state = net.state_dict()
    return {
        n: t - amount * torch.randn(t.shape, generator=rng, dtype=t.dtype)
        for n, t in state.items()
        if t.is_floating_point()
    }


def test_a_linear_model_has_the_trace_of_its_inputs():
    net = seeded(lambda: nn.Linear(4, 3, bias=False).double())
    x, _ = rows(20, 4, 3)
    y = rows(20, 3, 2, seed=9)[0]
    found = hessian_trace(net, [(x[:7], y[:7]), (x[7:], y[7:])], loss=half_square, max_draws=200)
    trace = twins.quadratic_trace(x.numpy(), 3)
    assert abs(found.trace[0] - trace) < 3 * found.standard_error[0] + 1e-12
    assert found.total == found.trace[0] and found.method == "autograd"
    assert found.samples == 20 and found.converged and len(found.draws) < 200
    # with inputs along the axes the Hessian is diagonal, and every draw exact
    exact = hessian_trace(net, [(2 * torch.eye(4).double(), y[:4])], loss=half_square)
    assert exact.draws == pytest.approx(np.full((20, 1), 3 * 4.0)) and exact.converged


def test_a_logistic_head_has_its_closed_form():
    net = seeded(lambda: nn.Linear(5, 4).double())
    x, y = rows(30, 5, 4)
    found = hessian_trace(net, [(x, y)], max_draws=400, rtol=0.01)
    twin = twins.softmax_trace(x.numpy(), *(p.detach().numpy() for p in net.parameters()))
    assert abs(found.trace[0] - twin) < 3 * found.standard_error[0]
    assert found.standard_error[0] < 0.05 * twin


@pytest.mark.parametrize("method", ["autograd", "finite_difference"])
def test_block_sums_are_those_of_the_full_hessian(method):
    net, (x, y) = smooth_net((5, 7, 3)), rows(24, 5, 3)
    found = hessian_trace(
        net, [(x[:9], y[:9]), (x[9:], y[9:])], max_draws=300, rtol=0, method=method
    )
    blocks = full_hessian(net, x, y)
    for i, name in enumerate(found.layers):
        exact = float(blocks[i][i].trace())
        assert abs(found.trace[i] - exact) < 3 * found.standard_error[i], name
    total = sum(float(blocks[i][i].trace()) for i in range(2))
    assert abs(found.total - total) < 3 * found.total_standard_error
    assert found.draws.shape == (300, 2) and not found.converged
    # each draw exactly: v' H v by layers
    assert found.draws.sum(1) == pytest.approx(drawn_products(net, blocks, 300), rel=1e-5)


def drawn_products(net, blocks, count):
    from tether.measure.weights import Perturbation

    weights, values = chosen_weights(net), []
    with Perturbation(weights, 0) as noise:
        for r in range(count):
            noise.draw("hessian", r)
            v = [torch.where(u >= 0, 1.0, -1.0).flatten().double() for u in noise.noise]
            values.append(
                sum(float(a @ blocks[i][j] @ b) for i, a in enumerate(v) for j, b in enumerate(v))
            )
    return values


def test_differences_of_gradients_agree_in_float32():
    net, (x, y) = smooth_net((5, 7, 3), dtype=torch.float32), rows(24, 5, 3, torch.float32)
    a, b = (
        hessian_trace(net, [(x, y)], max_draws=20, method=m).draws
        for m in ("autograd", "finite_difference")
    )
    assert b == pytest.approx(a, rel=0.02, abs=0.02 * np.abs(a).mean())


@pytest.mark.parametrize("act", [nn.Tanh, nn.GELU])
def test_trace_and_noise_stability_of_smooth_networks_agree(act):
    net = smooth_net((20, 12, 10), act)  # many directions of like curvature: precise estimates
    data = [rows(200, 20, 10)]
    trace = hessian_trace(net, data, max_draws=800, rtol=0.012)
    noise = noise_stability(net, data, sigmas=[1e-3], draws=800)
    assert trace.total_standard_error < 0.02 * trace.total
    assert noise.curve.standard_error[0] < 0.02 * noise.curve.increase[0]
    assert 2e6 * noise.curve.increase[0] == pytest.approx(trace.total, rel=0.05)


def test_the_largest_batch_counts_where_asked():
    net = seeded(lambda: nn.Linear(4, 3, bias=False).double())
    x = torch.eye(4).double()
    y = torch.zeros(4, 3).double()
    data = [(x, y), (3 * x, y), (2 * x, y)]
    mean, most = (hessian_trace(net, data, loss=half_square, reduction=r) for r in ("mean", "max"))
    assert most.total == pytest.approx(3 * 9) and mean.total == pytest.approx(3 * (1 + 9 + 4) / 3)
    parts = hessian_trace(net, data, loss=half_square, reduction="max", micro_batch=1)
    assert parts.total == pytest.approx(3 * 9)
    uneven = [(3 * x, y), (x[:1], y[:1])]
    weighed = hessian_trace(net, uneven, loss=half_square)
    assert weighed.total == pytest.approx(3 * (4 * 9 + 1) / 5)


def test_it_stops_by_the_standard_error_never_by_chance_early():
    net, data = smooth_net((5, 7, 3)), [rows(24, 5, 3)]
    loose, tight = (hessian_trace(net, data, rtol=r, max_draws=400) for r in (10.0, 0.15))
    assert loose.converged and len(loose.draws) == 20 < len(tight.draws)
    assert tight.total_standard_error <= 0.15 * tight.total
    few = hessian_trace(net, data, rtol=1e9, max_draws=7)
    assert len(few.draws) == 7 and not few.converged
    one = hessian_trace(net, data, max_draws=1)
    assert np.isnan(one.standard_error).all() and np.isnan(one.total_standard_error)


def test_draws_are_reproducible_whatever_is_measured_beside():
    net, data = smooth_net((5, 7, 3)), [rows(24, 5, 3)]
    a, b = hessian_trace(net, data, max_draws=12), hessian_trace(net, data, max_draws=25, rtol=0)
    assert np.array_equal(a.draws, b.draws[:12])
    other = hessian_trace(net, data, max_draws=12, seed=1)
    assert not np.allclose(a.draws, other.draws)


class Once(torch.autograd.Function):
    """tanh without a second derivative."""

    @staticmethod
    def forward(ctx, x):
        y = x.tanh()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (y,) = ctx.saved_tensors
        return grad * (1 - y * y)


class Silent(torch.autograd.Function):
    """tanh whose gradient autograd takes for a constant, without saying so."""

    @staticmethod
    def forward(ctx, x):
        y = x.tanh()
        ctx.y = y.detach()
        return y

    @staticmethod
    def backward(ctx, grad):
        return torch.from_numpy(grad.detach().numpy() * (1 - ctx.y.numpy() ** 2))


class OnceNet(nn.Module):
    def __init__(self, act=Once):
        super().__init__()
        self.first, self.head, self.act = nn.Linear(5, 7), nn.Linear(7, 3), act

    def forward(self, x):
        return self.head(self.act.apply(self.first(x)))


def test_a_backward_that_hides_its_derivative_is_not_believed():
    net, smooth = seeded(lambda: OnceNet(Silent).double()), smooth_net((5, 7, 3))
    smooth[0], smooth[2] = net.first, net.head
    x, y = rows(24, 5, 3)
    exact = hessian_distance(smooth, moved(smooth), [(x, y)])
    start = {n.replace("0", "first").replace("2", "head"): t for n, t in moved(smooth).items()}
    found = hessian_distance(net, start, [(x, y)])
    assert found.method == "finite_difference"
    assert found.curvature == pytest.approx(exact.curvature, rel=1e-4)


def test_a_layer_without_second_derivative_is_measured_by_differences():
    net, smooth = seeded(lambda: OnceNet().double()), smooth_net((5, 7, 3))
    smooth[0], smooth[2] = net.first, net.head
    x, y = rows(24, 5, 3)
    found = hessian_trace(net, [(x, y)], max_draws=20)
    assert found.method == "finite_difference"
    assert net.first.weight.requires_grad and net.first.weight.grad is None
    with pytest.raises(TetherError, match="no second derivative .*finite_difference"):
        hessian_trace(net, [(x, y)], method="autograd")
    start = moved(net)
    along = hessian_distance(net, start, [(x, y)])
    smooth_start = {n.replace("first", "0").replace("head", "2"): t for n, t in start.items()}
    exact = hessian_distance(smooth, smooth_start, [(x, y)])
    assert along.method == "finite_difference" and exact.method == "autograd"
    assert along.curvature == pytest.approx(exact.curvature, rel=1e-4)


def test_attention_and_frozen_layers():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 12)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            q, k, v = self.inner(x).chunk(3, -1)
            out = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.head(out.mean(1))

    net = seeded(Attends)
    net.inner.requires_grad_(False)
    x = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(0))
    found = hessian_trace(net, [(x, torch.tensor([0, 1, 2, 0, 1, 2]))], max_draws=3)
    assert found.method == "autograd" and found.layers == ("inner.weight", "head.weight")
    assert np.abs(found.trace).min() > 0
    assert not net.inner.weight.requires_grad and net.head.weight.requires_grad


def test_a_loss_that_is_linear_in_the_weights_has_none():
    net, (x, y) = smooth_net((5, 3)), rows(6, 5, 3)
    linear = lambda z, t: z.sum(1)  # noqa: E731
    for method in ("autograd", "finite_difference"):
        found = hessian_trace(net, [(x, y)], loss=linear, max_draws=30, method=method)
        assert found.total == pytest.approx(0.0, abs=1e-8)
    none = hessian_trace(net, [(x, y)], loss=lambda z, t: 0 * z.detach().sum(1), max_draws=3)
    assert none.total == 0.0


# -- along the distance ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["autograd", "finite_difference"])
def test_products_along_the_distance_are_those_of_the_full_hessian(method):
    net, (x, y) = smooth_net((5, 7, 6, 3)), rows(24, 5, 3)
    start = moved(net)
    data = [(x[:9], y[:9]), (x[9:], y[9:])]
    weights = chosen_weights(net)
    v = [(w.detach() - start[n]).flatten() for n, w in weights.items()]
    v[-1] = list(weights.values())[-1].detach().flatten()  # the head is new: from zero
    parts = [full_hessian(net, *part) for part in data]
    own = np.array([[float(a @ h[i][i] @ a) for i, a in enumerate(v)] for h in parts])
    cross = np.array(
        [
            [float(a @ sum(h[i][j] @ b for j, b in enumerate(v))) for i, a in enumerate(v)]
            for h in parts
        ]
    )
    found = hessian_distance(net, start, data, method=method)
    assert found.from_zero == ("4",) and found.layers[-1] == "4.weight"
    assert found.curvature == pytest.approx(own.max(0), rel=1e-5)
    assert found.h == pytest.approx(np.maximum(own.max(0), 0), rel=1e-5)
    assert found.distance == pytest.approx([float(a.norm()) for a in v])
    joint = hessian_distance(net, start, data, method=method, joint=True)
    assert joint.curvature == pytest.approx(cross.max(0), rel=1e-5)
    assert np.abs(joint.curvature / found.curvature - 1).max() > 0.05
    mean = hessian_distance(net, start, data, method=method, reduction="mean")
    assert mean.curvature == pytest.approx((9 * own[0] + 15 * own[1]) / 24, rel=1e-5)


def test_the_score_is_that_of_the_bound():
    net, (x, y) = smooth_net(), rows(24, 5, 3)
    found = hessian_distance(net, moved(net), [(x, y)], loss_bound=2.0, train_size=500)
    assert found.score == pytest.approx(twins.gap_score(found.h, 2.0, 500), rel=1e-9)
    plain = hessian_distance(net, moved(net), [(x, y)])
    losses = nn.functional.cross_entropy(net(x), y, reduction="none")
    assert plain.train_size == 24 and plain.loss_bound == pytest.approx(losses.max().item())
    assert (plain.h >= 0).all() and json.dumps(plain.as_json())
    negative = hessian_distance(
        net, moved(net), [(x, y)], loss=lambda z, t: -half_square(z, nn.functional.one_hot(t, 3))
    )
    assert (negative.curvature < 0).all() and not negative.h.any() and negative.score == 0.0


def test_an_unmoved_layer_costs_nothing_and_scale_is_quadratic():
    net, data = smooth_net(), [rows(24, 5, 3)]
    start = {n: t.clone() for n, t in net.state_dict().items()}
    for method in ("autograd", "finite_difference"):
        still = hessian_distance(net, start, data, from_zero=(), method=method)
        assert not still.h.any() and not still.distance.any()
    once, twice = (
        hessian_distance(
            net, {n: t - f * torch.ones_like(t) for n, t in start.items()}, data, from_zero=()
        )
        for f in (0.1, 0.2)
    )
    assert twice.h == pytest.approx(4 * once.h) and twice.score == pytest.approx(2 * once.score)


def test_bad_input_gets_one_clear_message():
    net, data = image_model(), images()
    start = {n: t.clone() for n, t in net.state_dict().items()}
    for options, message in (
        ({"max_draws": 0}, "max_draws must be at least 1"),
        ({"rtol": -1}, "rtol must be at least 0"),
        ({"reduction": "sum"}, "reduction must be one of mean, max"),
        ({"method": "exact"}, "method must be one of auto"),
        ({"micro_batch": 0}, "micro_batch must be at least 1"),
        ({"layers": ["hed"]}, "did you mean 'head'"),
    ):
        with pytest.raises(ConfigError, match=message):
            hessian_trace(net, data, **options)
    with pytest.raises(ConfigError, match="loss_bound must be above 0"):
        hessian_distance(net, start, data, loss_bound=0)
    with pytest.raises(ConfigError, match="train_size must be at least 1"):
        hessian_distance(net, start, data, train_size=0)
    with pytest.raises(ConfigError, match="from_zero names 'classifier'"):
        hessian_distance(net, start, data, from_zero=["classifier"])
    gone = {n: t for n, t in start.items() if n not in ("stem.weight", "block.weight")}
    with pytest.raises(
        ConfigError, match=r"lacks 'stem\.weight', 'block\.weight' \(2 of 4 tensors"
    ):
        hessian_distance(net, gone, data)
    nan = dict(start, **{"stem.weight": start["stem.weight"] * float("nan")})
    with pytest.raises(ConfigError, match=r"'stem\.weight' of the reference holds NaN"):
        hessian_distance(net, nan, data)
    headless = {n: t for n, t in start.items() if not n.startswith("head")}
    assert hessian_distance(net, headless, data).from_zero == ("head",)
    wrapped = {f"_orig_mod.{n}": t for n, t in start.items()}
    assert hessian_distance(net, wrapped, data).h[0] == 0.0


def test_a_model_without_a_linear_layer_has_no_new_head():
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 3, 5), nn.Flatten()))
    found = hessian_distance(net, {n: 0.9 * t for n, t in net.state_dict().items()}, images())
    assert found.from_zero == () and found.layers == ("0.weight",) and found.h[0] > 0
