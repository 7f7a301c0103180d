from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tests.methods.noisy_digits import images, pretrained_net
from tests.reference import representation_twins as twins
from tether import ConfigError, FeatureProximity, TetherError, attach
from tether.functional import feature_proximity_loss
from tether.measure import anchored_ufm_solution, neural_collapse


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# -- the formula -----------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_agrees_with_its_twin(distance: str, reduction: str) -> None:
    h, h0 = normal(6, 4), normal(6, 4, seed=1)
    found = feature_proximity_loss(h, h0, reduction=reduction, distance=distance)
    wanted = twins.feature_proximity(h.numpy(), h0.numpy(), distance, reduction)
    assert float(found) == pytest.approx(wanted, rel=1e-9)


def test_the_gradient_is_twice_the_difference_over_the_batch() -> None:
    h, h0 = normal(5, 3).requires_grad_(), normal(5, 3, seed=1)
    feature_proximity_loss(h, h0, reduction="sum").backward()
    torch.testing.assert_close(h.grad, 2 * (h.detach() - h0) / 5)
    assert torch.autograd.gradcheck(lambda x: feature_proximity_loss(x, h0), [h])
    assert torch.autograd.gradcheck(lambda x: feature_proximity_loss(x, h0, distance="cosine"), [h])


# -- what theory expects of a weight ---------------------------------------------------------------


def near_collapse() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(10, 4))
    h0 = np.repeat(means, 25, axis=1) + 0.7 * rng.normal(size=(10, 100))
    return torch.from_numpy(h0.T.copy()), torch.arange(4).repeat_interleave(25)


def test_the_closed_forms_agree_with_their_twin() -> None:
    h0, y = near_collapse()
    found = anchored_ufm_solution(h0, y, beta=0.3, tolerance=0.0, sweeps=40)
    wanted = twins.anchored(h0.numpy(), y.tolist(), 5e-3, 1e-3, 0.3, 40)
    np.testing.assert_allclose(found.features.numpy(), wanted, atol=1e-9)
    assert found.sweeps == 40


def test_features_collapse_the_more_the_looser_they_are_tied() -> None:
    h0, y = near_collapse()
    start = neural_collapse(h0, y)
    rows = [(start["nc1_trace"], start["nc1"], 0.0)]
    for beta in (1.0, 0.1, 0.001, 0.0):
        found = anchored_ufm_solution(h0, y, beta=beta)
        told = neural_collapse(found.features, y)
        rows.append((told["nc1_trace"], told["nc1"], found.moved))
        h, w = found.features, found.head  # where both rest, the gradients balance
        left = 5e-3 * len(h) * float(w.square().sum())
        right = 1e-3 * float(h.square().sum()) + beta * float((h * (h - h0)).sum())
        assert left == pytest.approx(right, rel=1e-4)
    trace, nc1, moved = (list(column) for column in zip(*rows, strict=True))
    assert trace == sorted(trace, reverse=True) and nc1 == sorted(nc1, reverse=True)
    assert moved == sorted(moved)
    assert trace == pytest.approx([1.106, 0.974, 0.749, 0.207, 0.0], abs=2e-3)
    assert moved == pytest.approx([0.0, 0.055, 0.232, 0.509, 0.719], abs=2e-3)


def test_strengths_out_of_range_are_refused() -> None:
    h0, y = near_collapse()
    for strengths in ({"head_decay": 0.0}, {"beta": 0.0, "feature_decay": 0.0}, {"beta": -1.0}):
        with pytest.raises(ConfigError, match="head_decay > 0"):
            anchored_ufm_solution(h0, y, **strengths)


# -- attached --------------------------------------------------------------------------------------

X, Y = normal(12, 4).float(), torch.arange(12) % 3


def make(method: FeatureProximity | None) -> tuple:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    methods = [] if method is None else [method]
    return net, optimizer, attach(net, methods, optimizer, train_data=TensorDataset(X, Y))


def one_epoch(net, optimizer, reg, noise: float = 0.0) -> list[dict]:
    from torch.utils.data import DataLoader

    parts = []
    for x, y in reg.batches(DataLoader(TensorDataset(X, Y), 6)):
        optimizer.zero_grad()
        reg.loss(net(x + noise), y).backward()
        optimizer.step()
        parts.append({name: float(part) for name, part in reg.parts.items()})
    return parts


@pytest.mark.parametrize("source", ["teacher", "cache", "file"])
def test_features_are_held_to_those_of_the_start(source: str, tmp_path) -> None:
    net, *_ = make(None)
    start = net[:2](X).detach()
    if source == "file":
        source = str(tmp_path / "own.npy")
        np.save(source, start.numpy())
    run = make(FeatureProximity(weight=2.0, source=source))
    first, _ = one_epoch(*run)
    assert first["feature_proximity"] == pytest.approx(0.0, abs=1e-12)  # the start itself
    third = one_epoch(*run)[0]
    assert third["feature_proximity"] > 1e-5


@pytest.mark.parametrize(("source", "moves"), [("teacher", False), ("cache", True)])
def test_a_teacher_sees_the_changed_inputs_and_a_cache_the_plain_ones(
    source: str, moves: bool
) -> None:
    first, _ = one_epoch(*make(FeatureProximity(weight=1.0, source=source)), noise=0.5)
    assert (first["feature_proximity"] > 1e-4) is moves


def test_the_table_is_state() -> None:
    first, second = (make(FeatureProximity(weight=1.0, source="cache")) for _ in range(2))
    one_epoch(*first)
    state = first[2].state_dict()
    second[0].load_state_dict(first[0].state_dict())
    second[2].load_state_dict(state)
    assert one_epoch(*first) == one_epoch(*second)


def test_bad_input_is_refused(tmp_path) -> None:
    for options in ({"distance": "l1"}, {"reduction": "max"}, {"source": "features.csv"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            FeatureProximity(**options)
    with pytest.raises(TetherError, match="is no file"):
        make(FeatureProximity(source=str(tmp_path / "absent.npy")))
    np.save(tmp_path / "rows.npy", np.zeros((11, 8)))
    with pytest.raises(TetherError, match=r"\(11, 8\).*12 samples.*8 coordinates"):
        make(FeatureProximity(source=str(tmp_path / "rows.npy")))
    net = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(TetherError, match="train_data"):
        attach(net, FeatureProximity(source="cache"))


# -- the claim -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_tells_samples_of_a_class_apart_survives_under_the_tie(seed: int) -> None:
    """Fine-tuned on two coarse classes, the features still know the ten digits."""
    x, digits = images()
    train, test = slice(900, 1200), slice(1200, None)
    coarse = (digits >= 5).long()
    found = {}
    for weight in (0.0, 1.0):
        net = pretrained_net(seed)
        net[4] = nn.Linear(64, 2)
        start = net[:4](x[test]).detach()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        reg = attach(net, [FeatureProximity(weight=weight)], optimizer)
        draw = torch.Generator().manual_seed(seed)
        for _ in range(30):
            for rows in (900 + torch.randperm(300, generator=draw)).split(60):
                optimizer.zero_grad()
                reg.loss(net(x[rows]), coarse[rows]).backward()
                optimizer.step()
        body = reg.finish()[:4]
        h = body(x[test]).detach()
        means = torch.stack([body(x[train])[digits[train] == k].mean(0) for k in range(10)])
        fine = torch.cdist(h, means).argmin(1) == digits[test]
        found[weight] = {
            "moved": float((h - start).norm() / start.norm()),
            "nc1": neural_collapse(h, coarse[test])["nc1_trace"],
            "fine": float(fine.float().mean()),
            "coarse": float((net(x[test]).argmax(1) == coarse[test]).float().mean()),
        }
    free, tied = found[0.0], found[1.0]
    assert tied["moved"] < 0.5 * free["moved"]
    assert tied["nc1"] > 1.5 * free["nc1"]
    assert tied["fine"] > free["fine"] + 0.03
    assert tied["coarse"] > 0.85
