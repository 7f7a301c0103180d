from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.reference import gradient_twins as twins
from tether import LabelSmoothing, StableMax, TetherError, attach
from tether.errors import ConfigError
from tether.functional import log_stablemax, stablemax, stablemax_cross_entropy
from tether.measure import softmax_collapse_fraction, softmax_saturation
from tether.methods.gradients.stablemax import stablemax_logits


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_it_agrees_with_its_twin() -> None:
    logits, targets = 5 * normal(9, 6), torch.arange(9) % 6
    wanted = np.stack([twins.stablemax(row) for row in logits.numpy()])
    np.testing.assert_allclose(stablemax(logits).numpy(), wanted, atol=1e-12)
    np.testing.assert_allclose(log_stablemax(logits).exp().numpy(), wanted, atol=1e-12)
    np.testing.assert_allclose(stablemax(logits.T, dim=0).numpy().T, wanted, atol=1e-12)
    found = float(stablemax_cross_entropy(logits, targets))
    expected = twins.stablemax_cross_entropy(logits.numpy(), targets.numpy())
    assert found == pytest.approx(expected, abs=1e-12)
    inputs = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: stablemax_cross_entropy(z, targets), [inputs])


def test_the_slope_at_zero_is_one() -> None:
    x = torch.tensor([1.0, 0.0, -1.0], requires_grad=True)
    stablemax_logits(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.5, 1.0, 0.5]))
    z = torch.tensor([1.0, 0.0, -1.0], requires_grad=True)
    log_stablemax(z)[0].backward()
    torch.testing.assert_close(z.grad, torch.tensor([3 / 14, -2 / 7, -1 / 14]))


def test_probabilities_keep_the_order_and_change_with_a_constant() -> None:
    logits = 3 * normal(4, 7)
    p = stablemax(logits)
    torch.testing.assert_close(p.sum(1), torch.ones(4, dtype=torch.float64))
    assert torch.equal(p.argsort(1), logits.argsort(1))
    torch.testing.assert_close(stablemax(torch.zeros(3)), torch.full((3,), 1 / 3))
    assert not torch.allclose(stablemax(logits + 1), p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_far_logits_keep_a_loss_and_a_gradient(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, 0.0]], dtype=dtype, requires_grad=True)
    right = torch.tensor([0])
    assert float(F.cross_entropy(logits, right).detach()) == 0.0
    loss = stablemax_cross_entropy(logits, right)
    loss.backward()
    assert loss.dtype is torch.float32
    assert float(loss.detach()) == pytest.approx(1e-4, rel=1e-2)
    assert logits.grad is not None and bool((logits.grad != 0).any())


# -- attached ------------------------------------------------------------------------------------


def test_the_loss_is_replaced_in_training_only_and_takes_other_targets() -> None:
    torch.manual_seed(0)
    net, x, y = nn.Linear(5, 3), torch.randn(6, 5), torch.tensor([0, 1, 2, -100, 0, 1])
    reg = attach(net, [StableMax(), LabelSmoothing(0.1)])
    z = net(x)
    kept = y >= 0
    wanted = stablemax_cross_entropy(z[kept], y[kept], label_smoothing=0.1)
    torch.testing.assert_close(reg.loss(z, y), wanted)
    net.eval()
    z = net(x)
    torch.testing.assert_close(reg.loss(z, y), F.cross_entropy(z, y))


def test_every_token_counts_alike() -> None:
    torch.manual_seed(0)
    net, words = nn.Embedding(7, 4), torch.randint(7, (3, 5))
    targets = torch.tensor([[0, 1, 2, 3, 0], [1, -100, -100, -100, -100], [-100] * 5])
    reg = attach(net, StableMax(), loss="token_cross_entropy")
    logits = net(words)
    wanted = stablemax_cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(reg.loss(logits, targets), wanted)


def test_several_labels_a_sample_are_refused() -> None:
    with pytest.raises(TetherError, match="stablemax.*cross_entropy"):
        attach(nn.Linear(2, 2), StableMax(), loss="binary_cross_entropy")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_training_goes_on_where_softmax_has_collapsed(seed: int) -> None:
    """Classes far apart and large logits: float32 softmax soon stands still."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.arange(60) % 3
    x = 4 * torch.eye(3)[y] + 0.3 * torch.randn(60, 3, generator=draw)
    found = {}
    for name, methods in (("softmax", []), ("stablemax", [StableMax()])):
        torch.manual_seed(seed)
        net = nn.Linear(3, 3, bias=False)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        reg = attach(net, methods, optimizer)
        for step in range(150):
            if step == 100:
                before = net.weight.detach().clone()
            logits = 100 * net(x)
            reg.loss(logits, y).backward()
            optimizer.step()
            optimizer.zero_grad()
        found[name] = softmax_saturation(logits, y), float((net.weight.detach() - before).norm())
        assert bool((logits.argmax(1) == y).all())
    (saturated, stood), (_, moved) = found["softmax"], found["stablemax"]
    assert saturated.zero_loss > 0.9 and saturated.collapsed > 0.9
    assert bool((stablemax_cross_entropy(logits, y, reduction="none") > 0).all())
    assert moved > 1e-3 and stood < 0.2 * moved


# -- the measure ---------------------------------------------------------------------------------


def test_the_share_of_collapsed_samples_agrees_with_its_twin() -> None:
    draw = np.random.default_rng(0)
    for dtype in (np.float32, np.float64, np.float16):
        logits = (draw.normal(size=(200, 4)) * 25).astype(dtype)
        found = softmax_collapse_fraction(torch.from_numpy(logits))
        assert 0.05 < found < 0.95
        assert found == pytest.approx(twins.collapsed(logits), abs=0.03)  # order of the sum


def test_a_wrong_sample_that_collapsed_has_a_loss() -> None:
    logits = torch.tensor([[120.0, 0.0], [30.0, 0.0], [1.0, 0.0], [0.0, 120.0]])
    found = softmax_saturation(logits, torch.zeros(4, dtype=torch.long))
    assert found.as_json() == {
        "collapsed": 0.75, "zero_loss": 0.5, "zero_gradient": 0.25, "dtype": "float32"
    }  # fmt: skip
    assert softmax_saturation(logits.double(), torch.zeros(4)).zero_loss == 0.25


def test_bad_logits_are_refused() -> None:
    with pytest.raises(ConfigError, match="samples x classes"):
        softmax_collapse_fraction(torch.zeros(3))
    with pytest.raises(ConfigError, match="not numbers"):
        softmax_collapse_fraction(torch.full((1, 2), torch.nan))
    with pytest.raises(ConfigError, match="0 to 1"):
        softmax_saturation(torch.zeros(1, 2), torch.tensor([2]))
    with pytest.raises(ConfigError, match="targets of shape"):
        softmax_saturation(torch.zeros(1, 2), torch.tensor([0, 1]))
