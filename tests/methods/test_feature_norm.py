"""Feature norm penalty and squared gradient magnitude."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from tests.reference import feature_twins as twins
from tether import FeatureNormPenalty, attach, create_method
from tether.methods.features.feature_norm import feature_norm_penalty
from tether.methods.features.sgm import sgm_penalty

DOUBLE = torch.float64


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 6), d=st.integers(1, 7), seed=st.integers(0, 99),
    reduction=st.sampled_from(["mean", "official"]),
)  # fmt: skip
def test_norm_agrees_with_the_twin_and_its_gradient(n, d, seed, reduction):
    f = rows(n, d, seed).requires_grad_()
    value = feature_norm_penalty(f, reduction=reduction)
    assert value.item() == pytest.approx(
        twins.feature_norm(f.detach().numpy(), reduction), rel=1e-12
    )
    value.backward()
    scale = 2 / (n * d) if reduction == "mean" else 1 / n
    torch.testing.assert_close(f.grad, scale * f.detach(), rtol=1e-12, atol=0)


def test_weight_of_the_official_form_is_w_d_over_2():
    f = rows(5, 12)
    torch.testing.assert_close(
        0.03 * feature_norm_penalty(f, reduction="official"),
        0.03 * 12 / 2 * feature_norm_penalty(f),
    )


def test_rows_that_do_not_count_have_no_part():
    f = rows(4, 3).requires_grad_()
    mask = torch.tensor([True, False, True, False])
    value = feature_norm_penalty(f, mask=mask)
    torch.testing.assert_close(value, feature_norm_penalty(f.detach()[mask]))
    value.backward()
    assert f.grad is not None and not f.grad[~mask].any() and f.grad[mask].all()
    assert feature_norm_penalty(f, mask=torch.zeros(4, dtype=torch.bool)) == 0


def test_half_features_are_squared_in_float32():
    f = torch.full((2, 3), 300.0, dtype=torch.float16)
    assert feature_norm_penalty(f) == 90000.0  # above the largest float16


def test_one_row_and_maps_of_features():
    torch.testing.assert_close(feature_norm_penalty(torch.ones(1, 4, 2, 2)), torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"shape \[N, d\]"):
        feature_norm_penalty(torch.ones(4))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 6), d=st.integers(1, 5), k=st.integers(2, 5), seed=st.integers(0, 99))
def test_sgm_agrees_with_the_twin(n, d, k, seed):
    f, logits = rows(n, d, seed), rows(n, k, seed + 1)
    y = torch.randint(k, (n,), generator=torch.Generator().manual_seed(seed))
    for reduction in ("sample", "batch"):
        wanted = twins.sgm(f.numpy(), logits.numpy(), y.numpy(), reduction)
        found = sgm_penalty(f, logits, y, reduction=reduction).item()
        assert found == pytest.approx(wanted, rel=1e-10, abs=1e-14)
        soft = nn.functional.one_hot(y, k).to(DOUBLE)
        assert sgm_penalty(f, logits, soft, reduction=reduction).item() == pytest.approx(found)


def test_sgm_is_the_head_gradient_and_differentiable_through_both_factors():
    head, f = nn.Linear(4, 3, bias=False).double(), rows(1, 4)
    y = torch.tensor([2])
    nn.functional.cross_entropy(head(f), y).backward()
    torch.testing.assert_close(sgm_penalty(f, head(f), y), head.weight.grad.square().sum())
    f3, logits = rows(3, 4).requires_grad_(), rows(3, 5, 1).requires_grad_()
    y3 = torch.tensor([0, 4, -100])
    for reduction in ("sample", "batch"):
        assert torch.autograd.gradcheck(
            lambda a, b, r=reduction: sgm_penalty(a, b, y3, reduction=r), (f3, logits)
        )
    kept = sgm_penalty(f3[:2], logits[:2], y3[:2])
    torch.testing.assert_close(sgm_penalty(f3, logits, y3), kept)


# -- attached ------------------------------------------------------------------------------------


def train(method, steps=6):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2)
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    reg = attach(net, method, optimizer, train_data=TensorDataset(x, y)) if method else None
    for _ in range(steps):
        loss = reg.loss(net(x), y) if reg else nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return net, reg, x


@pytest.mark.parametrize("name", ["feature_norm", "sgm"])
def test_weight_zero_is_plain_training_bit_for_bit(name):
    plain, _, _ = train(None)
    net, _, _ = train(create_method(name, weight=0.0))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), net.parameters(), strict=True))


@pytest.mark.parametrize(("name", "weight"), [("feature_norm", 2.0), ("sgm", 0.5)])
def test_features_shrink(name, weight):
    plain, _, x = train(None, 40)
    net, _, _ = train(create_method(name, weight=weight), 40)
    assert net[:2](x).norm(dim=1).mean() < 0.8 * plain[:2](x).norm(dim=1).mean()


def test_measure_reports_the_norm_of_the_last_batch():
    _, reg, x = train(FeatureNormPenalty(), 1)
    torch.manual_seed(0)
    before = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    wanted = before(x).norm(dim=1).mean().item()
    assert reg.measure()["feature_norm"]["feature_norm"] == pytest.approx(wanted, rel=1e-6)


def test_token_features_are_averaged_over_valid_tokens():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 4))
    reg = attach(
        net, FeatureNormPenalty(), torch.optim.SGD(net.parameters(), lr=0.1),
        loss="token_cross_entropy",
    )  # fmt: skip
    words, targets = torch.tensor([[1, 2, 3]]), torch.tensor([[0, 3, -100]])
    reg.loss(net(words), targets)
    pooled = net[0](words)[:, :2].mean(1)
    torch.testing.assert_close(reg.parts["feature_norm"], pooled.square().mean().detach())


def test_frozen_layers_below_the_head_are_told():
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    net[0].requires_grad_(False)
    with pytest.warns(UserWarning, match="layers below the head are frozen, and feature_norm"):
        attach(net, FeatureNormPenalty(), torch.optim.SGD(net[1].parameters(), lr=0.1))


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction='sum' is not one of 'mean', 'official'"):
        FeatureNormPenalty(reduction="sum")
