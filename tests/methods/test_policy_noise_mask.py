from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tests.methods.mixing_digits import fit
from tests.methods.noisy_digits import images
from tests.reference import mixing_twins as twins
from tether import PolicyNoiseMask, TetherError, attach
from tether.functional import beta_mask
from tether.methods.inputs.noise_masks import (
    beta_log_density,
    concentrations,
    gaussian_blur,
    official_score,
    reinforce_losses,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def double(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


# -- formulas --------------------------------------------------------------------------------------


def test_densities_and_objectives_agree_with_their_twins() -> None:
    x, alpha, beta = (
        double(4, 6, seed=s) * scale + 0.05 for s, scale in ((0, 0.9), (1, 3), (2, 3))
    )
    found = beta_log_density(x, alpha, beta)
    wanted = [[twins.beta_log_density(*map(float, v)) for v in zip(*rows, strict=True)]
              for rows in zip(x, alpha, beta, strict=True)]  # fmt: skip
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    losses = double(4, seed=3)
    policy = reinforce_losses(losses, torch.tensor(0.4), found).mean()
    assert float(policy) == pytest.approx(twins.reinforce(losses.numpy(), 0.4, found.numpy()))
    whole = official_score(found) * losses.mean()
    assert float(whole) == pytest.approx(twins.official(float(losses.mean()), found.numpy()))
    assert torch.autograd.gradcheck(
        lambda a, b: beta_log_density(x, a, b), [alpha.requires_grad_(), beta.requires_grad_()]
    )


@pytest.mark.parametrize(("kernel", "size"), [(3, 5), (13, 6)])
def test_the_blur_agrees_with_its_twin(kernel: int, size: int) -> None:
    image = double(size, size)
    found = gaussian_blur(image[None, None], kernel, 2.0)[0, 0]
    np.testing.assert_allclose(found, twins.blurred(image.numpy(), kernel, 2.0), atol=1e-9)
    assert float(found.diff().abs().mean()) < float(image.diff().abs().mean())
    assert torch.equal(gaussian_blur(image[None, None], 1, 2.0)[0, 0], image)


def test_masks_lie_between_0_and_1_and_their_densities_belong_to_them() -> None:
    alpha, beta = double(3, 16) * 4 + 0.01, double(3, 16, seed=1) * 4 + 0.01
    alpha.requires_grad_()
    mask, log_prob = beta_mask(alpha, beta, (4, 4), blur_kernel=1, generator=seeded())
    assert mask.shape == (3, 1, 4, 4) and not mask.requires_grad
    assert float(mask.min()) > 0 and float(mask.max()) < 1
    torch.testing.assert_close(log_prob, beta_log_density(mask.view(3, 16), alpha, beta))
    larger, _ = beta_mask(alpha, beta, (8, 12), blur_kernel=1, generator=seeded())
    torch.testing.assert_close(larger[:, :, ::2, ::3], mask)
    torch.testing.assert_close(larger[:, :, 1::2, 2::3], mask)
    sharp = concentrations(torch.full((1, 2), 9.0), torch.tensor([[-99.0, 99.0]]))
    assert sharp.tolist() == [[pytest.approx(0.1653, abs=1e-3), 100.0]]


def test_one_cell_falls_where_it_costs_and_rises_where_it_helps() -> None:
    for sign, side in ((1.0, "falls"), (-1.0, "rises")):
        logits = torch.zeros(2, requires_grad=True)
        optimizer, generator = torch.optim.Adam([logits], lr=0.02), seeded(1)
        for _ in range(120):
            alpha, beta = (v.exp().expand(64, 1) for v in logits)
            mask, log_prob = beta_mask(alpha, beta, (1, 1), blur_kernel=1, generator=generator)
            losses = sign * mask.flatten()
            optimizer.zero_grad()
            reinforce_losses(losses, losses.mean(), log_prob).mean().backward()
            optimizer.step()
        mean = float(torch.sigmoid(logits[0] - logits[1]).detach())  # of Beta(exp a, exp b)
        assert mean < 0.25 if side == "falls" else mean > 0.75


# -- attached --------------------------------------------------------------------------------------

X, Y = torch.randn(8, 3, 6, 6, generator=seeded(1)), torch.randint(0, 3, (8,), generator=seeded(2))


def small(classes: int = 3, channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.LazyLinear(classes)
    )


def one_batch(method: PolicyNoiseMask):
    model = small()
    model(X)
    reg = attach(model, method, torch.optim.SGD(model.parameters(), lr=0.1))
    loader = DataLoader(TensorDataset(X, Y), batch_size=8)
    return model, reg, loader


OPTIONS = {"grid": 3, "blur_kernel": 3, "policy": "small_conv"}


def test_a_step_of_the_recommended_form() -> None:
    method = PolicyNoiseMask(0.5, **OPTIONS)
    model, reg, loader = one_batch(method)
    bases = method.base_alpha.clone(), method.base_beta.clone()
    for step in range(2):
        baseline = method.baseline.clone()
        x, y = next(reg.batches(loader))
        mask = x / X
        torch.testing.assert_close(mask, mask[:, :1].expand_as(mask), rtol=1e-4, atol=1e-4)
        log_prob, means = reg.maker._carried["noise_mask"]
        logits = model(x)
        losses = cross_entropy(logits, y, reduction="none").detach()
        used = losses.mean() if step == 0 else baseline
        wanted = cross_entropy(logits, y) + 0.5 * reinforce_losses(losses, used, log_prob).mean()
        loss = reg.loss(logits, y)
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(method.baseline, 0.9 * used + 0.1 * losses.mean())
        bases = tuple(0.99 * b + 0.01 * m for b, m in zip(bases, means.chunk(2), strict=True))
        torch.testing.assert_close(method.base_alpha, bases[0])
        torch.testing.assert_close(method.base_beta, bases[1])
        loss.backward()
        # the network's own gradient is that of plain training on masked images
        plain = torch.autograd.grad(cross_entropy(model(x.detach()), y), model[3].weight)[0]
        torch.testing.assert_close(model[3].weight.grad, plain)
        assert all(p.grad is not None for p in method.network.parameters())
        reg.seam.optimizer.step()
        reg.seam.optimizer.zero_grad()


def test_the_official_form_multiplies_the_loss_by_the_score() -> None:
    method = PolicyNoiseMask(objective="official", **OPTIONS)
    model, reg, loader = one_batch(method)
    x, y = next(reg.batches(loader))
    log_prob, _ = reg.maker._carried["noise_mask"]
    logits = model(x)
    wanted = log_prob.logsumexp(1).mean() * cross_entropy(logits, y)
    torch.testing.assert_close(reg.loss(logits, y), wanted)


def test_weight_zero_leaves_the_policy_alone() -> None:
    method = PolicyNoiseMask(0.0, **OPTIONS)
    model, reg, loader = one_batch(method)
    before = [p.detach().clone() for p in method.network.parameters()]
    x, y = next(reg.batches(loader))
    reg.loss(model(x), y).backward()
    reg.seam.optimizer.step()
    for old, new in zip(before, method.network.parameters(), strict=True):
        assert torch.equal(old, new)


def test_the_residual_policy_takes_a_single_image() -> None:
    pytest.importorskip("timm")
    method = PolicyNoiseMask(grid=4)
    model, reg, _ = one_batch(method)
    x, y = next(reg.batches(DataLoader(TensorDataset(X[:1], Y[:1]), batch_size=1)))
    loss = reg.loss(model(x), y)
    loss.backward()
    assert bool(torch.isfinite(loss.detach()))
    assert method.network.heads[0][0].in_features == 512


def test_what_does_not_fit_is_said() -> None:
    for name, value in {
        "weight": -1, "grid": 0, "blur_kernel": 4, "blur_sigma": 0, "objective": "ppo",
        "policy": "vit", "policy_lr": 0,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            PolicyNoiseMask(**{name: value})
    rows = nn.Sequential(nn.Linear(6, 3))
    with pytest.raises(TetherError, match="'policy_noise_mask': the channels of its images"):
        attach(rows, PolicyNoiseMask(**OPTIONS))
    _, reg, _ = one_batch(PolicyNoiseMask(**OPTIONS))
    flat = DataLoader(TensorDataset(X.flatten(1), Y), batch_size=8)
    with pytest.raises(TetherError, match=r"masks images \[N, C, H, W\]: none came"):
        next(reg.batches(flat))
    model, reg, loader = one_batch(PolicyNoiseMask(**OPTIONS))
    x, y = next(reg.batches(loader))
    with pytest.raises(TetherError, match="8 images were masked and there are 4"):
        reg.loss(model(x[:4]), y[:4])
    _, reg, _ = one_batch(PolicyNoiseMask(**OPTIONS))
    grey = DataLoader(TensorDataset(X[:, :1], Y), batch_size=8)
    with pytest.raises(TetherError, match="its policy cannot take inputs of shape"):
        next(reg.batches(grey))


# -- what it is for --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long),
                                  pytest.param(2, marks=pytest.mark.long)])  # fmt: skip
def test_masks_are_lighter_where_the_digits_are(seed: int) -> None:
    x, y = images()
    x = x.view(-1, 1, 8, 8)
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    )
    method = PolicyNoiseMask(grid=8, blur_kernel=1, policy="small_conv", policy_lr=1e-2)
    fit(net, x[:300], y[:300], [method], epochs=60, batch_size=60, seed=seed)
    with torch.no_grad():
        a, b = method.network(x[:300]).chunk(2, dim=1)
        alpha, beta = concentrations(method.base_alpha, a), concentrations(method.base_beta, b)
        mask = (alpha / (alpha + beta)).mean(0).view(8, 8)
    border = torch.cat([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert float(mask[2:6, 2:6].mean()) > float(border.mean()) + 0.1
    assert 0.3 < reg_mean(method) < 0.98


def reg_mean(method: PolicyNoiseMask) -> float:
    return float(method.measure()["mask"])
