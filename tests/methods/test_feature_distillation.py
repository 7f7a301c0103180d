from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.methods.noisy_digits import pretrained_net, train, turned
from tests.reference import continual_twins as twins
from tether import FeatureDistillation, TetherError, attach


def make(**options: object):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    net.double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return net, optimizer, attach(net, [FeatureDistillation(**options)], optimizer)


X = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 3)))
Y = torch.tensor([0, 1, 0, 1, 1, 0])


@pytest.mark.parametrize(("layer", "depth"), [(None, 4), ("1", 2)])
def test_the_penalty_agrees_with_its_twin_after_a_step(layer: str | None, depth: int) -> None:
    net, optimizer, reg = make(weight=0.7, layer=layer)
    before = net[:depth](X).detach().numpy()
    reg.loss(net(X), Y).backward()
    assert float(reg.parts["feature_distillation"]) == 0.0
    optimizer.step()
    reg.loss(net(X), Y)
    wanted = 0.7 * twins.feature_distillation(net[:depth](X).detach().numpy(), before)
    assert wanted > 1e-4
    assert float(reg.parts["feature_distillation"]) == pytest.approx(wanted, rel=1e-6)


def test_rows_that_do_not_count_are_left_out() -> None:
    net, optimizer, reg = make(weight=1.0)
    before = net[:4](X).detach()
    reg.loss(net(X), Y).backward()
    optimizer.step()
    reg.loss(net(X), torch.tensor([0, -100, 0, -100, 1, 0]))
    far = (net[:4](X) - before).detach().square().sum(1)[[0, 2, 4, 5]].mean()
    assert float(reg.parts["feature_distillation"]) == pytest.approx(float(far), rel=1e-9)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        FeatureDistillation(weight=-0.1)
    with pytest.raises(TetherError, match=r"no layer 'one' .*near"):
        make(layer="one")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_features_of_digits_stay_where_pretraining_put_them(seed: int) -> None:
    data, moved = turned(0.0, seed), {}
    for weight in (0.0, 0.02):
        net = pretrained_net(seed)
        before = net[:4](data.test_x).detach()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
        train(net, data, [FeatureDistillation(weight=weight)], optimizer,
              epochs=8, batch_size=40, seed=seed)  # fmt: skip
        moved[weight] = float(((net[:4](data.test_x) - before).norm() / before.norm()).detach())
        if weight:
            assert data.accuracy(net) > 0.8
    assert moved[0.02] < 0.3 * moved[0.0]
