"""Feature measures against slow twins and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.reference import measure_twins as twins
from tether.measure import (
    class_separation,
    effective_rank,
    feature_entropy,
    feature_norms,
    feature_report,
    head_gradient_norm,
    linear_cka,
    mutual_information,
)


def data(seed, n=18, d=4, k=3):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k).repeat(2), rng.integers(0, k, n - 2 * k)])
    return rng.normal(size=(n, d)) + 2 * rng.normal(size=(k, d))[y], y


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_measures_agree_with_the_twins(seed, d):
    f, y = data(seed, d=d)
    g = np.random.default_rng(seed + 1).normal(size=(len(f), 25))
    assert float(feature_entropy(f)) == pytest.approx(twins.entropy(f), abs=1e-8)
    information = twins.mutual_information(f, y)
    assert float(mutual_information(f, y)) == pytest.approx(information, abs=1e-8)
    assert float(class_separation(f, y)) == pytest.approx(twins.class_separation(f, y), abs=1e-9)
    # d < n and d > n take different routes to the same number
    for other in (f[:, ::-1] ** 2, g):
        cka = twins.linear_cka(f, other)
        assert float(linear_cka(f, other.copy())) == pytest.approx(cka, abs=1e-9)
    wide = np.concatenate([f, g], 1)
    assert float(linear_cka(wide, g)) == pytest.approx(twins.linear_cka(wide, g), abs=1e-9)


def test_entropy_of_known_distributions():
    x = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0)).double()
    # the limit for a standard normal: 1 + log 2 + E log |x - x'| = 1.404; its entropy is 1.419
    limit = 1 + math.log(2) + 0.5 * (math.log(4) - 0.5772156649 - math.log(4))
    assert limit == pytest.approx(1.404, abs=1e-3)
    assert float(feature_entropy(x)) == pytest.approx(limit, abs=0.03)
    wide = float(feature_entropy(5 * x)) - float(feature_entropy(x))
    assert wide == pytest.approx(math.log(5))


def test_entropy_moves_by_d_log_c_is_blind_to_rigid_motion_and_survives_duplicates():
    f = torch.as_tensor(data(0, n=40)[0])
    base = float(feature_entropy(f))
    assert float(feature_entropy(0.5 * f + 3)) == pytest.approx(base + 4 * math.log(0.5))
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double())
    assert float(feature_entropy(f @ turn.Q)) == pytest.approx(base)
    doubled = torch.cat([f, f])
    assert -1e3 < float(feature_entropy(doubled)) < base
    collapsed = float(feature_entropy(torch.ones(5, 4)))
    assert collapsed == pytest.approx(float(feature_entropy(torch.zeros(9, 4))))


def test_information_grows_with_the_distance_of_classes():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 3
    noise = rng.normal(size=(300, 3))
    values = [float(mutual_information(noise + c * np.eye(3)[y], y)) for c in (0.0, 2.0, 8.0)]
    assert abs(values[0]) < 0.1 < values[1] < values[2]
    assert float(mutual_information(7 * noise + 1, y)) == pytest.approx(values[0])


def test_entropy_and_information_pass_gradcheck():
    f = torch.as_tensor(data(2, n=8, d=2)[0], dtype=torch.float64).requires_grad_()
    y = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1])
    assert torch.autograd.gradcheck(feature_entropy, f)
    assert torch.autograd.gradcheck(lambda x: mutual_information(x, y), f)
    assert torch.autograd.gradcheck(lambda x: class_separation(x, y), f)
    assert torch.autograd.gradcheck(effective_rank, f)


def test_class_separation_of_collapsed_and_of_random_classes():
    means = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
    y = torch.arange(2000) % 10
    scale = torch.rand(2000, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    assert float(class_separation(means[y] * scale, y)) == pytest.approx(1.0)
    random = torch.randn(2000, 16, generator=torch.Generator().manual_seed(2))
    assert abs(float(class_separation(random, y))) < 0.01
    # classes weigh the same: repeating one changes nothing
    f, z = means[y] + random, torch.cat([y, y[y == 3]])
    more = torch.cat([f, f[y == 3]])
    assert float(class_separation(more, z)) == pytest.approx(float(class_separation(f, y)))
    assert float(class_separation(torch.ones(6, 3), torch.tensor([0, 0, 1, 1, 4, 4]))) == 0.0


def test_effective_rank_of_known_spectra():
    basis = torch.linalg.qr(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)).double())
    for rank in (1, 3, 8):
        assert float(effective_rank(basis.Q[:, :rank])) == pytest.approx(rank)
    spectrum = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    wanted = 2 ** (0.5 * 1 + 0.25 * 2 + 2 * 0.125 * 3)
    assert float(effective_rank(basis.Q[:, :4] * spectrum)) == pytest.approx(wanted)
    assert float(effective_rank(torch.zeros(4, 3))) == 0.0
    shifted = basis.Q[:, :2] - basis.Q[:, :2].mean(0) + 100
    assert float(effective_rank(shifted)) < 1.3
    assert float(effective_rank(shifted, center=True)) > 1.9


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(40, 5), (6, 20)]))
def test_cka_is_one_under_orthogonal_maps_shifts_and_scales(seed, shape):
    rng = np.random.default_rng(seed)
    f = rng.normal(size=shape)
    turn = np.linalg.qr(rng.normal(size=(shape[1], shape[1])))[0]
    assert float(linear_cka(f, 3 * f @ turn + rng.normal(size=shape[1]))) == pytest.approx(1.0)
    other = rng.normal(size=(shape[0], 3))
    value = float(linear_cka(f, other))
    assert -1e-12 <= value <= 1 and value == pytest.approx(float(linear_cka(other, f)))


def test_norms():
    f = torch.randn(501, 7, generator=torch.Generator().manual_seed(0)) + 1
    norms = np.linalg.norm(f.double().numpy(), axis=1)
    found = feature_norms(f)
    wanted = [norms.mean(), np.median(norms), *np.percentile(norms, [5, 95])]
    assert [found[k] for k in ("mean", "median", "p5", "p95")] == pytest.approx(wanted)
    assert found["norm_of_mean"] == pytest.approx(float(f.double().mean(0).norm()))
    assert found["norm_of_mean"] < found["mean"]


def test_head_gradient_norm_equals_autograd():
    torch.manual_seed(0)
    head, f = nn.Linear(6, 4).double(), torch.randn(20, 6).double()
    y = torch.arange(20) % 4
    soft = torch.softmax(torch.randn(20, 4).double(), 1)
    for target in (y, soft):
        logits = head(f)
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, target), head.weight)
        found = head_gradient_norm(logits.detach(), f, target)
        assert float(found) == pytest.approx(float(gradient.norm()))
    one = head_gradient_norm(head(f[:1]).detach(), f[:1], y[:1])
    p = torch.softmax(head(f[:1]).detach(), 1)[0]
    p[y[0]] -= 1
    assert float(one) == pytest.approx(float(p.norm() * f[0].norm()))


def test_report_holds_every_measure():
    f, y = (torch.as_tensor(v) for v in data(5, n=60, d=5))
    logits = f @ torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    report = feature_report(f, y, f.roll(1, 1) * 2, logits=logits)
    assert report["entropy"] == float(feature_entropy(f))
    assert report["mutual_information"] == float(mutual_information(f, y))
    assert report["class_separation"] == float(class_separation(f, y))
    assert report["effective_rank"] == float(effective_rank(f))
    assert report["linear_cka"] == pytest.approx(1.0)
    assert report["head_gradient_norm"] == float(head_gradient_norm(logits, f, y))
    assert report["smallest_singular_value"] == float(torch.linalg.svdvals(f)[-1])
    assert report["norm_mean"] == feature_norms(f)["mean"]
    assert report["norm_of_mean"] == feature_norms(f)["norm_of_mean"]
    lonely = feature_report(f.float().numpy(), np.arange(60))
    assert math.isnan(lonely["mutual_information"]) and "linear_cka" not in lonely


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: feature_entropy(torch.ones(1, 3)), "at least 2"),
        (lambda: feature_entropy(torch.ones(2, 3, 4, 4)), "pool or flatten"),
        (lambda: mutual_information(torch.rand(3, 2), torch.tensor([0, 0, 7])), "class 7 has one"),
        (lambda: class_separation(torch.rand(3, 2), torch.tensor([0, 1])), "lengths differ"),
        (lambda: class_separation(torch.rand(2, 2), torch.rand(2)), "class indices"),
        (lambda: linear_cka(torch.rand(3, 2), torch.rand(4, 2)), "lengths differ"),
        (
            lambda: head_gradient_norm(torch.rand(2, 3), torch.rand(2, 4), torch.tensor([0, 3])),
            r"\[0, 3\)",
        ),
        (
            lambda: head_gradient_norm(torch.rand(2, 3), torch.rand(2, 4), torch.rand(2, 2)),
            "soft targets",
        ),
    ],
)
def test_bad_input_gets_one_clear_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()
