from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.reference import target_twins as twins
from tether import ConfidenceReweighting, attach
from tether.methods.targets.confidence_reweighting import (
    confidence_weighted_loss,
    confidence_weights,
    temperature_in_epoch,
)

losses_of = st.lists(st.floats(0, 30), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(values=losses_of, tau=st.floats(0.1, 20), shift=st.floats(-5, 5))
def test_weights_agree_with_their_twin(values: list[float], tau: float, shift: float) -> None:
    losses = torch.tensor(values, dtype=torch.float64)
    found = confidence_weights(losses, tau)
    expected = twins.confidence_weights(losses.numpy(), tau)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    assert float(found.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(confidence_weights(losses + shift, tau), found)
    order = losses.argsort()
    assert bool((found[order].diff() <= 1e-15).all())  # larger losses, smaller weights


def test_limits_of_the_temperature() -> None:
    losses = torch.tensor([0.2, 3.0, 1.0], dtype=torch.float64)
    assert float(confidence_weighted_loss(losses, 1e6)) == pytest.approx(1.4, abs=1e-5)
    assert float(confidence_weighted_loss(losses, 1e-3)) == pytest.approx(0.2, abs=1e-9)


def test_the_gradient_is_that_of_fixed_weights() -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 1, 1, 2])
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    confidence_weighted_loss(losses, 2.0).backward()
    weights = confidence_weights(losses, 2.0)[:, None]
    error = logits.detach().softmax(1) - nn.functional.one_hot(labels, 4)
    torch.testing.assert_close(logits.grad, weights * error)
    assert not weights.requires_grad


def test_masked_rows_weigh_nothing() -> None:
    losses, keep = torch.tensor([1.0, 5.0, 2.0]), torch.tensor([True, False, True])
    found = confidence_weights(losses, 1.5, keep)
    assert float(found[1]) == 0.0
    torch.testing.assert_close(found[keep], confidence_weights(losses[keep], 1.5))
    assert not confidence_weights(losses, 1.5, torch.zeros(3, dtype=torch.bool)).any()


def test_the_temperature_over_the_epochs() -> None:
    options = {"temperature": 2.0, "start_epoch": 5, "decay": 0.1, "floor": 0.5}
    found = [temperature_in_epoch(e, **options) for e in range(1, 21)]
    np.testing.assert_allclose(found, twins.temperatures(20, 2.0, 5, 0.1, 0.5), rtol=1e-12)
    assert found[5] == 2.0
    assert found[6] == pytest.approx(1.8097, abs=1e-4)
    assert found[11] == pytest.approx(2 * math.exp(-0.6))
    assert found[12:] == [1.0] * 8


# -- attached ------------------------------------------------------------------------------------

X = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (10,), generator=torch.Generator().manual_seed(1))


def make(method: ConfidenceReweighting | None):
    torch.manual_seed(0)
    net = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    return net, optimizer, attach(net, [] if method is None else method, optimizer)


def test_it_starts_in_its_epoch_with_the_temperature_of_each() -> None:
    net, _, reg = make(ConfidenceReweighting(temperature=2.0, start_epoch=3))
    for epoch in range(12):
        reg.start_epoch(epoch)
        losses = nn.functional.cross_entropy(net(X), Y, reduction="none")
        expected = losses.mean()
        if epoch + 1 >= 3:
            tau = twins.temperatures(epoch + 1, 2.0, 3, 0.1, 0.5)[-1]
            expected = confidence_weighted_loss(losses, tau)
            assert not torch.allclose(expected, losses.mean(), rtol=1e-3)
        torch.testing.assert_close(reg.loss(net(X), Y), expected)
        reg.end_epoch()


def test_rows_that_do_not_count_leave_the_mean_of_the_others() -> None:
    net, _, reg = make(ConfidenceReweighting(start_epoch=1))
    reg.start_epoch(0)
    labels = Y.clone()
    labels[[2, 5]] = -100
    keep = labels != -100
    losses = nn.functional.cross_entropy(net(X[keep]), Y[keep], reduction="none")
    torch.testing.assert_close(reg.loss(net(X), labels), confidence_weighted_loss(losses, 2.0))


def test_a_batch_of_one_is_plain() -> None:
    net, _, reg = make(ConfidenceReweighting(start_epoch=1))
    reg.start_epoch(0)
    plain = nn.functional.cross_entropy(net(X[:1]), Y[:1])
    torch.testing.assert_close(reg.loss(net(X[:1]), Y[:1]), plain)


def test_before_its_start_training_is_plain_bit_for_bit() -> None:
    found, plain = make(ConfidenceReweighting(start_epoch=math.inf)), make(None)
    for net, optimizer, reg in (found, plain):
        reg.start_epoch(0)
        for _ in range(4):
            optimizer.zero_grad()
            reg.loss(net(X), Y).backward()
            optimizer.step()
    assert torch.equal(found[0].weight, plain[0].weight)
    assert math.isnan(found[2].measure()["confidence_reweighting"]["effective_sample_size"])


def test_measure_tells_what_the_batch_was_worth() -> None:
    net, _, reg = make(ConfidenceReweighting(start_epoch=1, temperature=0.5))
    reg.start_epoch(0)
    reg.loss(net(X), Y)
    weights = confidence_weights(nn.functional.cross_entropy(net(X), Y, reduction="none"), 0.5)
    numbers = reg.measure()["confidence_reweighting"]
    assert numbers["effective_sample_size"] == pytest.approx(1 / float(weights.square().sum()))
    assert 1.0 < numbers["effective_sample_size"] < 10.0
    assert numbers["temperature"] == 0.5


def test_bad_options_are_refused() -> None:
    for options in ({"temperature": 0.0}, {"start_epoch": 0}, {"decay": -1.0}, {"floor": 0.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            ConfidenceReweighting(**options)
