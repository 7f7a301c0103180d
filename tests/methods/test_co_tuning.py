"""Co-Tuning: both ways to the table, the loss, and the old head in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from tests.methods.noisy_digits import Digits, images
from tests.methods.transfer import fine_tune, knowing
from tests.reference import transfer_twins as twins
from tether import CoTuning, TetherError, attach
from tether.methods.features.class_relationship import class_relationship, fit_logistic
from tether.methods.features.co_tuning import source_targets
from tether.methods.matching import soft_cross_entropy

DOUBLE = torch.float64


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(n, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(extra=st.integers(0, 9), k=st.integers(1, 4), old=st.integers(2, 5), seed=st.integers(0, 99))
def test_table_and_loss_agree_with_the_twin(extra, k, old, seed):
    labels = torch.arange(k + extra) % k
    logits = rows(k + extra, old, seed)
    table = class_relationship(logits, labels)
    wanted = twins.direct_table(logits.numpy(), labels.numpy(), k)
    np.testing.assert_allclose(table.numpy(), wanted, rtol=1e-9)
    torch.testing.assert_close(table.sum(1), torch.ones(k, dtype=DOUBLE))
    found = soft_cross_entropy(logits, source_targets(labels, table)).mean()
    assert found.item() == pytest.approx(twins.co_tuning(logits.numpy(), labels.numpy(), wanted))
    hot = nn.functional.one_hot(labels, k).to(DOUBLE)
    torch.testing.assert_close(source_targets(hot, table), source_targets(labels, table))


def test_reverse_way_is_bayes_rule_on_a_logistic_regression(monkeypatch):
    """The chosen coefficients and scale, put into the rule entry by entry."""
    from tether.methods.features import class_relationship as module

    kept = {}
    fit, scale = module.fit_logistic, module._fit_scale

    def note_fit(inputs, labels, start, strength):
        kept.setdefault("fits", []).append(fit(inputs, labels, start, strength))
        return kept["fits"][-1]

    def note_scale(logits, labels):
        kept["scale"] = scale(logits, labels)
        return kept["scale"]

    monkeypatch.setattr(module, "fit_logistic", note_fit)
    monkeypatch.setattr(module, "_fit_scale", note_scale)
    labels = torch.arange(60) % 3
    logits = rows(60, 4) + 3 * nn.functional.one_hot(labels, 4).to(DOUBLE)
    table = class_relationship(logits, labels, relationship="reverse")
    prior = logits.softmax(1).mean(0).numpy()
    tried = [
        twins.reverse_table(weight.numpy(), float(kept["scale"]), prior) for weight in kept["fits"]
    ]
    assert len(tried) == 17
    assert min(np.abs(table.numpy() - one).max() for one in tried) < 1e-9
    assert table[:, :3].argmax(1).tolist() == [0, 1, 2]
    torch.testing.assert_close(table.sum(1), torch.ones(3, dtype=DOUBLE))


def test_logistic_regression_is_that_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    x, y = rows(40, 3), torch.arange(40) % 4
    for strength in (0.01, 1.0, 10.0):
        found = fit_logistic(x, y, x.new_zeros(4, 3), strength)
        other = linear.LogisticRegression(C=strength, fit_intercept=False, tol=1e-10, max_iter=5000)
        np.testing.assert_allclose(found.numpy(), other.fit(x, y).coef_, atol=1e-4)


@pytest.mark.parametrize("relationship", ["direct", "reverse"])
def test_a_perfect_old_head_of_the_same_classes_gives_the_identity(relationship):
    labels = torch.arange(100) % 5
    logits = 12.0 * nn.functional.one_hot(labels, 5).to(DOUBLE)
    table = class_relationship(logits, labels, relationship=relationship)
    assert (table - torch.eye(5)).abs().max() < 0.05


def test_classes_without_samples_and_bad_options_are_refused():
    with pytest.raises(TetherError, match="no training sample of the classes 1, 3"):
        class_relationship(rows(3, 2), torch.tensor([0, 2, -1]), num_classes=4)
    for options in ({"weight": -1.0}, {"relationship": "both"}, {"calibration": 0.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            CoTuning(**options)


X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


def make(method, head: nn.Module):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    data = TensorDataset(X, Y)
    return net, optimizer, attach(net, method, optimizer, source_head=head, train_data=data)


def test_the_old_head_is_trained_on_what_the_labels_imply():
    head = nn.Linear(8, 5)
    method = CoTuning(weight=1.5)
    net, optimizer, reg = make(method, head)
    logits = head(net[:-1](X)).detach()
    torch.testing.assert_close(
        class_relationship(logits, Y),
        torch.stack([logits.softmax(1)[k == Y].mean(0) for k in range(3)]),
    )
    loss = reg.loss(net(X), Y)
    torch.testing.assert_close(method.table, class_relationship(logits, Y))
    found = soft_cross_entropy(logits, method.table[Y]).mean()
    torch.testing.assert_close(reg.parts["co_tuning"], 1.5 * found)
    loss.backward()
    given = [p.clone() for p in head.parameters()]
    optimizer.step()
    own = list(method.head.parameters())
    assert not torch.equal(own[0], head.weight)  # a copy, and in training
    assert all(torch.equal(p, kept) for p, kept in zip(head.parameters(), given, strict=True))
    assert 1 / 5 < reg.measure()["co_tuning"]["largest"] <= 1.0


def test_a_head_of_another_width_is_refused():
    with pytest.raises(TetherError, match="takes 7 features"):
        make(CoTuning(), nn.Linear(7, 5))


def test_upright_digits_are_seen_as_themselves():
    x, y = images()
    data = Digits(x[900:1000], y[900:1000], y[900:1000], x[1000:], y[1000:])
    for relationship in ("direct", "reverse"):
        method = CoTuning(relationship=relationship)
        fine_tune([method], 0, epochs=1, data=data)
        assert method.table.argmax(1).tolist() == list(range(10))
        assert float(method.table.diagonal().mean()) > 0.6


def test_the_old_head_learns_the_turned_digits():
    for seed in range(3):
        plain, method = fine_tune([], seed, epochs=10), CoTuning()
        found = fine_tune([method], seed, epochs=10)
        x, head = found.data.test_x, knowing()[4]
        with torch.no_grad():
            probs = method.table[found.data.test_y]
            now = soft_cross_entropy(method.head(found.net[:-1](x)), probs).mean()
            before = soft_cross_entropy(head(found.start[:-1](x)), probs).mean()
        assert float(now) < 0.9 * float(before)
        assert found.accuracy > plain.accuracy - 0.05
