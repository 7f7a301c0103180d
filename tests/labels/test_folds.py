"""Classifiers out of fold, neighbours, and probabilities from a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference import label_record_twins as twins
from tether.errors import ConfigError
from tether.labels.folds import deal, directions, fit_linear, out_of_fold
from tether.labels.neighbours import nearest, unit_rows, votes
from tether.labels.pred_probs import read_pred_probs, signals_of


def test_every_class_is_dealt_evenly():
    labels = np.array([0] * 11 + [1] * 7 + [2] * 2)
    fold = deal(labels, 3, seed=1)
    assert np.ptp(np.bincount(fold)) <= 1
    for label in range(3):
        assert np.ptp(np.bincount(fold[labels == label], minlength=3)) <= 1
    assert not (fold == deal(labels, 3, seed=2)).all()


def test_a_linear_fit_is_at_its_least():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 4, generator=generator)
    y = torch.randint(0, 3, (200,), generator=generator)
    w = fit_linear(x, y, 3, 0.01).double().requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(x.double() @ w[:-1] + w[-1], y)
    (loss + 0.005 * w[:-1].square().sum()).backward()
    assert w.grad.norm() < 1e-3


def test_no_label_is_seen_by_its_own_classifier():
    """Where labels are drawn at random, a classifier that saw a label would fit it."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(240, 60)), rng.integers(0, 4, 240)
    logs = out_of_fold(x, labels, 4, decays=(1e-4,))
    assert abs((logs.argmax(1) == labels).mean() - 0.25) < 0.1
    inside = fit_linear(directions(x), torch.as_tensor(labels), 4, 1e-4)
    z = directions(x) @ inside[:-1] + inside[-1]
    assert (z.argmax(1).numpy() == labels).mean() > 0.6
    np.testing.assert_allclose(np.exp(logs).sum(1), 1.0, rtol=1e-4)


def test_labels_of_a_fold_tell_that_fold_nothing():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 5)), np.arange(60) % 3
    fold = deal(labels, 5, 0)
    mine = np.flatnonzero(fold == 0)
    # two labels of one fold change places; drawn evenly, so that the folds stay as they are
    first = mine[labels[mine] == 0][0]
    second = mine[labels[mine] == 1][0]
    before = out_of_fold(x, labels, 3, decays=(1e-2,))
    swapped = labels.copy()
    swapped[[first, second]] = 1, 0
    rest = torch.as_tensor(fold != 0)
    w = fit_linear(directions(x)[rest], torch.as_tensor(swapped)[rest], 3, 1e-2)
    z = directions(x)[first] @ w[:-1] + w[-1]
    np.testing.assert_allclose(z.log_softmax(0), before[first], atol=1e-4)


def test_neighbours_are_those_of_the_twin():
    rng = np.random.default_rng(0)
    units = unit_rows(rng.normal(size=(30, 4)))
    found = nearest(units, 5)
    assert found.rows.tolist() == twins.neighbours(units.numpy(), 5)
    few = nearest(units, 5, most=10, seed=1)
    allowed = np.random.default_rng(1).permutation(30)[:10]
    assert np.isin(few.rows, allowed).all()
    assert not (few.rows == np.arange(30)[:, None]).any()
    assert nearest(units[:3], 5).rows.shape == (3, 2)


def test_votes_are_shares_and_nearer_ones_count_more():
    units = unit_rows(np.array([[1.0, 0.0], [0.99, 0.1], [0.0, 1.0], [-1.0, -0.2], [-0.5, -1.0]]))
    labels = np.array([0, 1, 0, 0, 1])
    found = votes(nearest(units, 2), labels, 2)
    np.testing.assert_allclose(found.sum(1), 1.0)
    assert found[0, 1] > found[0, 0] > 0
    several = np.eye(2, dtype=np.int64)[labels]
    assert (np.abs(votes(nearest(units, 2), several, 2) - 0.5) <= 0.5).all()


SHARES = np.array([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]])


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "named.csv"])
def test_probabilities_are_read_from_any_of_the_files(tmp_path, kind):
    path = tmp_path / f"probs.{kind}"
    if kind == "npy":
        np.save(path, SHARES)
    elif kind == "npz":
        np.savez(path, pred_probs=SHARES, other=np.zeros(2))
    else:
        lines = ["cat,dog"] * kind.startswith("named") + [",".join(map(str, r)) for r in SHARES]
        path.write_text("\n".join(lines) + "\n")
    np.testing.assert_allclose(read_pred_probs(path, 3, 2), SHARES)
    assert signals_of(SHARES, np.array([0, 1, 1])).opinions["predicted"].shape == (3, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (SHARES[:2], r"shape \(2, 2\), and \(3, 2\) belongs here"),
        (SHARES.T, r"shape \(2, 3\)"),
        (SHARES * 2, "row 0: probabilities lie in|row 1: probabilities lie in"),
        (SHARES * 0.5, "row 0: its probabilities sum to 0.5, not to one"),
        (np.log(SHARES), "give probabilities, not logits"),
        (np.where(SHARES > 0.7, np.nan, SHARES), "row 1: probabilities lie in"),
    ],
)
def test_what_is_no_probabilities_is_told(tmp_path, values, message):
    path = tmp_path / "probs.npy"
    np.save(path, values)
    with pytest.raises(ConfigError, match=message):
        read_pred_probs(path, 3, 2)


def test_files_that_cannot_be_read_are_told(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        read_pred_probs(tmp_path / "none.npy", 3, 2)
    (tmp_path / "probs.txt").write_text("1")
    with pytest.raises(ConfigError, match=".npy, .npz, .csv"):
        read_pred_probs(tmp_path / "probs.txt", 3, 2)
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="cannot be read as numbers"):
        read_pred_probs(tmp_path / "pickled.npy", 3, 2)
    np.savez(tmp_path / "two.npz", a=SHARES, b=SHARES)
    with pytest.raises(ConfigError, match="call the one that is meant pred_probs"):
        read_pred_probs(tmp_path / "two.npz", 3, 2)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ConfigError, match=r"empty\.csv"):
        read_pred_probs(tmp_path / "empty.csv", 3, 2)
