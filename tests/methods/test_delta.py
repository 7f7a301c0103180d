"""DELTA: distances of feature maps, the choice of layers, weights of channels."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from tests.methods.transfer import fine_tune
from tests.reference import transfer_twins as twins
from tether import DELTA, L2SP, TetherError, attach
from tether.methods.features.channel_weights import attention_weights
from tether.methods.features.feature_maps import by_channel, feature_map_distances
from tether.models.cifar_resnet import CifarResNet

DOUBLE = torch.float64


def maps_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 3), c=st.integers(1, 4), h=st.integers(1, 3), w=st.integers(1, 3),
       weighted=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
def test_distances_agree_with_the_twin(n, c, h, w, weighted, seed):
    maps, start = maps_of(n, c, h, w, seed=seed), maps_of(n, c, h, w, seed=seed + 1)
    weights = maps_of(c, seed=seed).softmax(0) if weighted else None
    found = feature_map_distances(maps, start, weights, channels_first=True)
    v = None if weights is None else weights.numpy()
    for reduction in ("mean", "sum"):
        wanted = twins.map_distance(maps.numpy(), start.numpy(), v, reduction)
        assert getattr(found, reduction)().item() == pytest.approx(wanted, rel=1e-10)


def test_gradcheck_and_the_unweighted_form():
    maps, start = maps_of(2, 3, 4, 4).requires_grad_(), maps_of(2, 3, 4, 4, seed=1).requires_grad_()
    weights = torch.tensor([0.5, 0.2, 0.3], dtype=DOUBLE)
    assert torch.autograd.gradcheck(lambda m: feature_map_distances(m, start, weights), [maps])
    found = feature_map_distances(maps, start)
    torch.testing.assert_close(found, 0.5 * (maps - start).square().flatten(1).sum(1) / 16)
    found.sum().backward()
    assert start.grad is None  # into the target network alone
    even = torch.full((3,), 1 / 3, dtype=DOUBLE)
    torch.testing.assert_close(feature_map_distances(maps, start, even), found)


def test_layouts_of_maps():
    maps = maps_of(2, 5, 3, 3)
    last = maps.permute(0, 2, 3, 1)
    torch.testing.assert_close(by_channel(maps), by_channel(last))
    tokens = maps.flatten(2).transpose(1, 2)
    torch.testing.assert_close(by_channel(maps), by_channel(tokens))
    assert by_channel(maps_of(2, 7)).shape == (2, 1, 7)
    assert by_channel(maps_of(2, 5, 9), channels_first=True).shape == (2, 9, 5)


def test_attention_agrees_with_the_twin_and_sums_to_one():
    scores = maps_of(9)
    found = attention_weights(scores)
    torch.testing.assert_close(found, torch.from_numpy(twins.attention(scores.numpy())))
    assert float(found.sum()) == pytest.approx(1.0)
    assert torch.equal(found.argsort(), scores.argsort())


# -- attached ------------------------------------------------------------------------------------

X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def resnet() -> CifarResNet:
    torch.manual_seed(0)
    return CifarResNet(8, num_classes=3)


def attached(method, net=None, **given):
    net = resnet() if net is None else net
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    return net, optimizer, attach(net, method, optimizer, train_data=TensorDataset(X, Y), **given)


def test_layers_by_default_are_the_last_convolutions_of_the_stages():
    timm = pytest.importorskip("timm")
    method = DELTA()
    attached(method)
    assert [layer.name for layer in method.chosen] == [f"layer{i}.0.conv2" for i in (1, 2, 3)]
    assert [layer.channels for layer in method.chosen] == [16, 32, 64]
    for name, wanted in (
        ("resnet50", ["layer1.2.conv3", "layer2.3.conv3", "layer3.5.conv3", "layer4.2.conv3"]),
        ("resnet18", [f"layer{i}.1.conv2" for i in (1, 2, 3, 4)]),
        ("test_vit", None),
        ("test_convnext", [f"stages.{i}" for i in range(4)]),
    ):
        with torch.device("meta"):
            net = timm.create_model(name, num_classes=3)
        method = DELTA()
        attach(net, method)
        found = [layer.name for layer in method.chosen]
        if wanted is None:  # blocks of a transformer: at most four, the last among them
            count = len(net.blocks)
            assert len(found) == min(4, count) and found[-1] == f"blocks.{count - 1}"
        else:
            assert found == wanted


@pytest.mark.parametrize(("count", "wanted"), [(3, "012"), (4, "0123"), (6, "1245"), (8, "1357")])
def test_of_many_blocks_four_are_taken(count, wanted):
    method = DELTA()
    attach(nn.Sequential(*(nn.Linear(4, 4) for _ in range(count)), nn.Linear(4, 2)), method)
    assert [layer.name for layer in method.chosen] == list(wanted)


def test_the_penalty_is_the_distance_from_the_start_in_evaluation_mode():
    method = DELTA(weight=2.0, layers=["layer2", "layer3.0.conv2"])
    net, optimizer, reg = attached(method)
    start = copy.deepcopy(net).eval()
    kept = {}
    for model, side in ((net, "now"), (start, "before")):
        for name in method.layers:
            model.get_submodule(name).register_forward_hook(
                lambda m, x, y, key=(side, name): kept.__setitem__(key, y.detach())
            )
    for module in net.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)
    for step in range(2):
        logits = net(X[:6])
        start(X[:6])
        wanted = sum(
            feature_map_distances(kept["now", name], kept["before", name]).mean()
            for name in method.layers
        )
        assert (float(wanted) > 0) == (step > 0)
        loss = reg.loss(logits, Y[:6])
        torch.testing.assert_close(reg.parts["delta"], 2.0 * wanted)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_sum_over_the_batch_is_the_mean_times_its_size():
    found = []
    for method in (DELTA(weight=0.1, reduction="sum"), DELTA(weight=0.6)):
        net, _, reg = attached(method)
        reg.loss(net(X[:6]), Y[:6])  # batch norms alone make a distance in train mode
        found.append(reg.parts["delta"])
    assert float(found[0]) > 0
    torch.testing.assert_close(*found)


def test_the_head_decays():
    moved = []
    for b in (0.0, 0.5):
        net, optimizer, reg = attached(DELTA(weight=0.0, head_weight=b))
        head, conv = net.linear.weight.clone(), net.conv1.weight.clone()
        reg.loss(net(X[:6]), Y[:6]).backward()
        optimizer.step()
        moved.append((net.linear.weight.detach(), net.conv1.weight.detach(), head))
    torch.testing.assert_close(moved[0][0] - 0.05 * 0.5 * moved[0][2], moved[1][0])
    assert torch.equal(moved[0][1], moved[1][1]) and not torch.equal(conv, moved[0][1])


@pytest.mark.parametrize("score", ["attention", "gradient"])
def test_channels_that_the_labels_hang_on_weigh_more_and_no_weight_is_touched(score):
    """Only the first of four channels tells the classes; the last gives nothing at all."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    y = torch.arange(60) % 3
    x = 1.0 + y[:, None, None, None] + 0.1 * torch.randn(60, 1, 4, 4)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 0.01, 0.01, 0.0]).view(4, 1, 1, 1))
    before = copy.deepcopy(net.state_dict())
    method = DELTA(layers=["0"], channel_weights=score, batches=2)
    data = TensorDataset(x, y)
    reg = attach(net, method, torch.optim.SGD(net.parameters(), lr=0.1), train_data=data)
    reg.loss(net(x[:8]), y[:8])
    weights = method.channels_0
    assert float(weights.sum()) == pytest.approx(1.0)
    assert int(weights.argmax()) == 0 and float(weights[0]) > 1.3 * float(weights[1:].max())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks for n, m in net.named_modules() if n != "0")
    other = DELTA(layers=["0"], channel_weights=score, batches=2)
    again = attach(copy.deepcopy(net), other, train_data=data)
    again.load_state_dict(reg.state_dict())
    assert torch.equal(other.channels_0, weights)


def test_weights_may_be_given():
    method = DELTA(layers=["layer3"], channel_weights={"layer3": [1.0] + [0.0] * 63})
    net, _, reg = attached(method)
    reg.loss(net(X[:4]), Y[:4])
    assert float(reg.parts["delta"]) > 0
    net, _, reg = attached(DELTA(layers=["layer3"], channel_weights={"layer3": [0.5, 0.5]}))
    logits = net(X[:4])
    with pytest.raises(TetherError, match="'layer3' has 64 channels, its weights 2"):
        reg.loss(logits, Y[:4])


def test_what_does_not_fit_is_said():
    for options in ({"weight": -1.0}, {"head_weight": -1.0}, {"reduction": "max"},
                    {"channel_weights": "best"}, {"batches": 0}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            DELTA(**options)
    for method, says in (
        (DELTA(layers=["layer9"]), "no layer 'layer9'.*layer3"),
        (DELTA(layers="layer1.0.bn"), "layer1.0.bn1"),
        (DELTA(layers=["layer3"], channel_weights={"layer2": [1.0]}), "none for 'layer3'"),
    ):
        with pytest.raises(TetherError, match=says):
            attached(method)
    with pytest.raises(TetherError, match="loss is mse"):
        attached(DELTA(channel_weights="gradient"), loss="mse")
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(TetherError, match="finds no layers below the head"):
        attached(DELTA(), net)
    lost = nn.Sequential(
        nn.Flatten(), nn.Linear(192, 8), Dropping(), nn.AdaptiveAvgPool2d((1, 4)), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    net, _, reg = attached(DELTA(layers=["2"]), lost)
    logits = net(X[:4])
    with pytest.raises(TetherError, match="drops positions in training"):
        reg.loss(logits, Y[:4])


class Dropping(nn.Module):
    """Two tokens of width 4, of which training drops one."""

    def forward(self, x):
        tokens = x.view(-1, 2, 4)
        return tokens[:, :1] if self.training else tokens


def test_features_stay_nearer_at_equal_accuracy():
    for seed in range(3):
        plain = fine_tune([], seed, epochs=30)
        for method, share in ((DELTA(weight=0.005), 0.35), (L2SP(weight=0.03), 0.8)):
            found = fine_tune([method], seed, epochs=30)
            assert found.moved() < share * plain.moved()
            assert found.accuracy > plain.accuracy - 0.025
