"""Tilted boundaries: the angle's identities, twins, and digits as C grows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import analysis_twins as twins
from tether.errors import ConfigError
from tether.measure import adversarial_strength, boundary_tilt, deviation_angle


def data(seed, n=40, d=5, k=3):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k).repeat(2), rng.integers(0, k, n - 2 * k)])
    x = rng.normal(size=(n, d)) * np.geomspace(0.3, 2, d) + 2 * rng.normal(size=(k, d))[y]
    return x, y, rng.normal(size=(k, d)), rng.normal(size=k)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_every_pair_agrees_with_the_twin(seed):
    x, y, w, b = data(seed)
    found = boundary_tilt(x, y, w, b)
    for i in range(3):
        for j in range(3):
            if i != j:
                angle, strength, own, variance = twins.tilt(x, y, w, b, i, j)
                assert found.angle[i, j] == pytest.approx(angle, abs=1e-6)
                assert found.strength[i, j] == pytest.approx(strength, rel=1e-6)
                assert found.class_strength[i, j] == pytest.approx(own, rel=1e-6)
                assert found.tilt_variance[i, j] == pytest.approx(variance, rel=1e-6)
    assert np.isnan(np.diag(found.angle)).all()
    means = np.stack([x[y == k].mean(0) for k in range(3)])
    nearest = ((x[:, None] - means) ** 2).sum(2).argmin(1)
    assert found.centroid_accuracy == (nearest == y).mean()
    assert found.head_accuracy == ((x @ w.T + b).argmax(1) == y).mean()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_scale_rotation_shift_and_renaming_change_nothing(seed, scale):
    x, y, w, b = data(seed)
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(5, 5)))[0]
    shift = np.arange(5.0)
    base = boundary_tilt(x, y, w, b)
    moved = boundary_tilt(x @ q + shift, y, scale * w @ q, scale * (b - (w @ q) @ shift))
    for name in ("angle", "strength", "class_strength", "tilt_variance"):
        np.testing.assert_allclose(getattr(moved, name), getattr(base, name), rtol=1e-5)
    swapped = boundary_tilt(x, 2 - y, w[::-1].copy(), b[::-1].copy())
    np.testing.assert_allclose(swapped.angle, base.angle[::-1, ::-1])
    np.testing.assert_allclose(swapped.class_strength, base.class_strength[::-1, ::-1])


def test_known_angles():
    i, j = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([-1.0, 0.0, 0.0])
    assert float(deviation_angle(i - j, i, j)) == 0.0
    assert float(adversarial_strength(i - j, i, j)) == 1.0
    tilted = torch.tensor([[math.cos(a), math.sin(a), 0.0] for a in (0.5, 1.0, 1.5)])
    assert deviation_angle(tilted, i, j).tolist() == pytest.approx([0.5, 1.0, 1.5], abs=1e-6)
    assert float(adversarial_strength(torch.tensor([0.0, 1.0, 0.0]), i, j)) == math.inf
    assert float(adversarial_strength(j - i, i, j)) == math.inf
    assert math.isnan(float(deviation_angle(i * 0, i, j)))
    assert math.isnan(float(adversarial_strength(i, i, i)))


@pytest.mark.parametrize("a", [0.0, 0.5, 3.0, 40.0])
def test_weight_on_a_dimension_that_is_zero_tilts_without_changing_a_score(a):
    x, y, *_ = data(0, k=2)
    z = x[y == 1].mean(0) - x[y == 0].mean(0)
    z /= np.linalg.norm(z)
    padded = np.pad(x, ((0, 0), (0, 1)))
    w = np.append(z, a)
    middle = (x[y == 1].mean(0) + x[y == 0].mean(0)) / 2
    found = boundary_tilt(padded, y, w, [-z @ middle])
    assert found.strength[0, 1] == pytest.approx(math.sqrt(1 + a * a))
    # the bias passes through the midpoint: both classes are as near as the strength tells
    assert found.class_strength[1, 0] == pytest.approx(math.sqrt(1 + a * a))
    assert found.class_strength[0, 1] == pytest.approx(math.sqrt(1 + a * a))
    assert found.head_accuracy == found.centroid_accuracy  # whatever a
    if a:
        assert found.tilt_variance[0, 1] == pytest.approx(0.0)


def test_the_less_a_head_is_regularised_the_more_it_tilts():
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    x, y = load_digits(return_X_y=True)
    two = np.isin(y, (3, 8))
    x, y = x[two] / 16, (y[two] == 8).astype(int)
    first = np.sort(np.concatenate([np.flatnonzero(y == k)[:120] for k in (0, 1)]))
    rest = np.setdiff1d(np.arange(len(y)), first)
    rows, gained = [], []
    for c in (1e-3, 0.1, 1, 10, 1e3):
        head = LogisticRegression(C=c, max_iter=5000).fit(x[first], y[first])
        rows.append(boundary_tilt(x[first], y[first], head.coef_, head.intercept_))
        gained.append(head.score(x[rest], y[rest]))
        # on samples held out: mean distance to the centroid boundary over that to the head's
        m = [x[first][y[first] == k].mean(0) for k in (0, 1)]
        z = (m[1] - m[0]) / np.linalg.norm(m[1] - m[0])
        sign = 2 * y[rest] - 1
        far = np.mean(
            [(sign * ((x[rest] - (m[0] + m[1]) / 2) @ z))[y[rest] == k].mean() for k in (0, 1)]
        )
        score = sign * head.decision_function(x[rest]) / np.linalg.norm(head.coef_)
        near = np.mean([score[y[rest] == k].mean() for k in (0, 1)])
        assert far / near == pytest.approx(rows[-1].max_strength, rel=0.05)
    angles = [row.max_angle for row in rows]
    # found once; the last depends on how far the solver goes
    assert angles[:4] == pytest.approx([0.3, 10.2, 22.4, 31.4], abs=1.0)
    assert angles == sorted(angles)
    assert gained[-1] <= gained[-2] + 1e-9  # the last tilt gains nothing
    tilted = [row.tilt_variance[0, 1] for row in rows[1:]]
    assert tilted == sorted(tilted, reverse=True)  # towards what the data hardly use


def test_missing_classes_are_told_and_one_score_is_a_head():
    x, y, w, b = data(1)
    wide = boundary_tilt(x, 2 * y, np.repeat(w, 2, 0), np.repeat(b, 2))
    assert wide.classes == [0, 2, 4] and wide.missing == [1, 3, 5]
    np.testing.assert_allclose(wide.angle, boundary_tilt(x, y, w, b).angle)
    x, y, w, b = data(1, k=2)
    one = boundary_tilt(x, y, w[1] - w[0], [b[1] - b[0]])
    two = boundary_tilt(x, y, w, b)
    assert one.as_json()["mean_angle"] == pytest.approx(two.mean_angle)
    assert one.head_accuracy == two.head_accuracy
    without = boundary_tilt(x, y, w)
    assert without.mean_strength == two.mean_strength
    assert math.isnan(without.head_accuracy) and np.isnan(without.class_strength).all()


def test_equal_means_and_a_dead_head_are_not_numbers():
    x = np.array([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
    found = boundary_tilt(x, [0, 0, 1, 1], np.eye(2), np.zeros(2))
    assert math.isnan(found.max_angle) and math.isnan(found.mean_strength)
    x, y, w, b = data(0)
    assert np.isnan(boundary_tilt(x, y, 0 * w, 0 * b).angle).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": np.zeros(40, int)}, "two classes"),
        ({"features": np.full((40, 5), np.inf)}, "not numbers"),
        ({"head_weight": np.ones((3, 4))}, "reads 4 dimensions"),
        ({"head_bias": np.ones(2)}, "3 finite numbers"),
        ({"targets": np.full(40, 3)}, "there are 3 classes"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(change, message):
    given_ = dict(zip(("features", "targets", "head_weight", "head_bias"), data(0), strict=True))
    with pytest.raises(ConfigError, match=message):
        boundary_tilt(**(given_ | change))
