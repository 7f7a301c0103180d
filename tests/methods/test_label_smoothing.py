from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from tests.reference import target_twins as twins
from tether import (
    ClassWeights,
    EarlyLearningRegularization,
    LabelSmoothing,
    SelfLabelCorrection,
    TetherError,
    attach,
)

N, D, K = 10, 6, 4


def task(seed: int = 0) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    model = nn.Linear(D, K).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(K, D, generator=draw))
    x = torch.randn(N, D, generator=draw, dtype=torch.float64)
    return model, x, torch.randint(K, (N,), generator=draw)


def ours(model: nn.Module, x: torch.Tensor, y: torch.Tensor, methods, **options):
    """(loss, gradient of the weights)."""
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    known = {k: options.pop(k) for k in ("num_items", "index") if k in options}
    with attach(model, methods, optimizer, **options) as reg:
        loss = reg.loss(model(x), y, **known)
    loss.backward()
    return loss.detach(), model.weight.grad.clone()


@pytest.mark.parametrize("smoothing", [0.05, 0.1, 0.5, 1.0])
def test_it_is_the_loss_of_torch_and_of_the_paper(smoothing: float) -> None:
    model, x, y = task()
    found, gradient = ours(model, x, y, LabelSmoothing(smoothing))
    model.zero_grad()
    wanted = F.cross_entropy(model(x), y, label_smoothing=smoothing)
    wanted.backward()
    assert abs(float((found - wanted).detach())) < 1e-12
    torch.testing.assert_close(gradient, model.weight.grad, rtol=0, atol=1e-12)
    twin = twins.smoothed_cross_entropy(model(x).detach().numpy(), y.tolist(), smoothing)
    assert abs(float(found) - twin) < 1e-6


def test_class_probabilities_and_binary_targets() -> None:
    model, x, _ = task()
    soft = torch.softmax(torch.randn(N, K, dtype=torch.float64), 1)
    found, gradient = ours(model, x, soft, LabelSmoothing(0.2))
    model.zero_grad()
    wanted = F.cross_entropy(model(x), soft, label_smoothing=0.2)
    wanted.backward()
    torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, model.weight.grad, rtol=0, atol=1e-12)
    hot = (torch.rand(N, K) < 0.4).double()
    found, _ = ours(model, x, hot, LabelSmoothing(0.2), loss="binary_cross_entropy")
    twin = twins.smoothed_binary(model(x).detach().numpy(), hot.numpy(), 0.2)
    assert abs(float(found) - twin) < 1e-6


def test_zero_changes_no_bit() -> None:
    model, x, y = task()
    found, gradient = ours(model, x, y, LabelSmoothing(0.0))
    model.zero_grad()
    wanted = F.cross_entropy(model(x), y)
    wanted.backward()
    assert torch.equal(found, wanted.detach())
    assert torch.equal(gradient, model.weight.grad)


@pytest.mark.parametrize("num_items", [None, 12])
@pytest.mark.parametrize("weighed", [False, True])
def test_rows_that_do_not_count(num_items: int | None, weighed: bool) -> None:
    model, x, y = task()
    y[[1, 4, 5]] = -100
    methods = [LabelSmoothing(0.2)]
    options = {"num_items": num_items}
    if weighed:  # weights that are all alike: the other way to the same mean
        methods.append(ClassWeights([1.0] * K))
        options["train_data"] = TensorDataset(x, y)
    found, gradient = ours(model, x, y, methods, **options)
    model.zero_grad()
    wanted = F.cross_entropy(model(x), y, label_smoothing=0.2)
    wanted = wanted if num_items is None else wanted * 7 / num_items
    wanted.backward()
    torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, model.weight.grad, rtol=0, atol=1e-12)


def test_corrected_labels_are_smoothed_and_the_tables_are_not() -> None:
    model, x, y = task()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.0, 0.0, 5.0, 0.0]))  # class 2 is believed everywhere
    index = torch.arange(N)
    for order in (1, -1):
        correct = SelfLabelCorrection(threshold=0.9, start_epoch=1)
        early = EarlyLearningRegularization(weight=0.0)
        methods = [LabelSmoothing(0.2), correct, early][::order]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with attach(model, methods, optimizer, train_data=TensorDataset(x, y)) as reg:
            reg.start_epoch()
            loss = reg.loss(model(x), y, index=index)
            wanted = F.cross_entropy(model(x), torch.full((N,), 2), label_smoothing=0.2)
            torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)
            assert correct.labels().tolist() == [2] * N
            assert correct.corrections()["given"].tolist() == [c for c in y.tolist() if c != 2]


def test_a_schedule_is_followed() -> None:
    model, x, y = task()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = LabelSmoothing("linear(0.4, 0)")
    with attach(model, method, optimizer, total_steps=4) as reg:
        for step in range(5):
            loss = reg.loss(model(x), y)
            smoothing = 0.4 * (1 - step / 4)
            wanted = F.cross_entropy(model(x), y, label_smoothing=smoothing)
            torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    with pytest.raises(TetherError, match="length of training"):
        attach(model, LabelSmoothing("linear(0.4, 0)"), optimizer)


@pytest.mark.parametrize("smoothing", [-0.1, 1.5, math.nan])
def test_options_out_of_range(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"smoothing must lie in \[0, 1\]"):
        LabelSmoothing(smoothing)


def test_a_smoothed_network_is_less_sure_of_what_it_does_not_know() -> None:
    """Section 7 of the paper: the largest logit no longer runs away from the others."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(K, D))
    y = torch.from_numpy(rng.integers(0, K, 400))
    x = torch.from_numpy(centres[y.numpy()] + 0.8 * rng.normal(size=(400, D)))
    gaps, losses = {}, {}
    for smoothing in (0.0, 0.1):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(D, 32), nn.ReLU(), nn.Linear(32, K)).double()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
        with attach(net, LabelSmoothing(smoothing), optimizer) as reg:
            for _ in range(300):
                reg.loss(net(x[:100]), y[:100]).backward()
                optimizer.step()
                optimizer.zero_grad()
        with torch.no_grad():
            logits = net(x[100:])
        gaps[smoothing] = float((logits.amax(1) - logits.median(1).values).mean())
        losses[smoothing] = float(F.cross_entropy(logits, y[100:]))
    assert gaps[0.1] < 0.5 * gaps[0.0]
    assert losses[0.1] < 0.9 * losses[0.0]
