"""Forgetting events, and the end of early learning found without clean labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.reference import analysis_twins as twins
from tether.errors import ConfigError
from tether.measure import forgetting_events, prediction_changes, turning_point
from tether.measure.learning import two_group_share


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8))
def test_forgetting_agrees_with_the_twin_and_with_what_it_tells(seed, epochs):
    correct = np.random.default_rng(seed).integers(0, 2, (epochs, 12))
    found = forgetting_events(torch.as_tensor(correct))
    assert found.counts.tolist() == twins.forgetting(correct)
    assert (found.never_learned == (correct.sum(0) == 0)).all()
    for i, first in enumerate(found.learned):
        assert first == -1 or (correct[first, i] and not correct[:first, i].any())
    assert (found.unforgettable == ((found.counts == 0) & ~found.never_learned)).all()
    order = np.random.default_rng(seed).permutation(12)
    assert (forgetting_events(correct[:, order]).counts == found.counts[order]).all()


def test_one_epoch_has_no_events():
    found = forgetting_events([[True, False]])
    assert found.counts.tolist() == [0, 0] and found.learned.tolist() == [0, -1]
    assert found.as_json()["epochs"] == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 25), st.floats(0.01, 100), st.floats(-1e3, 1e3))
def test_the_two_groups_agree_with_the_twin_whatever_the_scale(seed, n, scale, shift):
    values = np.random.default_rng(seed).exponential(size=n)
    found = two_group_share(values)
    assert found == pytest.approx(twins.two_groups(values), abs=1e-9)
    assert two_group_share(torch.as_tensor(scale * values + shift)) == pytest.approx(
        found, abs=1e-6
    )


def test_two_groups_of_known_shapes():
    assert two_group_share(np.linspace(0, 1, 20001)) == pytest.approx(0.75, abs=1e-3)
    rng = np.random.default_rng(0)
    assert two_group_share(rng.normal(size=50000)) == pytest.approx(2 / np.pi, abs=0.01)
    assert two_group_share([5.0, 5.0, 9.0]) == pytest.approx(1.0)
    assert np.isnan(two_group_share([3.0])) and np.isnan(two_group_share([2.0, 2.0, 2.0]))


def history(peak, epochs=40, seed=0):
    """Losses of 60 right and 40 wrong labels that part until an epoch, and then meet."""
    rng = np.random.default_rng(seed)
    apart = np.interp(np.arange(epochs), [0, peak, epochs - 1], [0.2, 3.0, 0.3])
    wrong = np.arange(100) < 40
    return 1 + apart[:, None] * wrong + 0.3 * rng.normal(size=(epochs, 100))


@pytest.mark.parametrize("peak", [5, 14, 25])
def test_the_peak_of_a_made_up_history_is_found(peak):
    found = turning_point(history(peak))
    # the running mean lags, the more so where the groups meet much more slowly than they part
    assert 0 <= found.epoch - peak <= 3 and abs(found.checkpoint - found.epoch) <= 2
    assert found.reached and found.validation_epoch is None and len(found.separation) == 40
    cut = turning_point(history(peak)[: peak + 4])
    assert not cut.reached


def test_order_scale_and_shift_of_losses_change_nothing():
    losses = history(12)
    base = turning_point(losses)
    order = np.random.default_rng(1).permutation(100)
    moved = turning_point(torch.as_tensor(3 * losses[:, order] + 2))
    assert (moved.epoch, moved.checkpoint) == (base.epoch, base.checkpoint)
    np.testing.assert_allclose(moved.separation, base.separation, rtol=1e-9)


def test_one_sample_one_epoch_and_equal_losses_have_an_answer():
    for losses in (np.ones((1, 1)), np.ones((5, 1)), np.zeros((5, 7))):
        found = turning_point(losses)
        assert found.epoch == 0 and not found.reached
    assert turning_point(np.zeros((30, 7))).reached


def train(seed, epochs=26):
    """A perceptron on 600 digits of which 40 % have a wrong label."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    x, y = torch.as_tensor(images / 16, dtype=torch.float32), torch.as_tensor(digits)
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=g)
    rows, held, test = order[:600], order[600:800], order[800:]

    def corrupted(labels):
        labels = labels.clone()
        flipped = torch.randperm(len(labels), generator=g)[: int(0.4 * len(labels))]
        labels[flipped] += torch.randint(1, 10, (len(flipped),), generator=g)
        return labels % 10

    given_, noisy = corrupted(y[rows]), corrupted(y[held])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    losses, predictions, clean, valid = [], [], [], []
    for _ in range(epochs):
        for batch in torch.randperm(600, generator=g).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows[batch]]), given_[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            out = net(x[rows])
            losses.append(nn.functional.cross_entropy(out, given_, reduction="none"))
            predictions.append(out.argmax(1))
            clean.append(float((net(x[test]).argmax(1) == y[test]).double().mean()))
            valid.append(float((net(x[held]).argmax(1) == noisy).double().mean()))
    return torch.stack(losses), torch.stack(predictions), np.array(clean), np.array(valid)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_digits_with_wrong_labels_turn_where_clean_accuracy_peaks(seed):
    losses, predictions, clean, valid = train(seed)
    smooth = [clean[max(0, e - 1) : e + 2].mean() for e in range(len(clean))]
    found = turning_point(losses, valid)
    assert abs(found.epoch - int(np.argmax(smooth))) <= 2
    assert clean[found.checkpoint] > clean.max() - 0.04
    assert clean[-1] < clean.max() - 0.08  # there was something to lose
    assert abs(found.validation_epoch - int(np.argmax(smooth))) <= 7
    changes = prediction_changes(predictions)
    assert np.isnan(changes[0]) and changes[2] > np.nanmin(changes)
    assert changes[1] == float((predictions[1] != predictions[0]).double().mean())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: forgetting_events([1, 0]), "epochs x samples"),
        (lambda: forgetting_events([[0, 2]]), "0 and 1 only"),
        (lambda: forgetting_events(np.zeros((0, 3))), "epochs x samples"),
        (lambda: forgetting_events([["a"]]), "epochs x samples"),
        (lambda: prediction_changes([[1, 2], [1]]), "epochs x samples"),
        (lambda: two_group_share([]), "at least one"),
        (lambda: two_group_share([np.nan]), "finite numbers"),
        (lambda: turning_point([[0.1], [np.inf]]), "losses of epoch 1"),
        (lambda: turning_point([[0.1]], smooth=2), "smooth must be odd"),
        (lambda: turning_point([[0.1]], patience=0), "patience at least 1"),
        (lambda: turning_point([[0.1]], [0.5, 0.6]), "must hold 1 finite"),
        (lambda: turning_point([[0.1]], [np.nan]), "must hold 1 finite"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
