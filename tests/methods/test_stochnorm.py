from __future__ import annotations

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tether
from tests.methods.noisy_digits import images
from tests.reference import layer_input_twins as twins
from tether import StochNorm, TetherError
from tether.methods.layers.stochastic_norm import (
    StochasticLayer,
    StochNorm2d,
    batch_moments,
    stochastic_norm,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(1.0, 2.0, size=shape))


MASK = torch.tensor([True, False, True, False])
RUNNING = normal(4, seed=3).square() + 0.5, normal(4, seed=4)


# -- the formula ---------------------------------------------------------------------------------


def test_it_agrees_with_its_twin() -> None:
    x, weight, bias = normal(5, 4, 3), normal(4, seed=1), normal(4, seed=2)
    found = stochastic_norm(x, RUNNING, batch_moments(x), MASK, weight, bias, 1e-3)
    wanted = twins.stochastic_norm(
        x.numpy(), RUNNING[1].numpy(), RUNNING[0].numpy(), MASK.tolist(), weight.numpy(),
        bias.numpy(), 1e-3,
    )  # fmt: skip
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-10)
    plain = stochastic_norm(x, RUNNING, batch_moments(x), MASK, eps=1e-3)
    torch.testing.assert_close(plain * weight.view(1, 4, 1) + bias.view(1, 4, 1), found)


@pytest.mark.parametrize("shape", [(6, 4), (3, 4, 3), (2, 4, 3, 2), (2, 4, 2, 1, 2)])
def test_gradients_are_those_of_finite_differences(shape: tuple[int, ...]) -> None:
    x, weight, bias = normal(*shape), normal(4, seed=1), normal(4, seed=2)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    assert torch.autograd.gradcheck(
        lambda x, w, b: stochastic_norm(x, RUNNING, batch_moments(x), MASK, w, b, 1e-3), inputs
    )


def test_gradients_in_channels_last_and_half() -> None:
    x = normal(4, 4, 3, 3).float()

    def gradient(x: torch.Tensor) -> torch.Tensor:
        x = x.detach().requires_grad_()
        running = tuple(r.float() for r in RUNNING)
        out = stochastic_norm(x, running, batch_moments(x), MASK)
        assert out.dtype is x.dtype
        (grad,) = torch.autograd.grad((out * x.detach().sin()).sum(), x)
        return grad

    wanted = gradient(x)
    last = gradient(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, wanted)
    torch.testing.assert_close(gradient(x.bfloat16()).float(), wanted, rtol=0, atol=0.05)


def layer(p: float, like: nn.BatchNorm2d | None = None) -> nn.BatchNorm2d:
    norm = copy.deepcopy(like) if like is not None else nn.BatchNorm2d(4)
    StochNorm(p).prepare(nn.Sequential(norm))
    return norm


def moved() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(normal(4, seed=1))
        norm.running_mean.copy_(normal(4, seed=2))
        norm.running_var.copy_(normal(4, seed=3).square() + 0.1)
    return norm


def test_p_one_is_batch_norm_bit_for_bit() -> None:
    plain, x = moved(), normal(3, 4, 5, 5).float().requires_grad_()
    ours = layer(1.0, plain)
    outs = [norm(x) for norm in (plain, ours)]
    grads = [torch.autograd.grad(o.square().sum(), [x, n.weight]) for o, n in
             zip(outs, (plain, ours), strict=True)]  # fmt: skip
    assert torch.equal(*outs)
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, dict(ours.named_buffers())[name])


def test_p_zero_is_evaluation_by_the_moments_before_and_they_move_on() -> None:
    plain, x = moved(), normal(3, 4, 5, 5).float()
    ours = layer(0.0, plain)
    before = copy.deepcopy(plain).eval()(x)
    torch.testing.assert_close(ours(x), before)
    plain(x)
    for name, buffer in plain.named_buffers():  # as batch norm's own move
        torch.testing.assert_close(buffer, dict(ours.named_buffers())[name])
    assert int(ours.num_batches_tracked) == 1


def test_a_cumulative_average_is_one_here_too() -> None:
    plain = nn.BatchNorm2d(4, momentum=None)
    ours = layer(0.5, plain)
    for seed in range(3):
        x = normal(3, 4, 2, 2, seed=seed).float()
        plain(x)
        ours(x)
    torch.testing.assert_close(ours.running_var, plain.running_var)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)


def test_the_mean_output_is_the_mixture_channel_by_channel() -> None:
    torch.manual_seed(0)
    plain, x = moved(), normal(3, 4, 5, 5).float()
    by_batch, by_running = copy.deepcopy(plain)(x), copy.deepcopy(plain).eval()(x)
    total, batches = torch.zeros_like(x), torch.zeros(4)
    for _ in range(300):
        ours = layer(0.3, plain)
        out = ours(x).detach()
        used = (out - by_batch).abs().amax((0, 2, 3)) < 1e-4
        other = (out - by_running).abs().amax((0, 2, 3)) < 1e-4
        assert bool((used ^ other).all())  # whole channels, one or the other
        batches += used
        total += out
    assert (batches / 300 - 0.3).abs().max() < 0.1
    mixed = 0.3 * by_batch + 0.7 * by_running
    assert (total / 300 - mixed).abs().mean() < 0.1 * (by_batch - by_running).abs().mean()


def test_running_moments_are_those_before_the_step_also_in_the_gradient() -> None:
    x = normal(3, 4, 2, 2).requires_grad_()
    ours = layer(0.0, moved()).double()
    scale = ours.weight / (ours.running_var + ours.eps).sqrt()
    expected = scale.detach().view(1, 4, 1, 1).expand_as(x).clone()
    (grad,) = torch.autograd.grad(ours(x).sum(), x)
    torch.testing.assert_close(grad, expected)


# -- the swap ------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 16),
        nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3),
    )  # fmt: skip


def test_prepare_keeps_everything_but_the_classes_and_finish_gives_them_back() -> None:
    net = network().double()
    net[1].weight.requires_grad_(False)
    before = {id(p): (p.requires_grad, p.dtype) for p in net.parameters()}
    names, plain = list(net.state_dict()), copy.deepcopy(net)
    methods = [StochNorm()]
    tether.prepare(net, methods)
    assert isinstance(net[1], StochNorm2d) and isinstance(net[1], nn.BatchNorm2d)
    assert {id(p): (p.requires_grad, p.dtype) for p in net.parameters()} == before
    assert list(net.state_dict()) == names
    network().double().load_state_dict(net.state_dict())
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(net.eval()(x), plain.eval()(x))
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), plain(x))
    reg = tether.attach(net, methods, torch.optim.SGD(net.parameters(), lr=0.1))
    reg.loss(net.train()(x), torch.tensor([0, 1, 2, 0])).backward()
    done = reg.finish()
    assert [type(m) for m in done.modules()] == [type(m) for m in network().modules()]
    assert not any(hasattr(m, "use_batch_p") or hasattr(m, "plain_class") for m in done.modules())


def test_layers_of_timm_keep_their_activation() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("test_efficientnet", num_classes=3)
    classes = [type(m) for m in net.modules()]
    x = torch.randn(2, 3, 32, 32)
    plain = copy.deepcopy(net)
    wanted = plain.train()(x)
    tether.prepare(net, [method := StochNorm(p=1.0)])
    assert any(isinstance(m, StochasticLayer) for m in net.modules())
    assert torch.equal(net(x), wanted)
    method.finish(net)
    tether.prepare(net, [method := StochNorm(p=0.0)])
    net.load_state_dict(plain.state_dict())
    torch.testing.assert_close(net.train()(x), plain.eval()(x), rtol=1e-3, atol=1e-4)
    method.finish(net)
    assert [type(m) for m in net.modules()] == classes


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="p must lie"):
        StochNorm(p=1.5)
    with pytest.raises(TetherError, match="needs batch-norm layers.*it has LayerNorm"):
        tether.prepare(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), StochNorm())
    with pytest.raises(TetherError, match="'1', a SyncBatchNorm"):
        tether.prepare(nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4)), StochNorm())
    net = network()
    tether.prepare(net, [method := StochNorm()])
    with pytest.raises(TetherError, match="prepared this model already"):
        tether.prepare(net, StochNorm())
    with pytest.raises(TetherError, match="gone from the model"):
        tether.attach(nn.SyncBatchNorm.convert_sync_batchnorm(net), method)
    with pytest.raises(TetherError, match="changes the model: call tether.prepare"):
        tether.attach(network(), StochNorm())
    with pytest.raises(ValueError, match="more than 1 value"):
        layer(0.5)(torch.zeros(1, 4, 1, 1))


# -- digits --------------------------------------------------------------------------------------


def fit(
    net: nn.Module, method: StochNorm, x: torch.Tensor, y: torch.Tensor, epochs: int, batch: int,
    lr: float, seed: int,
) -> nn.Module:  # fmt: skip
    tether.prepare(net, method)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=draw).split(batch):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    method.finish(net)
    return net.eval()


@functools.cache
def source() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 64),
        nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    x, y = images()
    return fit(net, StochNorm(1.0), x[:700], y[:700], 6, 50, 0.02, 0)


def test_small_batches_of_digits_are_learnt_better_with_the_running_moments() -> None:
    x, y = images()
    x = x + 0.1 * torch.linspace(-1, 1, 64)  # the target: a little more light below
    found: dict[float, list[tuple[float, float, float]]] = {1.0: [], 0.5: []}
    for seed in range(3):
        rows = torch.randperm(400, generator=torch.Generator().manual_seed(seed))[:60] + 700
        for p, seen in found.items():
            net = fit(
                copy.deepcopy(source()), StochNorm(p), x[rows], y[rows], 8, 4, 0.005, seed
            )  # fmt: skip
            with torch.no_grad():
                fitted = F.cross_entropy(net(x[rows]), y[rows])
                test = F.cross_entropy(net(x[1100:]), y[1100:])
                right = (net(x[1100:]).argmax(1) == y[1100:]).float().mean()
            seen.append((float(fitted), float(test), float(right)))
    plain, ours = (np.array(found[p]) for p in (1.0, 0.5))
    # what was learnt holds in evaluation, too
    assert (ours[:, 0] < 0.8 * plain[:, 0]).all(), found
    assert (ours[:, 1] < plain[:, 1]).all() and ours[:, 1].mean() < 0.9 * plain[:, 1].mean(), found
    assert ours[:, 2].mean() > plain[:, 2].mean() + 0.003, found


def test_a_row_depends_less_on_who_stands_beside_it() -> None:
    x = images()[0]
    row, spread = x[700:701], {}
    for p in (1.0, 0.5, 0.0):
        ours = copy.deepcopy(source())
        tether.prepare(ours, StochNorm(p))
        torch.manual_seed(0)
        outs = []
        for at in range(20):
            fresh = copy.deepcopy(ours).train()
            outs.append(fresh(torch.cat([row, x[710 + 7 * at : 717 + 7 * at]]))[0])
        spread[p] = float(torch.stack(outs).detach().var(0).mean())
    assert spread[0.0] < 1e-8 < spread[0.5]
    assert spread[1.0] > 0.01
