from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference import gradient_twins as twins
from tether import HessianAlignment, TetherError, attach
from tether.functional import (
    head_gradient,
    head_hessian_diag,
    head_hessian_gradient_product,
    hessian_alignment_penalty,
)

LINKS = ("softmax", "sigmoid")
ALL = {"kind": ["hgp", "hutchinson"], "reference": ["mean_loss", "mean_of_products"]}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def case(link: str = "softmax", n: int = 11) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, logits, probabilities as targets, three domains of different sizes."""
    features, logits = normal(n, 4), 2 * normal(n, 3, seed=1)
    targets = normal(n, 3, seed=2).softmax(1)
    if link == "sigmoid":
        targets = (normal(n, 3, seed=2) > 0).double()
    return features, logits, targets, torch.tensor([7, 0, 7, 3, 0, 0, 7, 3, 7, 7, 0][:n])


def penalty(*tensors: Tensor, **options: Any) -> Tensor:
    return hessian_alignment_penalty(*tensors, **{"alpha": 0.7, "beta": 0.3, **options})


@pytest.mark.parametrize("link", LINKS)
def test_closed_forms_agree_with_the_twin_and_with_autograd(link: str) -> None:
    features, logits, targets, _ = case(link)
    arrays = [part.numpy() for part in (features, logits, targets)]
    gradient, hessian = twins.head_gradient(*arrays, link), twins.head_hessian(*arrays[:2], link)
    found = head_gradient(features, logits, targets, link=link).numpy()
    np.testing.assert_allclose(found, gradient, atol=1e-12)
    found = head_hessian_gradient_product(features, logits, targets, link=link).numpy()
    np.testing.assert_allclose(found.ravel(), hessian @ gradient.ravel(), atol=1e-12)
    found = head_hessian_diag(features, logits, link=link).numpy()
    np.testing.assert_allclose(found.ravel(), np.diag(hessian), atol=1e-12)

    weight = normal(3, 4, seed=5).requires_grad_()
    z = features @ weight.T
    if link == "sigmoid":
        loss = F.binary_cross_entropy_with_logits(z, targets)
    else:
        loss = F.cross_entropy(z, targets)
    (g,) = torch.autograd.grad(loss, weight, create_graph=True)
    (product,) = torch.autograd.grad((g * g.detach()).sum(), weight)
    z = z.detach()
    torch.testing.assert_close(head_gradient(features, z, targets, bias=False, link=link), g)
    found = head_hessian_gradient_product(features, z, targets, bias=False, link=link)
    torch.testing.assert_close(found, product)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("kind", ALL["kind"])
@pytest.mark.parametrize("reference", ALL["reference"])
def test_the_penalty_agrees_with_its_twin(link: str, kind: str, reference: str) -> None:
    features, logits, targets, domains = case(link)
    options = {"kind": kind, "alpha": 0.7, "beta": 0.3, "reference": reference, "link": link}
    arrays = [part.numpy() for part in (features, logits, targets, domains)]
    found = hessian_alignment_penalty(features, logits, targets, domains, **options)
    assert float(found) == pytest.approx(twins.hessian_alignment(*arrays, **options), abs=1e-9)
    hidden = torch.ones(11, dtype=torch.bool)
    hidden[[1, 3, 7]] = False  # all of one domain among them
    kept = twins.hessian_alignment(*(part[hidden.numpy()] for part in arrays), **options)
    found = hessian_alignment_penalty(features, logits, targets, domains, mask=hidden, **options)
    assert float(found) == pytest.approx(kept, abs=1e-9)


@pytest.mark.parametrize("kind", ALL["kind"])
@pytest.mark.parametrize("link", LINKS)
def test_gradients(kind: str, link: str) -> None:
    features, logits, targets, domains = case(link, 6)
    inputs = [features.requires_grad_(), logits.requires_grad_()]
    assert torch.autograd.gradcheck(
        lambda f, z: penalty(f, z, targets, domains, kind=kind, link=link, detach=False), inputs
    )


def test_what_detaching_changes() -> None:
    """Nothing where the reference is the mean of what is compared; something for H g."""

    def slopes(**options: Any) -> list[Tensor]:
        features, logits, targets, domains = case()
        inputs = [features.requires_grad_(), logits.requires_grad_()]
        return list(torch.autograd.grad(penalty(*inputs, targets, domains, **options), inputs))

    for same in ({"kind": "hutchinson"}, {"reference": "mean_of_products"}, {"alpha": 0.0}):
        for held, free in zip(slopes(**same), slopes(**same, detach=False), strict=True):
            torch.testing.assert_close(held, free)
    assert not torch.allclose(slopes()[1], slopes(detach=False)[1])


@pytest.mark.parametrize("kind", ALL["kind"])
def test_what_does_not_change_it(kind: str) -> None:
    features, logits, targets, domains = case()
    whole = float(penalty(features, logits, targets, domains, kind=kind))
    assert whole > 0
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    parts = [part[order] for part in (features, logits, targets, domains)]
    assert float(penalty(*parts, kind=kind)) == pytest.approx(whole)
    named = torch.where(domains == 7, -2, domains)
    assert float(penalty(features, logits, targets, named, kind=kind)) == pytest.approx(whole)
    twice = [torch.cat([part, part]) for part in (features, logits, targets)]
    same = torch.cat([torch.zeros(11), torch.ones(11)]).long()
    assert abs(float(penalty(*twice, same, kind=kind))) < 1e-12
    assert abs(float(penalty(features, logits, targets, 0 * domains, kind=kind))) < 1e-12


def test_two_domains_and_gradients_alone() -> None:
    features, logits, targets, domains = case()
    domains = (domains == 7).long()
    g = [
        head_gradient(*(part[domains == e] for part in (features, logits, targets))) for e in (0, 1)
    ]
    found = penalty(features, logits, targets, domains, alpha=0.0, beta=2.0)
    torch.testing.assert_close(found, 2.0 / 4 * (g[0] - g[1]).square().sum())


def test_random_probes_come_near_the_exact_diagonal() -> None:
    features, logits, *_ = case()
    hessian = twins.head_hessian(features.numpy(), logits.numpy())
    exact, rng = head_hessian_diag(features, logits).numpy().ravel(), np.random.default_rng(0)
    errors = [
        np.mean([
            np.linalg.norm(twins.probed_diagonal(hessian, probes, rng) - exact) for _ in range(20)
        ])
        for probes in (4, 64)
    ]  # fmt: skip
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.35)


def test_small_differences_survive_float32() -> None:
    features, logits, targets, domains = case()
    close = [10 + 1e-4 * features, 1e-4 * logits, targets.mean(0).expand(11, 3).contiguous()]
    whole = float(head_gradient(*close).square().sum())
    exact = float(penalty(*close, domains, alpha=0.0, beta=1.0))
    found = float(penalty(*(part.float() for part in close), domains, alpha=0.0, beta=1.0))
    assert 0 < exact < 1e-7 * whole and found == pytest.approx(exact, rel=0.05)


# -- attached ------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_over_domains_plus_the_penalty() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))
    x, y, domains = torch.randn(7, 5), torch.tensor([0, 1, 2, 0, -100, 2, 1]), torch.arange(7) // 4
    reg = attach(net, HessianAlignment(weight=3.0, alpha=0.2, beta=0.1))
    logits = net(x)
    losses = F.cross_entropy(logits, y, reduction="none")
    wanted = (losses[:4].mean() + losses[5:].mean()) / 2
    keep = y >= 0
    parts = [part[keep].detach().double() for part in (net[:2](x), logits)]
    found = reg.loss(logits, y, domains=domains)
    torch.testing.assert_close(reg.parts["task"], wanted.detach())
    exact = hessian_alignment_penalty(
        *parts, y[keep], domains[keep], alpha=0.2, beta=0.1, bias=False
    )
    assert float(reg.parts["hessian_alignment"]) == pytest.approx(3 * float(exact), rel=1e-5)
    torch.testing.assert_close(found.detach(), reg.parts["task"] + reg.parts["hessian_alignment"])
    assert reg.measure()["hessian_alignment"]["domains_in_batch"] == 2.0


def test_bad_options_and_what_is_missing() -> None:
    for options in ({"weight": -1.0}, {"alpha": -1.0}, {"kind": "hpg"}, {"reference": "mean"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            HessianAlignment(**options)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    reg = attach(net, HessianAlignment())
    with pytest.raises(TetherError, match="hessian_alignment.*domain of each sample.*domains="):
        reg.loss(net(torch.zeros(2, 3)), torch.tensor([0, 1]))
    reg.detach()
    with pytest.raises(TetherError, match="works with the loss cross_entropy or binary"):
        attach(net, HessianAlignment(), loss="mse")
    with pytest.raises(TetherError, match="linear head, not of a Bilinear"):
        attach(nn.ModuleDict({"head": nn.Bilinear(2, 2, 2)}), HessianAlignment(), head="head")


@pytest.mark.parametrize(("seed", "kind"), [(0, "hgp"), (1, "hgp"), (2, "hutchinson")])
def test_a_shortcut_of_the_training_domains_is_not_taken(
    seed: int, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "examples" / "domain_generalization.py"
    options = ["--seed", str(seed), "--kind", kind, "--weight", "1000", "--batch-size", "64"]
    monkeypatch.setattr("sys.argv", [str(script), *options, "--steps", "150"])
    plain, aligned = runpy.run_path(str(script))["main"]().values()
    assert plain["train"] > 0.8 and plain["test"] < 0.3
    assert aligned["test"] > plain["test"] + 0.15 and aligned["train"] > 0.72
    assert "new domain" in capsys.readouterr().out
