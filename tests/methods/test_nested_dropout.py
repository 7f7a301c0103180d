from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import tether
from tests.methods.noisy_digits import upright
from tests.reference import teaching_twins as twins
from tether import CoTeaching, Method, NestedDropout, TetherError, attach
from tether.methods.layers.truncation import (
    best_truncation,
    nested_accuracy_curve,
    nested_dropout,
    truncation_probabilities,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_the_formulas_agree_with_their_twins() -> None:
    for sigma, mu in ((3.0, 0.0), (10.0, 4.0)):
        found = truncation_probabilities(12, sigma, mu)
        np.testing.assert_allclose(found, twins.truncation_probabilities(12, sigma, mu), 1e-9)
        assert float(found.sum()) == pytest.approx(1.0)
    h, weight, bias = normal(30, 9), normal(4, 9, seed=1), normal(4, seed=2)
    labels = torch.arange(30) % 4
    curve = nested_accuracy_curve(h, weight, labels, bias)
    wanted = twins.accuracy_curve(h.numpy(), weight.numpy(), bias.numpy(), labels.tolist())
    np.testing.assert_allclose(curve.numpy(), wanted, atol=1e-7)
    assert int(best_truncation(curve)) == twins.best_truncation(curve.numpy())
    whole = ((h @ weight.T + bias).argmax(1) == labels).double().mean()
    assert float(curve[-1]) == pytest.approx(float(whole))


def test_a_chunked_curve_is_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    h, weight, labels = normal(8, 20), normal(3, 20, seed=1), torch.arange(8) % 3
    whole = nested_accuracy_curve(h, weight, labels)
    monkeypatch.setattr("tether.methods.layers.truncation._CHUNK", 8 * 3 * 3)
    assert torch.equal(nested_accuracy_curve(h, weight, labels), whole)


def test_extreme_widths_of_the_distribution() -> None:
    assert truncation_probabilities(8, 1e-12).tolist() == [1.0] + [0.0] * 7
    np.testing.assert_allclose(truncation_probabilities(8, 1e9), 1 / 8)
    assert truncation_probabilities(8, 1.0, 1e6)[-1] == 1.0
    assert int(best_truncation(torch.tensor([0.7, 0.90001, 0.9, 0.90002]))) == 2


def test_behind_the_first_channels_no_weight_gets_a_gradient() -> None:
    h, weight = normal(5, 6).requires_grad_(), normal(3, 6, seed=1).requires_grad_()
    (nested_dropout(h, 4) @ weight.T).square().sum().backward()
    assert weight.grad is not None and h.grad is not None
    assert weight.grad[:, :4].all() and not weight.grad[:, 4:].any() and not h.grad[:, 4:].any()
    assert torch.equal(nested_dropout(h, 6), h)


# -- attached ------------------------------------------------------------------------------------

X, Y = normal(24, 4).float(), torch.arange(24) % 3


def make(*methods: Method, head: str | None = None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
    tether.prepare(net, methods, head=head)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    data = TensorDataset(X, Y)
    return net, optimizer, attach(net, methods, optimizer, valid_data=data, epochs=2, head=head)


def step(net, optimizer, reg) -> None:
    reg.loss(net(X), Y).backward()
    optimizer.step()
    optimizer.zero_grad()


def test_each_step_draws_its_k_from_the_distribution() -> None:
    method = NestedDropout(sigma=5.0)
    net, optimizer, reg = make(method)
    drawn = []
    reg.start_epoch()
    for at in range(600):
        drawn.append(int(method.drawn))
        if at % 200 == 0:
            cut = nn.functional.linear(
                nested_dropout(net[:2](X), drawn[-1]), net[2].weight, net[2].bias
            )
            torch.testing.assert_close(net(X), cut)
        optimizer.step()
    counts = np.bincount(drawn, minlength=17)[1:]
    expected = truncation_probabilities(16, 5.0).numpy() * 600
    few = expected < 5
    observed = [*counts[~few], counts[few].sum()]
    wanted = [*expected[~few], expected[few].sum()]
    chi = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True))
    assert chi < 30  # 10 degrees of freedom: 1 in 1000 lies above


def test_k_is_chosen_on_validation_data_and_written_into_the_head() -> None:
    method = NestedDropout(sigma=5.0)
    net, optimizer, reg = make(method)
    reg.start_epoch()
    for _ in range(40):
        step(net, optimizer, reg)
    reg.end_epoch()
    features, head = net[:2](X).detach(), net[2]
    curve = twins.accuracy_curve(
        features.numpy(), head.weight.detach().numpy(), head.bias.detach().numpy(), Y.tolist()
    )
    np.testing.assert_allclose(method.curve.numpy(), curve, atol=1e-6)
    kept = twins.best_truncation(curve)
    assert reg.measure()["nested_dropout"] == {
        "kept": kept,
        "accuracy": pytest.approx(curve[kept - 1]),
    }
    assert 1 <= kept < 16
    state = copy.deepcopy(net.state_dict())
    assert int(state["2._extra_state"]) == kept
    net.eval()
    before = net(X).detach()
    model = reg.finish()
    torch.testing.assert_close(model(X).detach(), before)
    assert type(model[2]) is nn.Linear and not model[2].weight[:, kept:].any()
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_the_weights_of_an_earlier_epoch_bring_their_own_k() -> None:
    net, _, _ = make(NestedDropout())
    state = copy.deepcopy(net.state_dict())
    state["2._extra_state"] = torch.tensor(3)
    net.load_state_dict(state)
    net.eval()
    cut = nn.functional.linear(nested_dropout(net[:2](X), 3), net[2].weight, net[2].bias)
    torch.testing.assert_close(net(X), cut)


def test_what_cannot_be_truncated_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma"):
        NestedDropout(sigma=0.0)
    with pytest.raises(
        TetherError, match=r"needs a plain nn.Linear as the head, and there is none"
    ):
        tether.prepare(nn.Sequential(nn.LayerNorm(4)), NestedDropout())
    net, method = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), NestedDropout()
    data = TensorDataset(X, Y)
    with pytest.raises(TetherError, match=r"call tether.prepare\(model, methods\)"):
        attach(net, method, valid_data=data)
    tether.prepare(net, method)
    with pytest.raises(TetherError, match=r"prepared the layer '1', which is not the head"):
        attach(net, method, valid_data=data, head="0")


# -- the two-phase recipe ------------------------------------------------------------------------


def digits(seed: int, net: nn.Module, methods: list[Method], epochs: int, lr: float) -> float:
    """Test accuracy after the last epoch, on labels of which 40 % are wrong."""
    data, draw = upright(0.4, seed), torch.Generator().manual_seed(seed)
    tether.prepare(net, methods)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    valid = TensorDataset(data.test_x[:300], data.test_y[:300])
    reg = attach(net.train(), methods, optimizer, valid_data=valid, epochs=epochs, seed=seed)
    for epoch in range(epochs):
        reg.start_epoch(epoch)
        for rows in torch.randperm(400, generator=draw).split(100):
            optimizer.zero_grad()
            reg.loss(net(data.x[rows]), data.given[rows]).backward()
            optimizer.step()
        reg.end_epoch()
    reg.finish().eval()
    return float((net(data.test_x[300:]).argmax(1) == data.test_y[300:]).float().mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_wrong_labels_of_digits_are_not_memorised(seed: int) -> None:
    torch.manual_seed(seed)
    sizes = ((64, 128), (128, 128), (128, 10))
    layers = [part for size in sizes for part in (nn.Linear(*size), nn.ReLU())]
    net = nn.Sequential(*layers[:-1])
    plain = digits(seed, copy.deepcopy(net), [], 60, 0.1)
    nested = digits(seed, net, [NestedDropout(sigma=10)], 60, 0.1)
    pair = CoTeaching(forget_rate=0.4, shared_batch=False, second="copy")
    both = digits(seed, net, [NestedDropout(sigma=10), pair], 10, 0.01)
    assert nested > plain + 0.07
    assert both > plain + 0.10
    assert math.isfinite(float(pair.disagreement))
