from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.methods.noisy_digits import upright
from tests.reference import continual_twins as twins
from tether import EMA, TetherError, attach
from tether.methods.weights.averaging import ema_share, ema_update_

X = torch.from_numpy(np.random.default_rng(0).normal(size=(12, 3)))
Y = torch.arange(12) % 2


def make(method: EMA, **options: object):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    reg = attach(net, [method], optimizer, epochs=4, **options)
    return net, optimizer, reg


def epoch(net, optimizer, reg) -> list[torch.Tensor]:
    """The first layer's weights after each step."""
    course = []
    net.train()
    for x, y in reg.batches(DataLoader(TensorDataset(X, Y), 4)):
        optimizer.zero_grad()
        reg.loss(net(x), y).backward()
        optimizer.step()
        course.append(net[0].weight.detach().clone())
    return course


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("decay", [0.6, 0.99])
def test_the_average_agrees_with_its_twin(decay: float, warmup: bool) -> None:
    method = EMA(decay=decay, warmup=warmup)
    net, optimizer, reg = make(method)
    start = net[0].weight.detach().numpy().copy()
    course = []
    for _ in range(3):
        course += epoch(net, optimizer, reg)
    wanted = twins.moving_average([w.numpy() for w in course], start, decay, warmup)
    np.testing.assert_allclose(net[0].weight.detach().numpy(), wanted, atol=1e-6)
    assert not np.allclose(course[-1].numpy(), wanted)
    assert method.measure()["updates"] == 9


def test_training_goes_on_with_its_own_weights_bit_for_bit() -> None:
    one, two = make(EMA(decay=0.9)), make(EMA(decay=0.9, swap=False))
    courses = [[w for _ in range(3) for w in epoch(*made)] for made in (one, two)]
    for a, b in zip(*courses, strict=True):
        assert torch.equal(a, b)
    average = two[2].methods["ema"].averages()[0]
    assert torch.equal(one[0][0].weight, average)
    assert torch.equal(one[2].methods["ema"].averages()[0], average)
    assert torch.equal(two[0][0].weight, courses[1][-1])
    # running statistics are averaged as well, counters are not
    mean = one[0][1].running_mean
    assert not torch.equal(mean, two[0][1].running_mean)
    assert torch.equal(one[0][1].num_batches_tracked, two[0][1].num_batches_tracked)


def test_the_finished_model_is_the_average_and_a_late_update_is_made_on_the_own_weights() -> None:
    net, optimizer, reg = make(EMA(decay=0.9))
    last = epoch(net, optimizer, reg)[-1]
    averaged = net[0].weight.detach().clone()
    assert not torch.equal(averaged, last)
    net[0].weight.grad.zero_()
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()  # after the epoch's end, a loop that flushes
    assert torch.equal(net[0].weight, last)
    reg.start_epoch()
    reg.end_epoch()
    model = reg.finish()
    assert not torch.equal(model[0].weight, last)


def test_the_uniform_mean_after_a_start() -> None:
    net, optimizer, reg = make(EMA(uniform=True, start=0.5))
    course = []
    for _ in range(4):
        course += epoch(net, optimizer, reg)
    late = course[6:]  # 3 steps an epoch, half of 4 epochs
    wanted = torch.stack(late).mean(0)
    torch.testing.assert_close(net[0].weight.detach(), wanted)


def test_small_shares_keep_their_digits() -> None:
    share = ema_share(0.9999, torch.tensor(1e7))
    assert float(share) == pytest.approx(1e-4, rel=1e-6)
    average = [torch.zeros(1, dtype=torch.float64)]
    ema_update_(average, [torch.ones(1, dtype=torch.float64)], share)
    assert float(average[0]) == pytest.approx(1e-4, rel=1e-6)


def test_bad_options_are_refused() -> None:
    for options in ({"decay": 1.0}, {"decay": -0.1}, {"start": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            EMA(**options)
    net = nn.Linear(3, 2)
    with pytest.raises(TetherError, match="start is a share of training"):
        attach(net, EMA(start=0.5), torch.optim.SGD(net.parameters(), lr=0.1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_average_of_a_noisy_course_on_digits_does_better(seed: int) -> None:
    data = upright(0.4, seed)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    method = EMA(decay=0.98, swap=False)
    draw = torch.Generator().manual_seed(seed)
    loader = DataLoader(TensorDataset(data.x, data.given), 10, shuffle=True, generator=draw)
    reg = attach(net, [method], optimizer)
    own = []
    for _ in range(3):
        for x, y in reg.batches(loader):
            optimizer.zero_grad()
            reg.loss(net(x), y).backward()
            optimizer.step()
        own.append(data.accuracy(net))
    other = copy.deepcopy(net)
    method.exchange(True)
    assert data.accuracy(net) > own[-1] + 0.015
    assert data.accuracy(net) > sum(own) / len(own) + 0.1
    assert data.accuracy(other) == own[-1]
