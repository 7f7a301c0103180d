from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.reference import weight_twins as twins
from tether import DistanceConstraint, attach
from tether.methods.weights.many import project_
from tether.methods.weights.projections import (
    mars_norm,
    project_ball,
    project_batch_norm,
    project_frobenius,
    project_mars,
)

BALLS = [("fro", "radial"), ("mars", "radial"), ("mars", "euclidean")]
seeds = st.integers(0, 2**31 - 1)
radii = st.floats(0.0, 8.0, allow_subnormal=False)


def normal(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def size(moved: torch.Tensor, norm: str) -> float:
    return float(moved.norm() if norm == "fro" else mars_norm(moved))


@pytest.mark.parametrize("shape", [(3, 4), (4, 2, 3, 3)])
@pytest.mark.parametrize("radius", [0.0, 0.7, 3.0, 100.0])
def test_projections_agree_with_their_twins(shape: tuple[int, ...], radius: float) -> None:
    param, center = normal(shape, 0), normal(shape, 1)
    given_pair = (param.numpy(), center.numpy(), radius)
    for ours, twin in [
        (project_frobenius(param, center, radius), twins.frobenius(*given_pair)),
        (project_mars(param, center, radius), twins.mars(*given_pair)),
        (project_mars(param, center, radius, "euclidean"), twins.mars_euclidean(*given_pair)),
    ]:
        np.testing.assert_allclose(ours.numpy(), twin, rtol=0, atol=1e-9)


def test_batch_norm_agrees_with_its_twin_and_leaves_inner_channels_bitwise() -> None:
    gamma, gamma0 = normal((40,), 0), normal((40,), 1)
    var, var0 = normal((40,), 2).square(), normal((40,), 3).square() + 0.1
    kept = var.clone()
    ours = project_batch_norm(gamma, var, gamma0, var0, 0.8)
    twin = twins.batch_norm(gamma.numpy(), var.numpy(), gamma0.numpy(), var0.numpy(), 0.8)
    np.testing.assert_allclose(ours.numpy(), twin, rtol=1e-9, atol=1e-12)
    slopes = (gamma / (var + 1e-6).sqrt() - gamma0 / (var0 + 1e-6).sqrt()).abs()
    inside = slopes <= 0.8
    assert inside.any() and not inside.all()
    assert torch.equal(ours[inside], gamma[inside])
    assert torch.equal(var, kept)


def test_mars_norm_is_the_operator_norm_of_the_flattened_weight() -> None:
    param = normal((5, 3, 2, 2), 0)
    expected = torch.linalg.matrix_norm(param.flatten(1), ord=math.inf)
    torch.testing.assert_close(mars_norm(param), expected)
    assert float(mars_norm(param)) == pytest.approx(twins.mars_norm(param.numpy()))


@pytest.mark.parametrize(("norm", "method"), BALLS)
@settings(max_examples=60, deadline=None)
@given(seed=seeds, radius=radii)
def test_projection_is_feasible_and_idempotent(
    norm: str, method: str, seed: int, radius: float
) -> None:
    param, center = (normal((3, 5), seed + i) for i in range(2))
    found = project_ball(param, center, radius, norm=norm, method=method)
    assert size(found - center, norm) <= radius * (1 + 1e-9) + 1e-12
    again = project_ball(found, center, radius, norm=norm, method=method)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("norm", "method"), [BALLS[0], BALLS[2]])
@settings(max_examples=60, deadline=None)
@given(seed=seeds, radius=radii)
def test_euclidean_projections_are_nearest_and_non_expansive(
    norm: str, method: str, seed: int, radius: float
) -> None:
    first, second, center = (normal((3, 5), seed + i) for i in range(3))
    near = [project_ball(p, center, radius, norm=norm, method=method) for p in (first, second)]
    assert (near[0] - near[1]).norm() <= (first - second).norm() + 1e-9
    # the angle at the nearest point is obtuse towards every point of the ball
    inner = project_ball(normal((3, 5), seed + 7), center, radius, norm=norm)
    assert float(((first - near[0]) * (inner - near[0])).sum()) <= 1e-8


@pytest.mark.parametrize("norm", ["fro", "mars"])
@settings(max_examples=40, deadline=None)
@given(seed=seeds, radius=radii)
def test_radial_projection_moves_along_the_ray(norm: str, seed: int, radius: float) -> None:
    param, center = normal((3, 5), seed), normal((3, 5), seed + 1)
    moved = project_ball(param, center, radius, norm=norm) - center
    share = (moved / (param - center)).flatten(1)
    assert bool((share >= -1e-12).all() and (share <= 1 + 1e-12).all())
    spread = share.amax(1) - share.amin(1)
    assert float(spread.max()) < 1e-7
    if norm == "fro":
        assert float(share.amax() - share.amin()) < 1e-7


@pytest.mark.parametrize(("norm", "method"), BALLS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_interior_zero_and_infinite_radii_are_exact(
    norm: str, method: str, dtype: torch.dtype
) -> None:
    param, center = normal((4, 6), 0).to(dtype), normal((4, 6), 1).to(dtype)
    for radius in (1e3, math.inf):
        assert torch.equal(project_ball(param, center, radius, norm=norm, method=method), param)
    frozen = project_ball(param, center, 0.0, norm=norm, method=method)
    assert torch.equal(frozen, center)
    still = project_ball(center, center, 0.0, norm=norm, method=method)
    assert torch.equal(still, center) and not still.isnan().any()
    zero = torch.zeros_like(center)
    assert torch.equal(project_ball(zero, zero, 0.0, norm=norm, method=method), zero)


def test_rows_below_the_radius_stay_bitwise_while_others_shrink() -> None:
    param, center = normal((6, 8), 0).float(), torch.zeros(6, 8)
    radius = float(param.abs().sum(1).median())
    for method in ("radial", "euclidean"):
        found = project_mars(param, center, radius, method)
        inside = param.abs().sum(1) <= radius
        assert inside.any() and not inside.all()
        assert torch.equal(found[inside], param[inside])
        assert bool((found[~inside] != param[~inside]).any(1).all())


@pytest.mark.parametrize(("norm", "method"), BALLS)
def test_many_tensors_at_once_agree_with_one_by_one(norm: str, method: str) -> None:
    shapes = [(3, 4), (5, 2, 3, 3), (2, 7)]
    params = [normal(s, i).float() for i, s in enumerate(shapes)]
    centers = [normal(s, i + 10).float() if i else None for i, s in enumerate(shapes)]
    sizes = [torch.tensor(r) for r in (0.5, 2.0, 1e3)]
    expected = [
        project_ball(p, torch.zeros_like(p) if c is None else c, r, norm=norm, method=method)
        for p, c, r in zip(params, centers, sizes, strict=True)
    ]
    untouched = params[2]._version
    project_(params, centers, sizes, norm=norm, method=method)
    for ours, theirs in zip(params, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert params[2]._version == untouched  # on the CPU, nothing inside its ball is written


def test_large_tensors_reach_the_radius_to_rounding() -> None:
    # one long float32 sum would miss the radius by 5e-4 here
    center = torch.zeros(256, 4096)
    found = project_frobenius(torch.full_like(center, 1e-3), center, 0.5)
    assert float(found.double().norm()) == pytest.approx(0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": -1.0}, "radius must be"),
        ({"radius": float("nan")}, "radius must be"),
        ({"radius": 1.0, "head_radius": -2.0}, "head_radius"),
        ({"radius": 1.0, "norm": "l2"}, "norm 'l2'"),
        ({"radius": 1.0, "method": "sorted"}, "method 'sorted'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistanceConstraint(**options)  # type: ignore[arg-type]


# -- attached ------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.layer2(self.layer1(self.bn1(self.conv1(x))))
        return self.fc(rows.mean((2, 3)))


def train(net: nn.Module, method: DistanceConstraint | None, steps: int = 6, lr: float = 0.5):
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    reg = attach(net, [] if method is None else [method], optimizer)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 1, 10, 10, generator=generator)
        y = torch.randint(0, 5, (8,), generator=generator)
        reg.loss(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return reg


def slopes(layer: nn.BatchNorm2d) -> torch.Tensor:
    return layer.weight.detach() / (layer.running_var + 1e-6).sqrt()


@pytest.mark.parametrize("norm", ["fro", "mars"])
def test_every_bound_tensor_stays_within_its_radius(norm: str) -> None:
    net = Net()
    start = {k: v.clone() for k, v in net.state_dict().items()}
    start_slopes = slopes(net.bn1), slopes(net.layer2[1])
    reg = train(net, DistanceConstraint(0.3, head_radius=0.8, norm=norm))
    for name in ("conv1.weight", "layer1.0.weight", "layer2.0.weight"):
        moved = net.get_parameter(name).detach() - start[name]
        assert size(moved, norm) == pytest.approx(0.3, rel=1e-5)
    assert size(net.fc.weight.detach(), norm) <= 0.8 * (1 + 1e-6)
    assert (slopes(net.bn1) - start_slopes[0]).abs().max() <= 0.3 * (1 + 1e-5)
    assert (slopes(net.layer2[1]) - start_slopes[1]).abs().max() <= 0.3 * (1 + 1e-5)
    assert (net.conv1.bias.detach() - start["conv1.bias"]).norm() > 0
    numbers = reg.measure()["distance_constraint"]
    assert numbers["share_at_bound"] > 0.5
    row = numbers["tensors"]["conv1.weight"]
    assert row["at_bound"] and row["distance"] == pytest.approx(0.3, rel=1e-4)
    assert not any("bias" in name for name in numbers["tensors"])


def test_an_infinite_radius_is_plain_training_bit_for_bit() -> None:
    plain, bound = Net(), Net()
    train(plain, None)
    train(bound, DistanceConstraint(math.inf))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, bound.state_dict()[name]), name
    wide = Net()
    train(wide, DistanceConstraint(1e6, head_radius=1e6))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, wide.state_dict()[name]), name


def test_radius_zero_freezes_the_bound_weights() -> None:
    net = Net()
    start = {k: v.clone() for k, v in net.state_dict().items()}
    train(net, DistanceConstraint(0.0))
    for name in ("conv1.weight", "layer1.0.weight", "layer2.0.weight"):
        assert torch.equal(net.get_parameter(name).detach(), start[name])
    assert not torch.equal(net.fc.weight.detach(), start["fc.weight"])
    assert all(bool(torch.isfinite(value).all()) for value in net.state_dict().values())


def test_batch_norm_in_evaluation_mode_has_the_bounded_slope() -> None:
    net = Net()
    start = slopes(net.bn1)
    train(net, DistanceConstraint(0.05), steps=8, lr=1.0)
    net.eval()
    rows = torch.stack([torch.zeros(4), torch.ones(4)])[:, :, None, None].expand(2, 4, 2, 2)
    out = net.bn1(rows)[:, :, 0, 0].detach()
    bound = net.bn1.weight.detach() / (net.bn1.running_var + net.bn1.eps).sqrt()
    torch.testing.assert_close(out[1] - out[0], bound)  # its own eps is 1e-5: close, not equal
    gap = (slopes(net.bn1) - start).abs()
    assert float(gap.max()) == pytest.approx(0.05, rel=1e-4)


def test_norm_layers_can_be_left_out() -> None:
    net = Net()
    start = slopes(net.bn1)
    train(net, DistanceConstraint(0.01, include_norm_layers=False), steps=8)
    assert (slopes(net.bn1) - start).abs().max() > 0.02


def test_frozen_layers_and_a_frozen_head_stay_as_they_are() -> None:
    net = Net()
    net.fc.weight.requires_grad_(False)
    net.layer1.requires_grad_(False)
    start = {k: v.clone() for k, v in net.state_dict().items()}
    train(net, DistanceConstraint(0.1, head_radius=0.01))
    for name in ("fc.weight", "layer1.0.weight", "layer1.1.weight"):
        assert torch.equal(net.get_parameter(name).detach(), start[name])


def test_a_layer_that_thaws_later_is_bound_from_then_on() -> None:
    net = Net()
    net.layer1.requires_grad_(False)
    start = net.layer1[0].weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    reg = attach(net, DistanceConstraint(0.1), optimizer)
    for step in range(6):
        net.layer1.requires_grad_(step >= 2)
        reg.loss(net(torch.randn(8, 1, 10, 10)), torch.randint(0, 5, (8,))).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert 0 < (net.layer1[0].weight.detach() - start).norm() <= 0.1 * (1 + 1e-5)


def test_ratio_scales_the_radius_with_each_tensor() -> None:
    net = Net()
    start = {k: v.clone() for k, v in net.state_dict().items()}
    train(net, DistanceConstraint(0.2, ratio=True))
    for name in ("conv1.weight", "layer2.0.weight"):
        share = (net.get_parameter(name).detach() - start[name]).norm() / start[name].norm()
        assert float(share) == pytest.approx(0.2, rel=1e-4)


def test_the_optimum_on_a_quadratic_is_the_clipped_one() -> None:
    target = torch.tensor([[3.0, -2.0]])
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1))
    start = net[0].weight.detach().clone()
    optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1)
    net[1].requires_grad_(False)
    reg = attach(net, DistanceConstraint(0.5, norm="fro"), optimizer, loss="mse")
    for _ in range(200):
        optimizer.zero_grad()
        (0.5 * (net[0].weight - target).square().sum()).backward()
        optimizer.step()
    gap = target - start
    torch.testing.assert_close(
        net[0].weight.detach(), start + gap * 0.5 / gap.norm(), rtol=1e-4, atol=1e-5
    )
    reg.detach()
