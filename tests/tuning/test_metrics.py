"""Scores against scikit-learn and SciPy, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.measure.calibration import expected_calibration_error
from tether.tuning.metrics import LESS, METRICS, score

SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, k=st.integers(2, 6), n=st.integers(2, 40))
def test_classes_agree_with_scikit_learn(seed, k, n):
    from sklearn import metrics

    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, k)) * 3, rng.integers(0, k, n)
    found = score("single_label", logits, labels)
    said = logits.argmax(1)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    present = np.unique(labels)
    recalls = [(said[labels == c] == c).mean() for c in present]
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, said))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, said, average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    nll = metrics.log_loss(labels, probabilities, labels=np.arange(k))
    assert found["nll"] == pytest.approx(nll, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 40), ties=st.booleans())
def test_several_labels_agree_with_scikit_learn(seed, n, ties):
    from sklearn import metrics

    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, 3)), rng.integers(0, 2, (n, 3))
    logits = logits.round() if ties else logits
    labels[0], labels[1] = 0, 1  # every class has both
    found = score("multi_label", logits, labels)
    assert found["map"] == pytest.approx(metrics.average_precision_score(labels, logits))
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(labels, logits))
    for average in ("micro", "macro"):
        expected = metrics.f1_score(labels, logits > 0, average=average, zero_division=np.nan)
        assert found[f"{average}_f1"] == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(3, 40), ties=st.booleans())
def test_numbers_agree_with_scikit_learn_and_scipy(seed, n, ties):
    from scipy.stats import spearmanr
    from sklearn import metrics

    rng = np.random.default_rng(seed)
    values, truth = rng.normal(size=n), rng.normal(size=n)
    if ties:
        values = np.append(values.round(), [0.0, 1.0])
        truth = np.append(truth, [0.5, -0.5])
    found = score("regression", values[:, None], truth)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, values))
    assert found["mse"] == pytest.approx(metrics.mean_squared_error(truth, values))
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, values))
    assert found["spearman"] == pytest.approx(spearmanr(values, truth).statistic)


def test_calibration_by_hand():
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    correct = np.array([True, True, True, False])
    # bins of 0.1: |0.95 - 1| and |0.55 - 0.5|, two samples each
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(0.05)
    assert expected_calibration_error(np.ones(3), np.ones(3, bool)) == 0.0


def test_every_metric_is_there_and_has_a_direction():
    data = {
        "single_label": (np.eye(3), np.arange(3)),
        "multi_label": (np.eye(3) - 0.5, np.eye(3)),
        "regression": (np.arange(3.0), np.arange(3.0)),
    }
    for task, (logits, labels) in data.items():
        found = score(task, logits, labels)
        assert set(found) == set(METRICS[task]) - {"loss"}
        perfect = {name: value for name, value in found.items() if name not in ("nll", "ece")}
        for name, value in perfect.items():
            assert value == pytest.approx(0.0 if name in LESS else 1.0), name


def test_constant_predictions_have_no_rank_correlation():
    assert np.isnan(score("regression", np.zeros(4), np.arange(4.0))["spearman"])
    assert np.isnan(score("regression", np.arange(4.0), np.zeros(4))["r2"])
