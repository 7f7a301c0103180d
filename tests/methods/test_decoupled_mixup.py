from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from tests.methods.mixing_digits import fit, perceptron
from tests.methods.noisy_digits import images
from tests.reference import mixing_twins as twins
from tether import DecoupledMixup, Mixup, attach
from tether.functional import decoupled_mixup_loss
from tether.methods.inputs.decoupled_losses import (
    MODES,
    decoupled_log_probs,
    decoupled_losses,
    rescaled_binary_targets,
)
from tether.methods.inputs.mixed_batches import MixedTarget, mixup_cross_entropy


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


Z = normal(8, 5)
A = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
B = torch.tensor([1, 1, 0, 4, 2, 3, 0, 2])  # two rows of one class
LAM = torch.rand(8, generator=torch.Generator().manual_seed(0)).double() * 0.9 + 0.05


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("xi", "threshold"), [(0.0, 1.0), (0.5, 0.6), (1.0, 1.0)])
def test_the_loss_agrees_with_its_twin(mode: str, xi: float, threshold: float) -> None:
    found = decoupled_mixup_loss(Z, A, B, LAM, weight=0.3, xi=xi, threshold=threshold, mode=mode)
    a, b, lam = A.tolist(), B.tolist(), LAM.numpy()
    wanted = twins.decoupled_mixup(Z.numpy(), a, b, lam, 0.3, xi, threshold, mode)
    assert float(found) == pytest.approx(wanted, abs=1e-9)


def test_the_term_of_a_class_leaves_its_partner_alone() -> None:
    z = Z.clone().requires_grad_()
    terms = -decoupled_log_probs(z, A, (A + 1) % 5)
    terms.sum().backward()
    for i, row in enumerate(z.detach().numpy()):
        a, b = int(A[i]), (int(A[i]) + 1) % 5
        for c in range(5):
            rest = sum(math.exp(row[k]) for k in range(5) if k != b)
            wanted = 0.0 if c == b else math.exp(row[c]) / rest - (c == a)
            assert float(z.grad[i, c]) == pytest.approx(wanted, abs=1e-12)
    assert torch.autograd.gradcheck(lambda v: decoupled_mixup_loss(v, A, B, LAM), [z])


def test_limits_and_symmetries() -> None:
    plain = mixup_cross_entropy(Z, MixedTarget(A, B, LAM))
    torch.testing.assert_close(decoupled_mixup_loss(Z, A, B, LAM, weight=0.0), plain)
    whole = torch.nn.functional.cross_entropy(Z, A)
    torch.testing.assert_close(decoupled_mixup_loss(Z, A, B, 1.0, weight=3.0), whole)
    for xi in (0.0, 0.7):
        found = decoupled_mixup_loss(Z, A, B, LAM, xi=xi)
        torch.testing.assert_close(decoupled_mixup_loss(Z, B, A, 1 - LAM, xi=xi), found)
        moved = Z + normal(8, 1, seed=3)
        torch.testing.assert_close(decoupled_mixup_loss(moved, A, B, LAM, xi=xi), found)


def test_rows_of_one_class_and_two_classes_add_nothing() -> None:
    z = Z.clone().requires_grad_()
    losses = decoupled_losses(z, A, A, LAM)
    losses.sum().backward()
    assert not losses.any() and not z.grad.any()
    two = normal(4, 2).requires_grad_()
    losses = decoupled_losses(two, torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0, 1, 0]), 0.4)
    losses.sum().backward()
    assert float(losses.detach().abs().max()) < 1e-12 and float(two.grad.abs().max()) < 1e-12
    half = decoupled_losses(Z.half().float(), A, B, torch.tensor(0.5))
    assert bool(torch.isfinite(half).all()) and float(half[0]) > 0
    hidden = decoupled_losses(Z, torch.full((8,), -100), B, 0.5)
    assert not hidden.any()


def test_multi_label_targets_agree_with_their_twin() -> None:
    y, rows = (normal(6, 4) > 0).double(), torch.tensor([2, 0, 1, 5, 3, 4])
    for xi, threshold in ((0.0, 1.0), (0.8, 1.0), (1.0, 0.5)):
        found = rescaled_binary_targets(y, rows, LAM[:6], xi=xi, threshold=threshold)
        wanted = twins.rescaled_binary(y.numpy(), rows.tolist(), LAM[:6].numpy(), xi, threshold)
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)


def test_bad_options_are_refused() -> None:
    for name, value in {
        "weight": -1, "mix": "resizemix", "alpha": -1, "xi": -1, "threshold": 0, "mode": "most",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            DecoupledMixup(**{name: value})


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_the_attached_loss_is_the_formula(mix: str, loss: str) -> None:
    x = normal(8, 1, 5, 5).float()
    y = A if loss == "cross_entropy" else (normal(8, 5) > 0).float()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(25, 5))
    method = DecoupledMixup(weight=0.7, mix=mix, alpha=1.0, xi=0.5, mode="less")
    reg = attach(net, method, torch.optim.SGD(net.parameters(), lr=0.1), loss=loss)
    rows, targets = next(reg.batches(DataLoader(TensorDataset(x, y), batch_size=8)))
    logits = net(rows)
    partner, lam = reg.maker._carried["mix"]
    found = reg.loss(logits, targets)
    if loss == "cross_entropy":
        wanted = decoupled_mixup_loss(
            logits, y, y[partner], lam, weight=0.7, xi=0.5, mode="less"
        )  # fmt: skip
    else:
        mixed = rescaled_binary_targets(y, partner, lam, xi=0.5)
        wanted = torch.nn.functional.binary_cross_entropy_with_logits(logits, mixed)
    torch.testing.assert_close(found, wanted)


def test_the_pair_gets_more_of_the_probability_the_larger_the_weight() -> None:
    """Probability of the two true classes on half-and-half blends of unseen digits."""
    x, y = images()
    rows = torch.arange(500, 1000)
    other = rows[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    keep = y[rows] != y[other]
    blends = (x[rows[keep]] + x[other[keep]]) / 2
    pairs = torch.stack([y[rows[keep]], y[other[keep]]], 1)
    masses, scores = [], []
    for method in (Mixup(1.0), DecoupledMixup(0.5, alpha=1.0), DecoupledMixup(1.5, alpha=1.0)):
        found = []
        for seed in range(3):
            net = perceptron(seed)
            chosen = method.info.cls(**method.options())
            fit(net, x[:100], y[:100], [chosen], epochs=80, batch_size=50, weight_decay=1e-4,
                seed=seed)  # fmt: skip
            with torch.no_grad():
                found.append(float(net(blends).softmax(1).gather(1, pairs).sum(1).mean()))
                scores.append(float((net(x[500:]).argmax(1) == y[500:]).float().mean()))
        masses.append(found)
    assert min(scores) > 0.8
    for seed in range(3):
        assert masses[0][seed] + 0.03 < masses[1][seed] < masses[2][seed]
