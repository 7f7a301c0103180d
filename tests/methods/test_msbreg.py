from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.methods.noisy_digits import images
from tests.reference import representation_twins as twins
from tether import MSBReg, TetherError, attach
from tether.functional import (
    brownian_diffusion_loss,
    multi_view_centroid_loss,
    spectral_dispersion_loss,
)
from tether.measure import probe_dynamics
from tether.methods.features.sphere import moment_rank, second_moment


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


# -- the formulas ----------------------------------------------------------------------------------


def test_the_three_forces_agree_with_their_twins() -> None:
    z, t = normal(6, 3, 5), normal(6, 3, 5, seed=1)
    assert float(multi_view_centroid_loss(z, t)) == pytest.approx(
        twins.centroid(z.numpy(), t.numpy()), rel=1e-9
    )
    assert float(spectral_dispersion_loss(z)) == pytest.approx(
        twins.dispersion(z.flatten(0, 1).numpy()), rel=1e-9
    )
    draw = torch.Generator().manual_seed(3)
    found = float(brownian_diffusion_loss(z, generator=draw))
    drawn = torch.randn(6, 1, 5, generator=draw.manual_seed(3), dtype=torch.float64)
    assert found == pytest.approx(twins.brownian(z.numpy(), drawn[:, 0].numpy()), rel=1e-9)
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: multi_view_centroid_loss(x, t), [z])
    assert torch.autograd.gradcheck(spectral_dispersion_loss, [z])


def test_the_centroid_loss_is_0_at_the_centroid_and_2_across_it() -> None:
    t = normal(4, 2, 6)
    middle = nn.functional.normalize(nn.functional.normalize(t, dim=-1).mean(1), dim=-1)
    assert float(multi_view_centroid_loss(3 * middle.unsqueeze(1), t)) == pytest.approx(0, abs=1e-9)
    across = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 5.0]]])
    assert float(multi_view_centroid_loss(*across)) == pytest.approx(2.0)


def test_the_spread_is_0_for_a_basis_and_largest_when_collapsed() -> None:
    basis = torch.eye(6, dtype=torch.float64).repeat(3, 1)
    assert float(spectral_dispersion_loss(basis)) == pytest.approx(0.0, abs=1e-12)
    assert float(spectral_dispersion_loss(normal(1, 6).expand(9, 6))) == pytest.approx(5.0)
    z = normal(20, 6)
    turned = z @ torch.linalg.qr(normal(6, 6, seed=1))[0]
    torch.testing.assert_close(spectral_dispersion_loss(turned), spectral_dispersion_loss(z))
    few = torch.eye(6, dtype=torch.float64)[:2]
    assert float(spectral_dispersion_loss(few)) == pytest.approx(6 / 2 - 1)
    assert float(moment_rank(second_moment(basis))) == pytest.approx(6.0)
    assert float(moment_rank(second_moment(normal(1, 6).expand(9, 6)))) == pytest.approx(1.0)


def test_a_kick_is_tangential_of_known_size_and_0_on_average() -> None:
    w = (3 * normal(1, 1, 7)).requires_grad_()
    draw = torch.Generator().manual_seed(0)
    (grad,) = torch.autograd.grad(brownian_diffusion_loss(w, generator=draw), [w])
    u = nn.functional.normalize(
        torch.randn(1, 1, 7, generator=draw.manual_seed(0), dtype=torch.float64), dim=-1
    )
    z = nn.functional.normalize(w.detach(), dim=-1)
    assert abs(float((grad * z).sum())) < 1e-12
    torch.testing.assert_close(grad, (u - (u * z).sum() * z) / w.detach().norm())
    many = brownian_diffusion_loss(normal(1, 1, 16).expand(20000, 1, 16))
    assert abs(float(many)) < 4 / math.sqrt(20000 * 16)


def test_from_full_collapse_only_kicks_let_the_spread_escape() -> None:
    """The sheet's own run: 256 equal vectors, plain gradient descent."""
    ends = {}
    for kick in (0.0, 0.1):
        draw = torch.Generator().manual_seed(0)
        rows = torch.eye(8, dtype=torch.float64)[0].expand(256, 1, 8).clone().requires_grad_()
        for _ in range(300):
            loss = spectral_dispersion_loss(rows)
            loss = loss + kick * brownian_diffusion_loss(rows, generator=draw)
            (grad,) = torch.autograd.grad(loss, [rows])
            rows = (rows - 10 * grad).detach().requires_grad_()
        ends[kick] = float(spectral_dispersion_loss(rows).detach())
    assert ends[0.0] == pytest.approx(7.0, abs=1e-6) and ends[0.1] < 0.01


# -- attached --------------------------------------------------------------------------------------

X, Y = normal(8, 1, 8, 8).float(), torch.arange(8) % 3


def net(width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 3))


def test_the_parts_add_up() -> None:
    model, method = net(), MSBReg(2.0, 0.3, 0.0, momentum=0.0, projection=0, num_views=3)
    reg = attach(model, method, torch.optim.SGD(model.parameters(), lr=0.1))
    others = [X.flip(-1), X.roll(1, -1)]
    for given in (others, torch.stack(others)):
        reg.loss(model(X), Y, views=given)
        z = torch.stack([model[:3](x) for x in [X, *others]], 1)
        wanted = multi_view_centroid_loss(z, z) + 0.3 * spectral_dispersion_loss(z)
        assert float(reg.parts["msbreg"]) == pytest.approx(2 * float(wanted.detach()), rel=1e-5)
    with pytest.raises(TetherError, match="3 views of each sample.*2 beside its own, not 1"):
        reg.loss(model(X), Y, views=[X])
    assert reg.measure()["msbreg"]["rank"] > 1


def test_the_slow_copy_follows_the_model() -> None:
    model, method = net(), MSBReg(momentum=0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    reg = attach(model, method, optimizer)
    before = model[1].weight.detach().clone()
    for _ in range(2):
        torch.testing.assert_close(method._target[1].weight, before)
        optimizer.zero_grad()
        reg.loss(model(X), Y, views=[X.flip(-1)]).backward()
        optimizer.step()
        before = 0.9 * before + 0.1 * model[1].weight.detach()
    assert not any(p.requires_grad for p in method._target.parameters())


def test_views_of_unlabelled_inputs_take_the_place_of_the_batch() -> None:
    parts = []
    for source in ("train", "unlabelled"):
        model = net()
        method = MSBReg(momentum=0.5, brownian_weight=0.0, source=source)
        reg = attach(model, method, torch.optim.SGD(model.parameters(), lr=0.1))
        if source == "train":
            reg.loss(model(X), Y, views=[X.flip(-1)])
        else:
            given = {"unlabelled": X, "unlabelled_views": [X.flip(-1)]}
            reg.loss(model(X[:2]), Y[:2], **given)
            with pytest.raises(TetherError, match="unlabelled_views="):
                reg.loss(model(X), Y, unlabelled=X)
        parts.append(float(reg.maker.parts["msbreg"]))
    assert parts[0] == pytest.approx(parts[1], rel=1e-5)


def test_bad_options_are_refused() -> None:
    for options in (
        {"spectral_weight": -1.0}, {"brownian_weight": -0.1}, {"momentum": 1.0}, {"num_views": 1},
        {"projection": -1}, {"source": "test"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            MSBReg(**options)
    with pytest.raises(TetherError, match="not for token losses"):
        attach(net(), MSBReg(), loss="token_cross_entropy")


# -- the claims ------------------------------------------------------------------------------------


def shifted(x: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Digits of 8 x 8 anywhere on 12 x 12 pixels, with noise: a view."""
    canvas = nn.functional.pad(x.view(-1, 8, 8), (4, 4, 4, 4))
    down, across = torch.randint(0, 5, (2, len(x)), generator=draw)
    rows, columns = (torch.arange(12) + start.unsqueeze(1) for start in (down, across))
    out = canvas[torch.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return out + 0.1 * torch.randn(out.shape, generator=draw)


def encoder() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(144, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def probed(body: nn.Module) -> float:
    """Accuracy of a linear probe on digits anywhere."""
    x, y = images()
    with torch.no_grad():
        seen = body(shifted(x, torch.Generator().manual_seed(99)))
    found = probe_dynamics(seen[:1200], y[:1200], seen[1200:], y[1200:])
    return found.accuracy_at_predicted_ridge


def pretrained(seed: int, steps: int, **options: float) -> tuple[float, float, float]:
    """Accuracy of random features, of those learnt, and the effective rank at the end."""
    x, _ = images()
    torch.manual_seed(seed)
    model = encoder()
    untrained = probed(model[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    method = MSBReg(alone=True, **options)
    reg = attach(model, method, optimizer, seed=seed)
    draw, no_label = torch.Generator().manual_seed(seed), torch.full((128,), -100)
    for _ in range(steps):
        rows = torch.randint(1200, (128,), generator=draw)
        optimizer.zero_grad()
        first, second = (shifted(x[rows], draw) for _ in range(2))
        reg.loss(model(first), no_label, views=[second]).backward()
        optimizer.step()
    rank = reg.measure()["msbreg"]["rank"]
    reg.detach()
    return untrained, probed(model[:-1]), rank


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_features_learnt_without_labels_beat_random_ones(seed: int) -> None:
    untrained, learnt, rank = pretrained(seed, 150, momentum=0.0)
    print(untrained, learnt, rank)
    assert learnt > untrained + 0.15
    assert rank > 10


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_so_they_do_with_the_slow_copy_and_the_defaults(seed: int) -> None:
    untrained, learnt, rank = pretrained(seed, 600)
    print(untrained, learnt, rank)
    assert learnt > untrained + 0.2
    assert rank > 10


def test_attraction_alone_collapses() -> None:
    ranks = {
        spread: pretrained(0, 60, momentum=0.0, brownian_weight=0.0, spectral_weight=spread)[2]
        for spread in (0.0, 0.1)
    }
    assert ranks[0.0] < 2.5 and ranks[0.1] > 3 * ranks[0.0]
