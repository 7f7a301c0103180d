"""Rates and matrices of noise that is known, on beliefs of which some are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import label_record_twins as twins
from tether.labels import noise_rate as nr
from tether.labels.folds import out_of_fold
from tether.labels.score import score_classes, score_labels

CLASSES = 6


def world(n=1200, noise=0.0, pair=False, hard=0.15, seed=0):
    """Log-probabilities out of fold, true and given labels.

    Classes are clouds, and a share of the samples lies between two of them.
    """
    rng = np.random.default_rng(seed)
    true = rng.integers(0, CLASSES, n)
    centres = 3.0 * np.linalg.qr(rng.normal(size=(12, 12)))[0][:CLASSES]
    x = centres[true] + rng.normal(0, 0.7, (n, 12))
    unsure = rng.random(n) < hard
    x[unsure] += rng.uniform(0.3, 0.7, (unsure.sum(), 1)) * (
        centres[(true[unsure] + 2) % CLASSES] - centres[true[unsure]]
    )
    other = (true + (1 if pair else rng.integers(1, CLASSES, n))) % CLASSES
    given = np.where(rng.random(n) < noise, other, true)
    return out_of_fold(x, given, CLASSES, seed=seed).astype(np.float64), true, given


def test_posterior_and_a_round_of_em_agree_with_their_twins():
    logs, _, given = world(60, 0.2)
    rng = np.random.default_rng(1)
    matrix = rng.dirichlet(np.ones(CLASSES), CLASSES)
    model = nr.NoiseModel(matrix, 1.7, 0.0)
    want = twins.posterior(logs, given, matrix, 1.7)
    np.testing.assert_allclose(model.posterior(logs, given), want, atol=1e-6)
    rounds = nr._ROUNDS
    try:
        nr._ROUNDS = 1
        found, _ = nr._em(nr.softmax(1.7 * logs), nr._Labels(given, CLASSES), matrix)
    finally:
        nr._ROUNDS = rounds
    want = twins.transition_step(logs, given, matrix, 1.7)
    np.testing.assert_allclose(found, want, atol=1e-6)


def test_the_uniform_share_is_the_likeliest():
    logs, _, given = world(300, 0.3)
    sharp = np.geomspace(0.25, 8.0, 31)
    grid = [(twins.uniform_likelihood(logs, given, r, s), r, s)
            for r in np.linspace(0, 0.6, 31) for s in sharp]  # fmt: skip
    _, r, s = max(grid)
    floor = r + (1 - r) * CLASSES * np.quantile(nr.softmax(s * logs).min(1), 0.25)
    want = floor * (CLASSES - 1) / CLASSES
    assert abs(nr.uniform_share(logs, given) - want) < 0.02


def test_a_classifier_that_has_learnt_the_noise_does_not_hide_it():
    rng = np.random.default_rng(0)
    true = rng.integers(0, CLASSES, 2000)
    z = rng.normal(0, 0.7, (2000, CLASSES)) + 5.0 * np.eye(CLASSES)[true]
    given = np.where(rng.random(2000) < 0.24, rng.integers(0, CLASSES, 2000), true)
    logs = np.log(0.76 * nr.softmax(z) + 0.24 / CLASSES)  # calibrated for the given labels
    assert abs(nr.noise_rate([logs], given) - (true != given).mean()) < 0.03


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.2, 0.4])
def test_rate_and_calibration_under_symmetric_noise(noise):
    logs, true, given = world(noise=noise)
    scores = score_classes(logs, given, draws=10)
    wrong = true != given
    found = scores.noise[0]
    assert abs(found.rate - wrong.mean()) < 0.03
    assert found.interval[0] <= found.rate <= found.interval[1]
    bins = np.minimum((scores.wrong * 10).astype(int), 9)
    error = sum(
        abs(scores.wrong[bins == b].mean() - wrong[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    )
    assert error < 0.05
    np.testing.assert_allclose(found.transition.sum(1), 1.0)
    assert (found.low <= found.transition).all() and (found.transition <= found.high).all()


def test_labels_that_always_go_to_the_next_class_are_seen():
    logs, true, given = world(noise=0.3, pair=True, hard=0.0)
    scores = score_classes(logs, given, draws=5)
    wrong = true != given
    assert nr.uniform_share(logs, given) < 0.05  # they leave no uniform share
    found = scores.noise[0]
    assert found.rate > 0.15 and abs(found.rate - wrong.mean()) < 0.12  # hard to tell exactly
    matrix = scores.noise[0].transition
    assert (matrix.argsort(1)[:, -2] == (np.arange(CLASSES) + 1) % CLASSES).all()
    assert (scores.suggested[wrong] == true[wrong]).mean() > 0.9


def test_hard_samples_are_not_taken_for_wrong_labels():
    logs, true, given = world(hard=0.4)
    assert (logs.argmax(1) != true).mean() > 0.1
    assert score_classes(logs, given, draws=2).noise[0].rate < 0.03


def test_scores_are_shifted_to_a_mean():
    scores = np.random.default_rng(0).beta(2.0, 4.0, 500)
    for rate in (0.02, 0.3, 0.9):
        moved = nr.shifted(scores, rate)
        assert abs(moved.mean() - rate) < 1e-6
        assert (np.argsort(moved, kind="stable") == np.argsort(scores, kind="stable")).all()
    assert nr.shifted(scores, 0.0).max() < 1e-3


def test_several_labels_are_scored_one_by_one():
    rng = np.random.default_rng(0)
    true = (rng.random((800, 3)) < 0.4).astype(np.int64)
    given = true.copy()
    flipped = rng.random(800) < 0.1
    given[flipped, 1] = 1 - given[flipped, 1]
    logits = np.where(true > 0, 3.0, -3.0) + rng.normal(0, 1.0, true.shape)
    scores = score_labels(logits, given, draws=3)
    rates = [one.rate for one in scores.noise]
    assert abs(rates[1] - flipped.mean()) < 0.03 and max(rates[0], rates[2]) < 0.03
    assert (scores.suggested[flipped] == true[flipped]).all(1).mean() > 0.9
    assert scores.wrong[flipped].mean() > 0.8 > 0.1 > scores.wrong[~flipped].mean()


def test_a_sample_without_a_label_scores_nothing():
    logs, _, given = world(200, 0.1)
    given[7] = -1
    scores = score_classes(logs, given, draws=2)
    assert scores.wrong[7] == 0.0 and scores.confidence[7] == 0.0
