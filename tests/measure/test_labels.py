"""Correction and detection scores against loops over samples, and their identities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import measure_twins as twins
from tether.measure import (
    auroc,
    average_precision,
    correction_report,
    detection_report,
    label_churn,
    transition_error,
    weight_report,
)
from tether.noise import symmetric_noise


def triples(max_size=40):
    classes = st.integers(0, 3)
    return st.lists(st.tuples(classes, classes, classes), min_size=1, max_size=max_size)


def same(a, b):
    return (math.isnan(a) and math.isnan(b)) or a == pytest.approx(b, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(triples())
def test_correction_agrees_with_the_twin_overall_and_by_class(rows):
    s, y, t = (list(column) for column in zip(*rows, strict=True))
    report = correction_report(s, y, t, num_classes=4)
    for name, value in twins.correction(s, y, t).items():
        assert same(report[name], value), name
    for k in range(4):
        part = [r for r in rows if r[1] == k]
        twin = twins.correction(*zip(*part, strict=True)) if part else None
        for name in ("precision", "recall", "damage", "wrong_to_wrong", "accuracy_after"):
            wanted = twin[name] if twin else math.nan
            assert same(report["per_class"][name][k], wanted), (name, k)
    assert report["changed"] == sum(a != c for a, _, c in rows)


@settings(max_examples=60, deadline=None)
@given(triples())
def test_correction_identity(rows):
    s, y, t = (list(column) for column in zip(*rows, strict=True))
    r = correction_report(s, y, t)
    before = r["accuracy_before"]
    gained = r["recall"] * (1 - before) if before < 1 else 0.0
    lost = r["damage"] * before if before > 0 else 0.0
    assert r["accuracy_after"] == pytest.approx(before + gained - lost)


def test_perfect_correction_and_no_correction():
    noisy = symmetric_noise(torch.arange(500) % 10, 0.4)
    perfect = correction_report(noisy.labels, noisy.true, noisy.true)
    assert (perfect["precision"], perfect["recall"], perfect["damage"]) == (1.0, 1.0, 0.0)
    assert perfect["accuracy_before"] == pytest.approx(0.6) and perfect["accuracy_after"] == 1.0
    idle = correction_report(noisy.labels, noisy.true, noisy.labels)
    assert math.isnan(idle["precision"]) and idle["recall"] == idle["damage"] == 0.0
    assert idle["accuracy_after"] == idle["accuracy_before"]


def scored(seed, n=30):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    s = np.where(rng.random(n) < 0.4, (y + 1) % 3, y)
    s[0], s[1] = (y[0] + 1) % 3, y[1]
    # few distinct values: ties at every cut
    return rng.integers(0, 5, n).astype(float) + (s != y), s, y


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_detection_agrees_with_the_twins(seed):
    scores, s, y = scored(seed)
    wrong = s != y
    report = detection_report(scores, s, y, threshold=2.0)
    assert report["auroc"] == pytest.approx(twins.auroc(scores, wrong))
    assert report["average_precision"] == pytest.approx(twins.average_precision(scores, wrong))
    reported = scores > 2.0
    hits = (reported & wrong).sum()
    assert report["recall"] == hits / wrong.sum() and report["num_reported"] == reported.sum()
    assert same(report["precision"], hits / reported.sum() if reported.sum() else math.nan)
    p, r = report["precision"], report["recall"]
    if p + r > 0:
        assert report["f1"] == pytest.approx(2 * p * r / (p + r))
    assert report["auroc"] == pytest.approx(1 - auroc(-scores, wrong))
    assert report["auroc"] == pytest.approx(auroc(np.exp(scores), wrong))


def test_precision_at_k_is_the_mean_over_orders_of_ties():
    scores, s, y = scored(3)
    wrong = s != y
    twin = twins.precision_at(scores, wrong, int(wrong.sum()))
    assert detection_report(scores, s, y)["precision_at_k"] == pytest.approx(twin, abs=0.01)


def test_detection_extremes():
    labels, true = [0, 1, 1, 0], [0, 1, 0, 1]
    best = detection_report([0.0, 0.1, 5.0, 6.0], labels, true)
    assert best["auroc"] == best["average_precision"] == best["precision_at_k"] == 1.0
    flat = detection_report([1.0] * 4, labels, true)
    assert (flat["auroc"], flat["average_precision"], flat["precision_at_k"]) == (0.5, 0.5, 0.5)
    clean = detection_report([1.0, 2.0], [0, 1], [0, 1], threshold=0.0)
    assert all(math.isnan(clean[k]) for k in ("auroc", "average_precision", "precision_at_k"))
    assert clean["num_wrong"] == 0 and clean["precision"] == 0.0 and math.isnan(clean["recall"])


def test_detection_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(5):
        scores, s, y = scored(seed, 200)
        assert auroc(scores, s != y) == pytest.approx(metrics.roc_auc_score(s != y, scores))
        wanted = metrics.average_precision_score(s != y, scores)
        assert average_precision(scores, s != y) == pytest.approx(wanted)


def test_weight_report():
    noisy = symmetric_noise(torch.arange(1000) % 10, 0.3)
    weights = torch.where(noisy.mask, 0.25, 1.0)
    report = weight_report(weights, noisy.labels, noisy.true)
    assert report["mean_clean"] == 1.0 and report["mean_wrong"] == 0.25 and report["auroc"] == 1.0
    assert report["effective_size"] == pytest.approx((700 + 75) ** 2 / (700 + 300 / 16))
    flat = weight_report(torch.full((1000,), 3.0), noisy.labels, noisy.true)
    assert flat["effective_size"] == pytest.approx(1000) and flat["auroc"] == 0.5


def test_churn_and_transition_error():
    history = [[0, 1, 2, 3], [1, 1, 2, 0], [0, 1, 3, 0], [0, 1, 3, 0]]
    assert label_churn(history) == {"changes": [2, 2, 0], "distinct": 3, "returned": 1}
    noisy = symmetric_noise(torch.arange(50_000) % 10, 0.4)
    assert transition_error(noisy.transition, noisy.transition) == 0.0
    wanted = 0.6 * torch.eye(10) + 0.4 / 9 * (1 - torch.eye(10))
    assert transition_error(noisy.transition, wanted) < 0.05
    assert transition_error(torch.eye(10), wanted) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: correction_report([0, 1], [0, 1], [0]), "lengths differ"),
        (lambda: correction_report([0, 1], [0.0, 1.0], [0, 1]), "true must be integers"),
        (lambda: correction_report([0, 3], [0, 1], [0, 1], num_classes=3), "num_classes is 3"),
        (lambda: detection_report([0.1], [0, 1], [0, 1]), "lengths differ"),
        (lambda: detection_report([0.1, float("nan")], [0, 1], [0, 1]), "not finite"),
        (lambda: auroc([0.1, 0.2], [0, 2]), "num_classes is 2"),
        (lambda: weight_report([-1.0, 1.0], [0, 1], [0, 1]), "negative"),
        (lambda: label_churn([0, 1]), "epochs x samples"),
        (lambda: transition_error(np.eye(2), np.eye(3)), "shape"),
        (lambda: transition_error(np.eye(2), np.ones((2, 2))), "sum to one"),
    ],
)
def test_bad_input_gets_one_clear_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()
