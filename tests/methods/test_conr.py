from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.reference import regression_twins as twins
from tether import ConR, TetherError, attach
from tether.errors import ConfigError
from tether.functional import conr_loss, label_density_weights
from tether.measure import shot_metrics
from tether.methods.features.conr_losses import label_bins


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def case(n: int = 12, labels: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, labels that cluster, predictions near them, weights."""
    y = normal(n, labels, seed=1).mul(2).round() + 0.2 * normal(n, labels, seed=2)
    shape = (n,) if labels == 1 else (n, labels)
    predictions = (y + normal(n, labels, seed=3)).reshape(shape)
    return normal(n, 5), y.reshape(shape), predictions, normal(n, seed=4).exp()


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"push_mode": "linear"}, {"linear": True}),
        ({"lone": "self"}, {"lone_self": True}),
        ({"official_denominator": True}, {"official": True}),
    ],
)
def test_the_loss_agrees_with_its_twin(
    labels: int, ours: dict[str, Any], theirs: dict[str, bool]
) -> None:
    features, y, predictions, v = case(12 * labels, labels)
    options = {"window": 0.9 if labels == 1 else 1.3, "temperature": 0.3, "push": 0.7}
    arrays = [part.numpy() for part in (features, y, predictions, v)]
    wanted = twins.conr(*arrays, **options, **theirs)
    assert sum(value != 0 for value in wanted) > 4
    found = conr_loss(features, y, predictions, v, reduction="none", **options, **ours)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)
    mean = conr_loss(features, y, predictions, v, **options, **ours)
    assert float(mean) == pytest.approx(np.mean(wanted))


def test_gradients_reach_the_features_alone() -> None:
    features, y, predictions, v = case(8)
    for part in (features, predictions):
        part.requires_grad_()
    found = conr_loss(features, y, predictions, v, window=0.9, temperature=0.5)
    assert torch.autograd.grad(found, predictions, allow_unused=True)[0] is None
    assert torch.autograd.gradcheck(
        lambda f: conr_loss(f, y, predictions, v, window=0.9, temperature=0.5), [features]
    )


def test_the_case_worked_out_by_hand() -> None:
    rows, labels, same = torch.ones(3, 2).double(), torch.tensor([0.0, 0.0, 10.0]), torch.zeros(3)
    options = {"window": 1.0, "push": 0.0, "reduction": "none"}
    found = conr_loss(rows, labels, same, **options)
    torch.testing.assert_close(found, torch.tensor([math.log(2)] * 2 + [0.0]).double())
    official = conr_loss(rows, labels, same, official_denominator=True, **options)
    s = math.exp(1 / 0.07)
    assert float(official[0]) == pytest.approx(math.log((2 * s + 2) / s))


def test_what_it_does_not_see() -> None:
    features, y, predictions, _ = case()
    whole = float(conr_loss(features, y, predictions, window=0.9))
    turn = torch.linalg.qr(normal(5, 5, seed=9))[0]
    scaled = features * (1 + normal(12, 1, seed=6).square())
    assert float(conr_loss(scaled @ turn, y, predictions, window=0.9)) == pytest.approx(whole)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = (features[order], y[order], predictions[order])
    assert float(conr_loss(*shuffled, window=0.9)) == pytest.approx(whole)
    assert float(conr_loss(features, y, 100 * y, window=0.9)) == 0.0, "nothing is confused"
    rising = [float(conr_loss(features, y, predictions, window=0.9, push=e)) for e in (0, 0.5, 2)]
    assert rising == sorted(rising) and rising[0] < rising[2]


def test_edges_are_finite_with_their_gradients() -> None:
    for n in (1, 2, 3):
        features = torch.zeros(n, 4).requires_grad_()
        y = torch.arange(n) * 1e6
        found = conr_loss(features, y, torch.zeros(n), window=1.0, push=1.0, lone="self")
        found.backward()
        assert bool(torch.isfinite(found.detach()))
        assert features.grad is not None and bool(torch.isfinite(features.grad).all())


@pytest.mark.parametrize("mode", ["sqrt_inv", "inverse"])
@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_density_weights_agree_with_their_twin(mode: str, sigma: float) -> None:
    labels = normal(300).exp()
    wanted = twins.density_weights(labels.numpy(), 12, mode, sigma)
    table = label_density_weights(labels, 12, mode=mode, sigma=sigma)
    place = label_bins(labels, float(labels.min()), float(labels.max()), 12)
    np.testing.assert_allclose(table[place].numpy(), wanted, rtol=1e-5)
    assert float(table[place].mean()) == pytest.approx(1.0, abs=1e-5)
    assert bool((table > 0).all()), "a label that occurs first in a test has a weight, too"


def test_shot_metrics() -> None:
    train = torch.cat([torch.full((n,), float(y)) for y, n in ((0, 150), (1, 50), (2, 3))])
    true = torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0, -1.0])
    guess = true + torch.tensor([0.1, -0.4, 1.0, 2.0, 3.0, -4.0])
    found = shot_metrics(guess, true, train, resolution=1.0)
    assert [found.many.samples, found.medium.samples, found.few.samples] == [2, 1, 3]
    assert found.many.mae == pytest.approx(0.25) and found.few.mae == pytest.approx(3.0)
    assert found.many.gmean == pytest.approx(0.2) and found.all.samples == 6
    assert found.balanced_mae == pytest.approx((0.25 + 1 + 2 + 3 + 4) / 5)
    assert math.isnan(shot_metrics([0.0], [0.0], train, resolution=1.0).few.mae)
    for bad, words in (
        (lambda: shot_metrics([0.0], [0.0, 1.0], train), "lengths"),
        (lambda: shot_metrics([math.nan], [0.0], train), "finite"),
        (lambda: shot_metrics([0.0], [0.0], [1.0, 1.0]), "resolution"),
        (lambda: shot_metrics([0.0], [0.0], train, few=300), "few must"),
    ):
        with pytest.raises(ConfigError, match=words):
            bad()


# -- attached ------------------------------------------------------------------------------------


def make(method: ConR, labels: Tensor, outputs: int = 1) -> tuple[nn.Sequential, Tensor, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, outputs))
    x = torch.randn(len(labels), 4)
    return net, x, attach(net, method, loss="l1", train_data=TensorDataset(x, labels))


def test_units_and_weights_come_from_the_training_labels() -> None:
    y = torch.cat([torch.rand(90), 9 + torch.rand(10)])
    method = ConR(weight=2.0, density="sqrt_inv", bins=10, temperature=0.5)
    net, x, reg = make(method, y)
    low, high = float(y.min()), float(y.max())
    found = reg.measure()["conr"]
    assert found["window"] == pytest.approx(0.1 * float(y.std()), rel=1e-5)
    assert found["push"] == pytest.approx(1 / (high - low), rel=1e-5)
    rows = torch.arange(85, 100)
    v = label_density_weights(y, 10)[label_bins(y, low, high, 10)][rows]
    logits = net(x[rows])
    loss = reg.loss(logits, y[rows])
    wanted = (v * (logits[:, 0] - y[rows]).abs()).mean()
    torch.testing.assert_close(reg.parts["task"], wanted.detach())
    exact = conr_loss(
        net[:2](x[rows]), y[rows], logits[:, 0], v, window=found["window"], push=found["push"],
        temperature=0.5,
    )  # fmt: skip
    assert float(exact.detach()) > 0
    torch.testing.assert_close(loss, wanted + 2.0 * exact)


def test_second_views_enlarge_the_batch() -> None:
    y = torch.arange(8.0)
    net, x, reg = make(ConR(weight=1.0, window=0.5, push=0.1), y)
    other = x + 0.1
    loss = reg.loss(net(x), y, views=[other])
    both = torch.cat([x, other])
    exact = conr_loss(
        net[:2](both), torch.cat([y, y]), net(both)[:, 0], window=0.5, push=0.1
    )  # no two labels are alike: all positives are second views
    assert float(exact.detach()) > 0
    torch.testing.assert_close(loss, F.l1_loss(net(x)[:, 0], y) + exact)


def test_bad_options_and_labels_are_refused() -> None:
    for options in ({"weight": -1.0}, {"window": 0.0}, {"temperature": 0.0}, {"push": -1.0},
                    {"push_mode": "log"}, {"density": "sqrt"}, {"bins": 1}, {"smoothing": -1.0},
                    {"lone": "drop"}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            ConR(**options)
    with pytest.raises(TetherError, match="all training labels are 3"):
        make(ConR(), torch.full((5,), 3.0))
    with pytest.raises(TetherError, match="one number a sample"):
        make(ConR(density="inverse"), torch.randn(5, 2), outputs=2)
    with pytest.raises(TetherError, match="conr.*mse or l1"):
        attach(nn.Linear(2, 2), ConR(), train_data=[])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rare_labels_are_no_longer_taken_for_frequent_ones(
    seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "examples" / "imbalanced_regression.py"
    options = ["--seed", str(seed), "--arms", "plain", "conr", "smoothed density"]
    monkeypatch.setattr("sys.argv", [str(script), *options])
    plain, conr, density = runpy.run_path(str(script))["main"]().values()
    assert conr["few"] < 0.75 * plain["few"] and conr["many"] < 1.1 * plain["many"]
    assert conr["similarity"] < plain["similarity"] - 0.2
    assert density["few"] < 0.75 * plain["few"]
    assert "few-shot" in capsys.readouterr().out
