"""DR-Tune: rotation, shift by class, the queue, gradients to the head alone, and few digits."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import TensorDataset

from tests.methods.noisy_digits import images, small_net
from tests.reference import transfer_twins as twins
from tether import DRTune, TetherError, attach
from tether.methods.features.calibration import procrustes_rotation, semantic_calibration

DOUBLE = torch.float64


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(3, 9), d=st.integers(2, 4), k=st.integers(1, 3), seed=st.integers(0, 99),
       rotate=st.booleans(), spare=st.booleans())  # fmt: skip
def test_calibration_agrees_with_the_twin(n, d, k, seed, rotate, spare):
    before, now, head = rows(n, d, seed=seed), rows(n, d, seed=seed + 1), rows(k, d, seed=2)
    labels = torch.arange(n) % k
    wanted = twins.calibrated(
        before.numpy(), now.numpy(), labels.numpy(), head.numpy(), 2.5, rotate
    )
    keep = None
    if spare:  # rows that do not count change nothing
        before, now = (torch.cat([rows(2, d, seed=7), t]) for t in (before, now))
        labels = torch.cat([torch.tensor([0, 0]), labels])
        keep = torch.arange(n + 2) >= 2
    found = semantic_calibration(before, now, labels, head, rotate=rotate, scale=2.5, keep=keep)
    np.testing.assert_allclose(found.numpy()[-n:], wanted, atol=1e-7)


@pytest.mark.parametrize("reflect", [False, True])
def test_a_known_rotation_is_found_and_a_reflection_never(reflect):
    p = rows(50, 6)
    turn = torch.linalg.qr(rows(6, 6, seed=1)).Q
    if (torch.linalg.det(turn) < 0) != reflect:
        turn[:, 0] *= -1
    found = procrustes_rotation(p, p @ turn.T + rows(6, seed=2))
    torch.testing.assert_close(found.T @ found, torch.eye(6, dtype=DOUBLE))
    assert float(torch.linalg.det(found)) == pytest.approx(1.0)
    assert bool((found - turn).abs().max() < 1e-9) != reflect


def test_the_shift_brings_classes_to_their_centres():
    before, now, head, labels = rows(20, 5), rows(20, 5, seed=1), rows(3, 5), torch.arange(20) % 3
    found = semantic_calibration(before, now, labels, head, rotate=False, scale=3.0)
    torch.testing.assert_close(found.norm(dim=1), torch.full((20,), 3.0, dtype=DOUBLE))
    same = semantic_calibration(now, now, labels, torch.zeros(3, 5, dtype=DOUBLE))
    torch.testing.assert_close(same, normalize(now, dim=1))  # nothing to calibrate


# -- attached ------------------------------------------------------------------------------------

X = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) // 7  # sorted by class


def make(method, **given):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    return net, optimizer, attach(net, method, optimizer, train_data=TensorDataset(X, Y), **given)


@pytest.mark.parametrize("reduction", ["sum_of_means", "official"])
def test_steps_agree_with_the_twin(reduction):
    method = DRTune(queue_size=9, rotate_every=2, reduction=reduction)
    net, optimizer, reg = make(method)
    start = copy.deepcopy(net)
    chosen = [i for i in range(20) if (i + 1) * 9 // 20 > i * 9 // 20]
    before = start[:-1](X[chosen]).detach()
    now, labels, at, turn = before.clone(), Y[chosen].clone(), 0, None
    for step in range(4):
        part = torch.tensor([step, step + 7, step + 14, step + 3])
        loss = reg.loss(net(X[part]), Y[part])
        features = net[:-1](X[part]).detach()
        p, q = normalize(before, dim=1), normalize(now, dim=1)
        if step % 2 == 0:
            turn = procrustes_rotation(p, q)
        moved = semantic_calibration(
            before, now, labels, net[2].weight.detach(), rotation=turn,
            scale=features.norm(dim=1).mean(),
        )  # fmt: skip
        dr, task = cross_entropy(net[2](moved), labels), cross_entropy(net(X[part]), Y[part])
        wanted = task + dr if reduction == "sum_of_means" else (4 * task + 9 * dr) / 13
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
        for i in range(4):  # in ring order
            before[at], now[at] = start[:-1](X[part])[i].detach(), features[i]
            labels[at], at = Y[part[i]], (at + 1) % 9
        torch.testing.assert_close(method.before, before)
        torch.testing.assert_close(method.now, now)
        assert torch.equal(method.labels, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert -1.0 <= reg.measure()["dr_tune"]["cosine"] < 1.0


def test_gradients_reach_the_head_alone():
    grads = []
    for weight in (0.0, 1.0):
        net, _, reg = make(DRTune(weight=weight))
        reg.loss(net(X[:5]), Y[:5]).backward()
        grads.append([p.grad for p in net.parameters()])
    for p, (plain, found) in enumerate(zip(*grads, strict=True)):
        assert torch.equal(plain, found) == (p < 2)


def test_the_queue_is_filled_from_all_classes_of_sorted_data():
    method = DRTune(queue_size=6)
    net, _, reg = make(method)
    reg.loss(net(X[:1]), Y[:1])
    assert method.seen == 7 and set(method.labels.tolist()) == {0, 1, 2}
    assert len(make(DRTune())[2].methods["dr_tune"].labels) == 20  # not more than there are


def test_bad_options_and_missing_data_are_refused():
    for options in ({"weight": -1.0}, {"queue_size": 0}, {"rotate_every": -1},
                    {"reduction": "mean"}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            DRTune(**options)
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    with pytest.raises(TetherError, match="train_data"):
        attach(net, DRTune())


# -- few digits of old and new classes -----------------------------------------------------------


@functools.cache
def knowing_five() -> nn.Sequential:
    """A network that knows the digits 0 to 4."""
    x, y = images()
    x, y = x[:900][y[:900] < 5], y[:900][y[:900] < 5]
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    draw = torch.Generator().manual_seed(0)
    for _ in range(15):
        for part in torch.randperm(len(x), generator=draw).split(60):
            optimizer.zero_grad()
            cross_entropy(net(x[part]), y[part]).backward()
            optimizer.step()
    return net


def learn_ten(methods, seed: int, steps: int = 100) -> tuple[float, float]:
    """Accuracy on held-out digits after few steps on five of each class; loss on pretrained ones.

    The latter is of the head on the calibrated pretrained features of the training samples.
    """
    x, y = images()
    order = torch.randperm(400, generator=torch.Generator().manual_seed(seed)) + 900
    hot = nn.functional.one_hot(y[order], 10)
    order = order[(hot.cumsum(0) * hot).sum(1) <= 5]
    few_x, few_y = x[order], y[order]
    net = copy.deepcopy(knowing_five())
    torch.manual_seed(seed)
    net[4].reset_parameters()
    start = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    data = TensorDataset(few_x, few_y)
    reg = attach(net, methods, optimizer, train_data=data, total_steps=steps)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        part = torch.randperm(len(few_x), generator=draw)[:25]
        optimizer.zero_grad()
        reg.loss(net(few_x[part]), few_y[part]).backward()
        optimizer.step()
    with torch.no_grad():
        now = net[:-1](few_x)
        moved = semantic_calibration(
            start[:-1](few_x), now, few_y, net[4].weight, scale=now.norm(dim=1).mean()
        )
        kept = float(cross_entropy(net[4](moved), few_y))
        right = (net(x[1300:]).argmax(1) == y[1300:]).float().mean()
    return float(right), kept


def test_few_digits_are_learnt_better_than_without():
    found = [learn_ten([DRTune(weight=3.0)], seed) for seed in range(5)]
    plain = [learn_ten([], seed) for seed in range(5)]
    for (_, kept), (_, lost) in zip(found, plain, strict=True):
        assert kept < 0.8 * lost
    accuracy, without = (sum(a for a, _ in runs) / 5 for runs in (found, plain))
    print(accuracy, without, found, plain)
    assert accuracy > without + 0.005
