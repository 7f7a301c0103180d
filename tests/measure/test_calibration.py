"""Calibration against slow twins, scikit-learn, and by hand."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import analysis_twins as twins
from tether.errors import ConfigError
from tether.measure import (
    brier_score,
    calibration,
    calibration_report,
    classwise_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
    reliability_curve,
)
from tether.tuning import metrics


def data(seed, n=60, k=4):
    rng = np.random.default_rng(seed)
    return 2 * rng.normal(size=(n, k)), rng.integers(0, k, n)


def pairs(logits, y):
    p = np.exp(calibration.log_probabilities(logits))
    return p, p.max(1), p.argmax(1) == y


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20))
def test_errors_agree_with_the_twins(seed, bins):
    logits, y = data(seed)
    p, sure, right = pairs(logits, y)
    for scheme in ("width", "mass"):
        args = (sure, right, bins)
        twin = twins.calibration_error(*args, scheme)
        assert expected_calibration_error(*args, scheme=scheme) == pytest.approx(twin, abs=1e-9)
        twin = twins.calibration_error(*args, scheme, largest=True)
        assert maximum_calibration_error(*args, scheme=scheme) == pytest.approx(twin, abs=1e-9)
    each = [twins.calibration_error(p[:, k], y == k, bins) for k in range(4)]
    assert classwise_calibration_error(p, y, bins) == pytest.approx(np.mean(each), abs=1e-9)
    assert brier_score(p, y) == pytest.approx(twins.brier(p, y), abs=1e-9)


def test_scores_agree_with_scikit_learn():
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import log_loss

    logits, y = data(0, n=400)
    p, sure, right = pairs(logits, y)
    found = negative_log_likelihood(np.log(p), y)
    assert found == pytest.approx(log_loss(y, p))
    for scheme, name in (("width", "uniform"), ("mass", "quantile")):
        accuracy, confidence = calibration_curve(right, sure, n_bins=8, strategy=name)
        curve = reliability_curve(sure, right, 8, scheme=scheme)
        held = curve["count"] > 0
        assert curve["accuracy"][held] == pytest.approx(accuracy, abs=1e-9)
        assert curve["confidence"][held] == pytest.approx(confidence, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["width", "mass"]), st.integers(1, 12))
def test_the_curve_holds_every_sample_and_gives_the_error(seed, scheme, bins):
    logits, y = data(seed)
    _, sure, right = pairs(logits, y)
    curve = reliability_curve(sure, right, bins, scheme=scheme)
    assert curve["count"].sum() == len(y) and len(curve["edges"]) == bins + 1
    if scheme == "mass":
        assert np.ptp(curve["count"]) <= 1
    gaps = np.nan_to_num(np.abs(curve["accuracy"] - curve["confidence"])) * curve["count"]
    error = expected_calibration_error(sure, right, bins, scheme=scheme)
    assert gaps.sum() / len(y) == pytest.approx(error)
    inside = curve["count"] > 0
    low, high = curve["edges"][:-1][inside], curve["edges"][1:][inside]
    assert (
        (curve["confidence"][inside] >= low - 1e-9) & (curve["confidence"][inside] <= high + 1e-9)
    ).all()


def test_sharpening_a_calibrated_network_makes_it_over_confident():
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.normal(size=(20000, 5))
    p = np.exp(calibration.log_probabilities(logits))
    y = (p.cumsum(1) > rng.random((len(p), 1))).argmax(1)  # drawn from what the network says
    calibrated, sharp = calibration_report(logits, y), calibration_report(3 * logits, y)
    assert calibrated["ece"] < 0.02 < 0.15 < sharp["ece"]
    assert calibrated["ece_mass"] < 0.02 and calibrated["classwise_ece"] < 0.01
    assert sharp["confidence"] - sharp["accuracy"] == pytest.approx(sharp["ece"], abs=0.02)
    for score in ("nll", "brier"):  # proper scores are least at the truth
        assert calibrated[score] < sharp[score]
        assert calibrated[score] < calibration_report(0.5 * logits, y)[score]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.floats(-300, 300))
def test_order_renaming_and_shifted_logits_change_nothing(seed, shift):
    logits, y = data(seed)
    base = calibration_report(logits, y)
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(len(y)), rng.permutation(4)
    moved = calibration_report(
        torch.as_tensor((logits + shift)[order][:, np.argsort(names)]), names[y][order]
    )
    assert moved == pytest.approx(base, abs=1e-9)


def test_training_scores_use_the_same_formula():
    logits, y = data(3)
    found, report = metrics.score("single_label", logits, y), calibration_report(logits, y)
    assert found["ece"] == report["ece"] and found["nll"] == report["nll"]


def test_a_diverged_network_has_errors_that_are_not_numbers():
    logits, y = data(0)
    logits[3] = np.nan
    logits[4, 0] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(metrics.score("single_label", logits, y)["ece"])
        found = calibration_report(logits, y)
    assert all(math.isnan(found[name]) for name in ("ece", "ece_mass", "mce", "nll", "brier"))


def test_one_sample_one_class_and_extremes():
    found = calibration_report([[800.0, 0.0]], [0])
    assert found["ece"] == found["nll"] == found["brier"] == found["mce"] == 0.0
    assert calibration_report([[3.0]], [0])["ece"] == 0.0
    assert calibration_report(np.zeros((4, 3)), [0, 0, 0, 0])["ece"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expected_calibration_error([], []), "one number a sample"),
        (lambda: expected_calibration_error([0.5], [1, 0]), "one number a sample"),
        (lambda: expected_calibration_error([0.5], [1], bins=0), "bins must be at least 1"),
        (lambda: expected_calibration_error([0.5], [1], scheme="deep"), "width, mass"),
        (lambda: reliability_curve([2.0], [1]), "not logits"),
        (lambda: brier_score([[0.5, 0.5]], [2]), "class indices below 2"),
        (lambda: brier_score([[0.5, 0.5]], [0.5]), "class indices below 2"),
        (lambda: brier_score([0.5, 0.5], [0, 1]), "samples x classes"),
        (lambda: calibration_report([[0.5, 0.5]], [0, 1]), "as many labels"),
        (lambda: calibration_report([["a", "b"]], [0]), "cannot be read"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
