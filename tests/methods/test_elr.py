from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from tests.methods.noisy_digits import train, upright
from tests.reference import target_twins as twins
from tether import EarlyLearningRegularization, TetherError, attach
from tether.methods.targets.elr import (
    clamped_probabilities,
    elr_penalty,
    update_running_targets_,
)
from tether.methods.targets.rows import average_duplicates


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def rows_of(n: int, c: int, seed: int = 0) -> torch.Tensor:
    return (2 * normal(n, c, seed=seed)).softmax(1) * 0.8


def test_the_penalty_agrees_with_its_twin() -> None:
    logits, targets = 8 * normal(7, 5), rows_of(7, 5, 1)  # some probabilities are clamped
    assert bool((logits.softmax(1) < 1e-4).any())
    found = elr_penalty(logits, targets)
    assert float(found) == pytest.approx(twins.elr_penalty(logits.numpy(), targets.numpy()), 1e-9)
    each = elr_penalty(logits, targets, reduction="none")
    assert each.shape == (7,) and float(each.mean()) == pytest.approx(float(found))


def test_the_gradient_is_the_closed_form_and_sums_to_zero() -> None:
    logits, targets = normal(6, 4).requires_grad_(), rows_of(6, 4, 1)
    elr_penalty(logits, targets).backward()
    assert logits.grad is not None
    expected = twins.elr_gradient(logits.detach().numpy(), targets.numpy()) / 6
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-12)
    assert float(logits.grad.sum(1).abs().max()) < 1e-12
    assert torch.autograd.gradcheck(lambda z: elr_penalty(z, targets), [logits])


def test_clamped_probabilities_give_no_gradient() -> None:
    logits = torch.tensor([[20.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    elr_penalty(logits, torch.tensor([[0.2, 0.5, 0.1]], dtype=torch.float64)).backward()
    assert logits.grad is not None and not logits.grad.any()


def test_empty_targets_give_nothing() -> None:
    logits = normal(3, 4).requires_grad_()
    found = elr_penalty(logits, torch.zeros(3, 4))
    found.backward()
    assert float(found.detach()) == 0.0
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_stay_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[40.0, 0.0]], dtype=dtype)
    full = torch.tensor([[1.0, 0.0]])
    found = elr_penalty(logits, full)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(np.log(1e-4), rel=1e-3)


def test_a_row_under_a_constant_prediction_follows_the_geometric_sum() -> None:
    table = torch.zeros(3, 4, dtype=torch.float64)
    p = rows_of(1, 4)
    p = p / p.sum()
    for n in range(1, 8):
        update_running_targets_(table, torch.tensor([1]), p, beta=0.7)
        torch.testing.assert_close(table[1], (1 - 0.7**n) * p[0])
        assert float(table[1].sum()) == pytest.approx(1 - 0.7**n)
    assert not table[[0, 2]].any()


def test_duplicates_move_once_towards_their_mean() -> None:
    table, probs = rows_of(5, 3), rows_of(6, 3, 1)
    index = [4, 1, 4, 0, 4, 1]
    expected = twins.running_targets(table.numpy(), index, probs.numpy(), 0.6)
    update_running_targets_(table, torch.tensor(index), probs, beta=0.6)
    np.testing.assert_allclose(table.numpy(), expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(index=st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_averaged_rows_are_equal_bits_and_single_ones_untouched(index: list[int]) -> None:
    rows = torch.tensor(index)
    values = normal(len(index), 3).float()
    found = average_duplicates(rows, values)
    for i, sample in enumerate(index):
        assert torch.equal(found[i], found[index.index(sample)])
        if index.count(sample) == 1:
            assert torch.equal(found[i], values[i])
        mean = values[rows == sample].mean(0)
        torch.testing.assert_close(found[i], mean, rtol=1e-6, atol=1e-6)


def test_bad_options_are_refused() -> None:
    for options in ({"weight": -1.0}, {"beta": 1.0}, {"eps": 0.5}, {"eps": 0.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            EarlyLearningRegularization(**options)
    with pytest.raises(ValueError, match="reduction"):
        elr_penalty(torch.zeros(1, 2), torch.zeros(1, 2), reduction="sum")


# -- attached ------------------------------------------------------------------------------------

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(1))


def make(method: EarlyLearningRegularization | None = None, loss: str = "cross_entropy"):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    methods = [] if method is None else [method]
    reg = attach(net, methods, optimizer, train_data=TensorDataset(X, Y), loss=loss)
    return net, optimizer, reg


def step(net, optimizer, reg, rows: torch.Tensor, **extras: object) -> torch.Tensor:
    optimizer.zero_grad()
    loss = reg.loss(net(X[rows]), Y[rows], index=rows, **extras)
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_the_loss_uses_the_updated_rows() -> None:
    method = EarlyLearningRegularization(weight=2.0, beta=0.6)
    net, optimizer, reg = make(method)
    rows = torch.arange(6)
    for _ in range(3):
        logits = net(X[rows]).detach()
        q = clamped_probabilities(logits)
        expected_rows = 0.6 * method.running_targets[rows] + 0.4 * q / q.sum(1, keepdim=True)
        expected = nn.functional.cross_entropy(logits, Y[rows])
        expected = expected + 2.0 * elr_penalty(logits, expected_rows)
        torch.testing.assert_close(step(net, optimizer, reg, rows), expected)
        torch.testing.assert_close(method.running_targets[rows], expected_rows)
    assert not method.running_targets.requires_grad
    assert not method.running_targets[6:].any()
    assert reg.measure()["elr"]["seen"] == 6


def test_the_order_of_the_batch_does_not_matter() -> None:
    rows = torch.tensor([3, 7, 7, 1])
    losses = []
    for order in (rows, rows[[2, 0, 3, 1]]):
        net, optimizer, reg = make(EarlyLearningRegularization())
        losses.append([step(net, optimizer, reg, order) for _ in range(2)][-1])
    torch.testing.assert_close(losses[0], losses[1])


def test_weight_zero_is_plain_training_bit_for_bit_and_still_keeps_the_table() -> None:
    method = EarlyLearningRegularization(weight=0.0)
    found, plain = make(method), make()
    for _ in range(4):
        step(*found, torch.arange(12))
        step(*plain, torch.arange(12))
    for p, q in zip(found[0].parameters(), plain[0].parameters(), strict=True):
        assert torch.equal(p, q)
    assert float(method.running_targets.sum(1).min()) > 0.7


def test_unlabelled_rows_take_part() -> None:
    method = EarlyLearningRegularization(weight=1.0)
    net, _, reg = make(method)
    rows = torch.arange(4)
    labels = Y[rows].clone()
    labels[1] = -100
    reg.loss(net(X[rows]), labels, index=rows)
    assert float(method.running_targets[1].sum()) == pytest.approx(0.3)


def test_predictions_of_another_network_feed_the_table_and_rows_are_mixed() -> None:
    method = EarlyLearningRegularization(weight=1.5, beta=0.5)
    net, _, reg = make(method)
    rows, other = torch.arange(5), rows_of(5, 3, 3).float()
    permutation, lam = torch.tensor([2, 0, 1, 4, 3]), 0.7
    logits = net(X[rows])
    found = reg.loss(logits, Y[rows], index=rows, target_probs=other, mix=(permutation, lam))
    torch.testing.assert_close(method.running_targets[rows], 0.5 * other)
    mixed = 0.5 * (lam * other + (1 - lam) * other[permutation])
    expected = nn.functional.cross_entropy(logits, Y[rows]) + 1.5 * elr_penalty(logits, mixed)
    torch.testing.assert_close(found, expected)


def test_a_restored_table_gives_the_same_next_loss() -> None:
    rows = torch.arange(8)
    first = make(EarlyLearningRegularization())
    for _ in range(3):
        step(*first, rows)
    second = make(EarlyLearningRegularization())
    second[0].load_state_dict(first[0].state_dict())
    second[2].load_state_dict(first[2].state_dict())
    assert torch.equal(step(*first, rows), step(*second, rows))


def test_a_refused_step_leaves_the_table_alone() -> None:
    method = EarlyLearningRegularization()
    net, optimizer, reg = make(method)
    step(net, optimizer, reg, torch.arange(6))
    before = method.running_targets.clone()
    with pytest.raises(TetherError, match="not a number"):
        reg.loss(net(X[:6]) * float("nan"), Y[:6], index=torch.arange(6))
    assert torch.equal(method.running_targets, before)


def test_multi_label_losses_are_refused() -> None:
    with pytest.raises(TetherError, match="works with the loss cross_entropy"):
        make(EarlyLearningRegularization(), loss="binary_cross_entropy")


@pytest.mark.parametrize("seed", [0, 1])
def test_wrong_labels_of_digits_are_not_memorised_and_are_found(seed: int) -> None:
    data, found = upright(0.4, seed), {}
    for name in ("plain", "elr"):
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )
        method = EarlyLearningRegularization()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        methods = [method] if name == "elr" else []
        train(net, data, methods, optimizer, epochs=60, batch_size=100, seed=seed)
        found[name] = (data.accuracy(net), data.memorised(net))
        if name == "elr":
            flagged = method.noisy_label_mask()
            told = net(data.x).argmax(1) == data.true
    assert found["elr"][0] > 0.93 and found["elr"][0] > found["plain"][0] + 0.1
    assert found["elr"][1] < 0.08 and found["plain"][1] > 0.15
    assert float((flagged == data.wrong).float().mean()) > 0.95
    assert float(told[data.wrong].float().mean()) > 0.85
