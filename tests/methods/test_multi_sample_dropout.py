from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.methods.noisy_digits import images
from tests.reference import layer_input_twins as twins
from tether import MultiSampleDropout, TetherError, attach
from tether.functional import multi_sample_loss
from tether.methods.layers.multi_sample_dropout import dropout_samples


def each(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, targets, reduction="none")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# -- the formulas --------------------------------------------------------------------------------


def test_masks_and_losses_agree_with_their_twins() -> None:
    features, head = normal(6, 5), normal(5, 3, seed=1)
    rows = dropout_samples(features, 0.3, 4, torch.Generator().manual_seed(2))
    draws = torch.rand(4, 6, 5, generator=torch.Generator().manual_seed(2)).numpy()
    np.testing.assert_allclose(rows.numpy(), twins.dropped(features.numpy(), draws, 0.3))
    labels = [0, 2, 1, 1, 0, 2]
    logits = rows @ head
    found = multi_sample_loss(logits, torch.tensor(labels), each)
    expected = twins.multi_sample_losses(logits.numpy(), labels)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_gradcheck() -> None:
    logits = normal(3, 4, 3).requires_grad_()
    labels = torch.tensor([0, 2, 1, 1])
    for reduce in ("loss", "logits"):
        assert torch.autograd.gradcheck(
            lambda z, r=reduce: multi_sample_loss(z, labels, each, reduce=r), [logits]
        )


def test_soft_and_multi_label_targets_are_repeated_sample_by_sample() -> None:
    logits, soft = normal(3, 4, 5), normal(4, 5, seed=1).softmax(1)
    found = multi_sample_loss(logits, soft, each)
    by_hand = torch.stack([each(z, soft) for z in logits]).mean(0)
    torch.testing.assert_close(found, by_hand)


def test_mean_of_losses_does_not_depend_on_m_while_loss_of_means_falls() -> None:
    torch.manual_seed(0)
    h, head = torch.randn(256, 32), nn.Linear(32, 5)
    with torch.no_grad():
        head.weight.mul_(6)
    y = torch.randint(5, (256,))
    draw = torch.Generator().manual_seed(1)
    found = {}
    for m in (1, 4, 16):
        kinds = {"loss": 0.0, "logits": 0.0}
        for _ in range(160 // m):
            z = head(dropout_samples(h, 0.5, m, draw)).detach()
            for reduce in kinds:
                kinds[reduce] += float(multi_sample_loss(z, y, each, reduce=reduce).mean())
        found[m] = {k: v / (160 // m) for k, v in kinds.items()}
    base = found[1]["loss"]
    assert found[1]["logits"] == pytest.approx(base)
    assert found[4]["loss"] == pytest.approx(base, rel=0.02)
    assert found[16]["loss"] == pytest.approx(base, rel=0.02)
    assert found[16]["logits"] < found[4]["logits"] - 0.02 < base - 0.1
    torch.testing.assert_close(  # as M grows nothing of the dropout is left
        head(dropout_samples(h, 0.5, 4000, draw)).mean(0).detach(), head(h).detach(),
        rtol=0, atol=0.5,
    )  # fmt: skip


def test_the_masks_noise_in_the_heads_gradient_is_divided_by_m() -> None:
    torch.manual_seed(0)
    h, head, y = torch.randn(64, 32), nn.Linear(32, 5), torch.randint(5, (64,))
    draw = torch.Generator().manual_seed(1)
    variance = {}
    for m in (1, 2, 8):
        grads = []
        for _ in range(300):
            z = head(dropout_samples(h, 0.5, m, draw))
            (g,) = torch.autograd.grad(multi_sample_loss(z, y, each).mean(), head.weight)
            grads.append(g)
        variance[m] = float(torch.stack(grads).var(0).sum())
    assert variance[2] * 2 == pytest.approx(variance[1], rel=0.1)
    assert variance[8] * 8 == pytest.approx(variance[1], rel=0.1)


# -- attached ------------------------------------------------------------------------------------

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


def test_the_loss_is_the_mean_over_m_heads_on_one_pass() -> None:
    method, net = MultiSampleDropout(p=0.4, num_samples=5), network()
    calls = []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    reg = attach(net, method)
    reg.maker.handle.phase = "loss"
    h = net[:2](X)
    rows = dropout_samples(h, 0.4, 5, method.ctx.generator)
    expected = torch.stack([F.cross_entropy(net[2](r), Y) for r in rows]).mean()
    method.ctx._seeded_for = (-1, "")  # the generator begins anew
    calls.clear()
    logits = net(X)
    found = reg.loss(logits, Y)
    torch.testing.assert_close(found, expected)
    assert len(calls) == 1
    torch.testing.assert_close(logits, net[2](h))  # the model's own output has no masks
    found.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_one_sample_is_ordinary_dropout_on_average() -> None:
    net = network()
    reg = attach(net, MultiSampleDropout(p=0.5, num_samples=1))
    ours = []
    for _ in range(400):
        ours.append(float(reg.loss(net(X), Y).detach()))
    with torch.no_grad():
        usual = [float(F.cross_entropy(net[2](F.dropout(net[:2](X))), Y)) for _ in range(400)]
    assert np.mean(ours) == pytest.approx(np.mean(usual), rel=0.02)
    assert np.std(ours) == pytest.approx(np.std(usual), rel=0.2)


def test_evaluation_and_the_model_are_ordinary() -> None:
    net, plain = network(), network()
    reg = attach(net, MultiSampleDropout())
    net.eval()
    torch.testing.assert_close(reg.loss(net(X), Y), F.cross_entropy(plain(X), Y))
    assert set(reg.finish().state_dict()) == set(plain.state_dict())
    assert [type(m) for m in net.modules()] == [type(m) for m in plain.modules()]


def test_numbers_as_targets_and_hidden_rows() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1), nn.Flatten(0))
    reg = attach(net, MultiSampleDropout(), loss="mse", head="1")
    assert float(reg.loss(net(X), Y.float()).detach()) > 0
    net = network()
    reg = attach(net, MultiSampleDropout(p=1e-9))
    labels = torch.where(torch.arange(12) < 6, -100, Y)
    torch.testing.assert_close(reg.loss(net(X), labels), F.cross_entropy(net(X[6:]), Y[6:]))


def test_what_does_not_fit_is_refused() -> None:
    for options in ({"p": 1.0}, {"p": -0.1}, {"num_samples": 0}, {"reduce": "sum"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MultiSampleDropout(**options)
    with pytest.raises(ValueError, match="reduce"):
        multi_sample_loss(torch.zeros(2, 1, 2), torch.zeros(1).long(), each, reduce="sum")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1))
    with pytest.raises(TetherError, match="multi_sample_dropout.*convolution"):
        attach(net, MultiSampleDropout(), head="2")
    with pytest.raises(TetherError, match="not 'token_cross_entropy'"):
        attach(network(), MultiSampleDropout(), loss="token_cross_entropy")


# -- digits --------------------------------------------------------------------------------------


def fit(seed: int, num_samples: int) -> tuple[float, float]:
    """Roughness of the training loss from step to step, and test accuracy."""
    x, y = images()
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    method = MultiSampleDropout(p=0.7, num_samples=num_samples)
    loader = DataLoader(TensorDataset(x[:300], y[:300]), 10, shuffle=True)
    losses = []
    with attach(net, method, optimizer, seed=seed) as reg:
        for _ in range(7):
            for bx, by in reg.batches(loader):
                loss = reg.loss(net(bx), by)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
    late = np.diff(losses[len(losses) // 2 :])
    return float(late.std()), float((net(x[1000:]).argmax(1) == y[1000:]).float().mean())


def test_on_digits_the_loss_becomes_calmer_and_the_accuracy_stays() -> None:
    one, eight = (np.array([fit(seed, m) for seed in range(3)]) for m in (1, 8))
    assert (eight[:, 0] < 0.85 * one[:, 0]).all(), (one, eight)
    assert eight[:, 1].mean() > one[:, 1].mean() - 0.015
    assert eight[:, 1].min() > 0.85
