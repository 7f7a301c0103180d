"""Memorised, resisted, other, fitted: sums, extremes, and a network that really memorises."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tether.measure import loss_histograms, memorization_curve, memorization_fractions
from tether.noise import symmetric_noise


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=30))
def test_fractions_sum_to_one_and_agree_with_counting(rows):
    p, s, y = (list(column) for column in zip(*rows, strict=True))
    found = memorization_fractions(p, s, y)
    wrong = [r for r in rows if r[1] != r[2]]
    clean = [r for r in rows if r[1] == r[2]]
    assert (found["num_wrong"], found["num_clean"]) == (len(wrong), len(clean))
    if wrong:
        assert found["memorised"] + found["resisted"] + found["other"] == pytest.approx(1.0)
        assert found["memorised"] == sum(r[0] == r[1] for r in wrong) / len(wrong)
        assert found["resisted"] == sum(r[0] == r[2] for r in wrong) / len(wrong)
    else:
        assert math.isnan(found["memorised"])
    if clean:
        assert found["fitted"] == sum(r[0] == r[1] for r in clean) / len(clean)


def test_extremes_and_logits():
    noisy = symmetric_noise(torch.arange(200) % 10, 0.4)
    given = memorization_fractions(noisy.labels, noisy.labels, noisy.true)
    assert (given["memorised"], given["resisted"], given["fitted"]) == (1.0, 0.0, 1.0)
    logits = nn.functional.one_hot(noisy.true, 10).float()
    truth = memorization_fractions(logits, noisy.labels, noisy.true)
    assert (truth["memorised"], truth["resisted"], truth["fitted"]) == (0.0, 1.0, 1.0)


def test_a_network_resists_first_and_memorises_later():
    """Separable data, 30 % wrong labels, a wide network: the curve of memorisation must rise."""
    rng = torch.Generator().manual_seed(0)
    true = torch.arange(400) % 4
    x = 4 * torch.eye(4)[true] + torch.randn(400, 4, generator=rng)
    x = torch.cat([x, torch.randn(400, 20, generator=rng)], 1)
    noisy = symmetric_noise(true, 0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(24, 256), nn.ReLU(), nn.Linear(256, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    history, losses = [], []
    for _ in range(150):
        loss = nn.functional.cross_entropy(net(x), noisy.labels, reduction="none")
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        history.append(net(x).argmax(1))
        losses.append(loss.detach())
    curve = memorization_curve(torch.stack(history), noisy.labels, noisy.true)
    early = max(range(150), key=lambda e: curve["resisted"][e])
    assert early < 40 and curve["resisted"][early] > 0.8 and curve["memorised"][early] < 0.15
    assert curve["memorised"][-1] > 0.95 and curve["fitted"][-1] > 0.95
    assert loss_histograms(losses[early], noisy.labels, noisy.true)["auroc"] > 0.95
    assert loss_histograms(losses[-1], noisy.labels, noisy.true)["auroc"] < 0.92


def test_histograms_count_every_sample_once():
    noisy = symmetric_noise(torch.arange(300) % 3, 0.5)
    losses = torch.rand(300, generator=torch.Generator().manual_seed(0)) * 4
    found = loss_histograms(losses, noisy.labels, noisy.true, bins=7)
    assert len(found["edges"]) == 8 and found["edges"][0] == 0.0
    assert sum(found["clean"]) == 150 and sum(found["wrong"]) == 150
    for i in range(7):
        low, high = found["edges"][i : i + 2]
        inside = (losses.double() >= low) & ((losses.double() < high) | (i == 6))
        assert found["clean"][i] + found["wrong"][i] == int(inside.sum())
    same = loss_histograms([0.0, 0.0], [0, 1], [0, 0], bins=3)
    assert sum(same["clean"]) == sum(same["wrong"]) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: memorization_fractions([0, 1], [0, 1], [0]), "lengths differ"),
        (lambda: memorization_fractions([0.5, 0.2], [0, 1], [0, 1]), "predictions must be"),
        (lambda: memorization_curve([0, 1], [0, 1], [0, 1]), "epochs x samples"),
        (lambda: loss_histograms([0.1, 0.2], [0, 1], [0, 1], bins=0), "bins"),
    ],
)
def test_bad_input_gets_one_clear_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()
