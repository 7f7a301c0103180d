"""Theory of linear learning against matrix functions, quadrature, draws, and real sweeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import analysis_twins as twins
from tether.errors import ConfigError
from tether.measure import (
    LinearDynamics,
    estimate_signal_noise,
    marchenko_pastur,
    plan_linear_probe,
    probe_dynamics,
)

SIGNAL, NOISE = 1.0, 0.25


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.integers(2, 12), st.sampled_from([0.0, 0.7]))
def test_errors_over_time_and_strength_agree_with_matrix_functions(seed, p, n, init):
    x = np.random.default_rng(seed).normal(size=(p, n)) / math.sqrt(n)
    values = np.linalg.svd(x, compute_uv=False) ** 2  # the rest are told by n
    model = LinearDynamics(values, n, p, 1.3, NOISE, init)
    for time in (0.0, 0.3, 2.0, 40.0):
        wanted = twins.flow_error(x, time, 1.3, NOISE, init)
        assert float(model.test_error(time)) == pytest.approx(wanted, abs=1e-6)
        wanted = twins.flow_train_error(x, time, 1.3, NOISE, init)
        assert float(model.train_error(time)) == pytest.approx(wanted, abs=1e-6)
    for g in (0.01, 0.2, 3.0):
        wanted = twins.ridge_error(x, g, 1.3, NOISE)
        assert float(model.ridge_error(g)) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("alpha", "wanted"), [(0.5, 2.561553), (2.0, 0.701562)])
def test_the_density_has_mass_one_and_the_known_resolvent(alpha, wanted):
    values, mass = marchenko_pastur(alpha)
    assert mass.sum() == pytest.approx(1.0, abs=1e-6)
    g = 0.25
    closed = ((1 - alpha - g) + math.sqrt((alpha + g - 1) ** 2 + 4 * g)) / (2 * g)
    assert closed == pytest.approx(wanted, abs=1e-6)
    assert (mass / (values + g)).sum() == pytest.approx(closed, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_limits_and_optima_in_closed_form(alpha):
    model = LinearDynamics.random_features(alpha, signal_var=SIGNAL, noise_var=NOISE, init_var=0.3)
    plain = LinearDynamics.random_features(alpha, signal_var=SIGNAL, noise_var=NOISE)
    assert float(model.test_error(0)) == pytest.approx(SIGNAL + 0.3 + NOISE)
    end = (
        NOISE * (1 + 1 / (alpha - 1))
        if alpha > 1
        else SIGNAL * (1 - alpha) + NOISE * alpha / (1 - alpha) + NOISE
    )
    assert float(plain.test_error(math.inf)) == pytest.approx(end, rel=1e-4)
    frozen = 0.3 * max(0.0, 1 - alpha)  # weights that no sample moves
    assert float(model.test_error(math.inf)) == pytest.approx(end + frozen, rel=1e-4)
    assert float(plain.train_error(math.inf)) == pytest.approx(max(0, 1 - 1 / alpha) * NOISE)
    g, least = plain.optimal_ridge()
    closed = SIGNAL / 2 * (1 - alpha - g + math.sqrt((alpha + g - 1) ** 2 + 4 * g)) + NOISE
    assert g == NOISE / SIGNAL and least == pytest.approx(closed, rel=1e-5)
    near = plain.ridge_error(np.array([0.99 * g, g, 1.01 * g]))
    assert near.argmin() == 1
    time, stopped = plain.optimal_stopping()
    assert least <= stopped <= end
    around = plain.test_error(time * np.array([0.99, 1.0, 1.01]))
    assert around.argmin() == 1
    times = np.geomspace(1e-3, 1e3, 50)
    assert (np.diff(plain.train_error(times)) <= 1e-12).all()


def test_errors_peak_where_samples_equal_features():
    ends = [
        float(LinearDynamics.random_features(a, signal_var=1, noise_var=0.25).test_error(100.0))
        for a in (0.3, 0.9, 1.0, 1.1, 3.0)
    ]
    assert ends.index(max(ends)) == 2


def test_one_eigenvalue_stops_at_the_logarithm_and_no_noise_never():
    model = LinearDynamics([3.0], 1, 5, SIGNAL, NOISE)
    assert model.optimal_stopping()[0] == pytest.approx(math.log(1 + 3 / NOISE) / 3)
    exact = LinearDynamics([3.0, 1.0], 2, 5, SIGNAL, 0.0)
    assert exact.optimal_stopping() == (math.inf, 0.0)
    assert exact.optimal_ridge() == (0.0, 0.0)
    assert LinearDynamics([0.0], 4, 5, SIGNAL, NOISE).optimal_stopping()[0] == 0.0


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_draws_agree_with_the_limit(alpha):
    rng = np.random.default_rng(1)
    n, p = 300, int(alpha * 300)
    model = LinearDynamics.random_features(alpha, signal_var=SIGNAL, noise_var=NOISE)
    times = np.geomspace(0.5, 8, 12)
    flows, ridges = [], []
    for _ in range(8):
        x = rng.normal(size=(p, n)) / math.sqrt(n)
        w = rng.normal(size=n)
        y = x @ w + math.sqrt(NOISE) * rng.normal(size=p)
        values, vectors = np.linalg.eigh(x.T @ x)
        values = np.maximum(values, 1e-12)
        c = vectors.T @ (x.T @ y)
        flow = [vectors @ ((1 - np.exp(-values * t)) / values * c) - w for t in times]
        flows.append([(gap**2).mean() + NOISE for gap in flow])
        ridges.append(((vectors @ (c / (values + NOISE)) - w) ** 2).mean() + NOISE)
    for found, wanted in ((flows, model.test_error(times)), (ridges, model.optimal_ridge()[1])):
        error = np.std(found, 0, ddof=1) / math.sqrt(len(found))
        assert (np.abs(np.mean(found, 0) - wanted) < 4 * error).all()
        assert (error < 0.05 * np.asarray(wanted)).all()  # tight enough to tell


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(30, 6), (12, 20)]), st.integers(1, 3))
def test_signal_and_noise_are_the_most_likely(seed, shape, outputs):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    y = x @ rng.normal(size=(shape[1], outputs)) + 1.5 * rng.normal(size=(shape[0], outputs))
    signal, noise = estimate_signal_noise(x + 5, y - 3)
    best = twins.log_evidence(x, y, signal, noise)
    for a, b in [(1.1, 1), (0.9, 1), (1, 1.1), (1, 0.9), (1.1, 1.1), (3, 0.3)]:
        assert twins.log_evidence(x, y, a * signal, b * noise) <= best + 1e-6


def test_the_probe_is_really_gradient_descent():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(80, 10)), rng.normal(size=(10, 2))
    y = x @ w + 3 * rng.normal(size=(80, 2))
    plan = plan_linear_probe(x, y, lr=0.02, momentum=0.5)
    found = probe_dynamics(x[:60], y[:60], x[60:], y[60:])
    assert 5 < plan.steps < 500 and plan.ridge == pytest.approx(plan.weight_decay * 80)
    # run it: full batches, zero start, the same step of training the sweep tells about
    a, b = (torch.as_tensor(part[:60] - part[:60].mean(0)) for part in (x, y))
    weight = torch.zeros(2, 10, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=5e-3)
    place = 40
    for _ in range(round(found.times[place] * 60 / 5e-3)):
        optimizer.zero_grad()
        (0.5 * (a @ weight.T - b).square().sum() / 60).backward()
        optimizer.step()
    with torch.no_grad():
        error = float((a @ weight.T - b).square().mean())
        new = torch.as_tensor(x[60:] - x[:60].mean(0)) @ weight.T + torch.as_tensor(y[:60].mean(0))
        fresh = float((new - torch.as_tensor(y[60:])).square().mean())
    assert error == pytest.approx(found.train[place], rel=0.01)
    assert fresh == pytest.approx(found.measured[place], rel=0.01)
    assert plan.largest_lr > 0.02


def test_prediction_meets_measurement_on_random_features():
    rng = np.random.default_rng(0)
    n, p = 60, 90
    ratios, gaps = [], []
    for _ in range(6):
        w = rng.normal(size=(n, 5)) / math.sqrt(n)
        x, new = rng.normal(size=(p, n)), rng.normal(size=(2000, n))
        y = x @ w + rng.normal(size=(p, 5))
        found = probe_dynamics(x, y, new, new @ w + rng.normal(size=(2000, 5)))
        ratios.append(
            [
                found.predicted_time / found.measured_time,
                found.predicted_ridge / found.measured_ridge,
            ]
        )
        gaps.append(found.predicted / found.measured)
        assert found.error_at_predicted_time < 1.02 * found.error_at_measured_time
        assert found.error_at_predicted_ridge < 1.02 * found.error_at_measured_ridge
        assert found.error_converged > 1.2 * found.error_at_measured_time
        assert math.isnan(found.accuracy_converged)
    assert np.abs(np.log(np.mean(ratios, 0))).max() < math.log(1.5)
    np.testing.assert_allclose(np.mean(gaps, 0), 1.0, atol=0.15)


def test_digits_with_wrong_labels_ask_to_stop_and_theory_says_so():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    z = np.maximum(x / 16 @ rng.normal(size=(64, 200)) * 0.4, 0)
    order = rng.permutation(len(y))
    train, test = order[:300], order[300:1000]
    noisy = y.copy()
    flipped = train[:120]
    noisy[flipped] = (noisy[flipped] + rng.integers(1, 10, 120)) % 10
    clean = probe_dynamics(z[train], y[train], z[test], y[test])
    wrong = probe_dynamics(z[train], noisy[train], z[test], y[test])
    for found in (clean, wrong):
        assert found.error_at_predicted_time < 1.15 * found.error_at_measured_time
        assert found.error_at_predicted_ridge < 1.15 * found.error_at_measured_ridge
        assert found.error_at_measured_time <= found.error_at_predicted_time < found.error_converged
    assert wrong.predicted_ridge > 5 * clean.predicted_ridge
    assert wrong.predicted_time < clean.predicted_time / 5
    assert wrong.accuracy_at_predicted_ridge > wrong.accuracy_converged + 0.2
    assert wrong.as_json()["samples"] == 300


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_rotation_shift_and_scale_act_as_they_must(seed, scale):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, 6))
    y = x @ rng.normal(size=(6, 2)) + rng.normal(size=(40, 2))
    q = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    base = plan_linear_probe(x, y, 0.1)
    moved = plan_linear_probe(scale * x @ q + 3, 2 * y - 1, 0.1)
    assert moved.ridge == pytest.approx(base.ridge * scale**2, rel=1e-4)
    assert moved.steps == pytest.approx(base.steps / scale**2, rel=1e-4)
    assert moved.noise_var == pytest.approx(4 * base.noise_var, rel=1e-4)


def test_more_dimensions_than_samples_and_classes_that_the_test_lacks():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 100)), np.arange(30) % 3
    found = probe_dynamics(x, y, x[:6] + 0.1, np.array([0, 1, 0, 0, 1, 0]))
    assert np.isfinite(found.measured).all() and 0 <= found.accuracy_at_predicted_time <= 1
    split = probe_dynamics(torch.as_tensor(x), torch.as_tensor(y), seed=3)
    assert split.samples == 21 and split.test_samples == 9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: marchenko_pastur(0.0), "alpha must be above 0"),
        (lambda: LinearDynamics([], 1, 1, 1, 1), "at least one"),
        (lambda: LinearDynamics([1.0], 1, 1, 0, 1), "signal_var must be above 0"),
        (lambda: LinearDynamics([1.0, 1.0], 1, 1, 1, 1), "more eigenvalues"),
        (lambda: LinearDynamics([1.0], 0, 1, 1, 1), "features and samples"),
        (lambda: estimate_signal_noise(np.ones((1, 2)), [1.0]), "two samples or more"),
        (lambda: estimate_signal_noise(np.ones((4, 2)), np.arange(4.0)), "are equal"),
        (lambda: estimate_signal_noise(np.full((4, 2), 0.1), np.arange(4.0)), "are equal"),
        (lambda: estimate_signal_noise(np.eye(4), np.ones(4)), "nothing to learn"),
        (lambda: estimate_signal_noise(np.eye(4), np.zeros(4, int)), "nothing to learn"),
        (lambda: estimate_signal_noise(np.eye(4) * np.nan, np.ones(4)), "must be finite"),
        (lambda: estimate_signal_noise(np.eye(4), [0, 1, 2]), "as many targets"),
        (lambda: estimate_signal_noise(np.eye(2), ["a", "b"]), "must be numbers"),
        (lambda: plan_linear_probe(np.eye(4), np.arange(4.0), lr=0), "lr must be above 0"),
        (lambda: plan_linear_probe(np.eye(4), np.arange(4.0), 1.0, momentum=1.0), "momentum"),
        (lambda: probe_dynamics(np.eye(4), np.arange(4.0), np.eye(4)), "or neither"),
        (lambda: probe_dynamics(np.eye(2), np.arange(2.0)), "cannot be split"),
        (lambda: probe_dynamics(np.eye(4), [0, 1, 0, 1], np.eye(4), [0, 1, 2, 0]), "below 2"),
        (lambda: probe_dynamics(np.eye(4), np.arange(4.0), np.eye(3), [1.0] * 3), "do not fit"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_clear_error(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
