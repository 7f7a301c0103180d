from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tests.methods.mixing_digits import fit
from tests.reference import mixing_twins as twins
from tether import AdaMixup, Mixup, TetherError, attach
from tether.functional import intrusion_loss, policy_interval, sample_ratio
from tether.methods.inputs.mixing import mixed_targets
from tether.methods.inputs.policy_formulas import policy_pair, truncated_normal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# -- formulas --------------------------------------------------------------------------------------


def test_intervals_and_the_second_heads_loss_agree_with_their_twins() -> None:
    logits = 6 * torch.randn(9, 3, generator=seeded(), dtype=torch.float64)
    low, width = policy_interval(logits)
    for i, row in enumerate(logits.numpy()):
        a, b = twins.interval(row)
        assert float(low[i]) == pytest.approx(a) and float((low + width)[i]) == pytest.approx(b)
    assert bool((low >= 0).all()) and bool((low + width <= 1).all())
    draws = torch.stack([sample_ratio(low, width, generator=seeded(s)) for s in range(50)])
    assert bool((draws >= low).all()) and bool((draws <= low + width).all())
    two, real = logits[:, :2].clone(), torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1])
    wanted = twins.intrusion(two.numpy(), real.tolist())
    assert float(intrusion_loss(two, real)) == pytest.approx(wanted, abs=1e-12)
    for check, given in ((lambda z: policy_interval(z)[1], logits),
                         (lambda z: intrusion_loss(z, real), two)):  # fmt: skip
        assert torch.autograd.gradcheck(check, [given.requires_grad_()])


def test_what_the_policy_sees() -> None:
    noise = truncated_normal(torch.empty(40_000), generator=seeded())
    assert float(noise.abs().max()) <= 2.0 + 1e-5
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(0.8796, abs=0.02)  # of a normal cut at two
    x, y = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    assert policy_pair(x, y, "concat").shape == (2, 6, 4, 4)
    noisy = policy_pair(x, y, "official", generator=seeded())
    assert noisy.shape == x.shape and float(noisy.std()) > 0.3


# -- attached --------------------------------------------------------------------------------------


class Seen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        self.got = x
        return self.head(self.body(x).relu())


X, Y = torch.randn(9, 6, generator=seeded(1)), torch.randint(0, 3, (9,), generator=seeded(2))


class Whole(nn.Module):
    """A policy whose interval is [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([-200.0, 200.0, -200.0]))

    def forward(self, x):
        return self.bias.expand(len(x), 3)


def one_loss(method: AdaMixup, seed: int = 0):
    model = Seen()
    reg = attach(model, method, torch.optim.SGD(model.parameters(), lr=0.1), seed=seed)
    x, y = next(reg.batches(DataLoader(TensorDataset(X, Y), batch_size=9)))
    logits = model(x)
    kept = dict(reg.maker._carried)
    return model, reg, x, y, logits, kept


def test_a_step_is_the_mixed_half_the_clean_half_and_the_telling_of_blends() -> None:
    method = AdaMixup(intrusion_weight=0.7)
    model, reg, x, y, logits, kept = one_loss(method)
    partner, lam = kept["mix"]
    assert x.shape == (12, 6) and y.shape == (12,)  # 4 blends, 4 samples, 4 real ones; 1 dropped
    assert kept["is_real"].tolist() == [0] * 4 + [1] * 8
    torch.testing.assert_close(x[:4], lam[:4, None] * x[4:8] + (1 - lam[:4, None]) * x[partner[:4]])
    assert bool((lam[:4] > 0.32).all()) and bool((lam[:4] < 0.68).all())  # at first
    rows = [int((row == X).all(1).nonzero()) for row in x[4:].detach()]
    assert len(set(rows)) == 8 and torch.equal(y[4:], Y[rows])
    soft = mixed_targets(y, partner, lam, num_classes=3)
    telling = intrusion_loss(method.telling(model.body(x).relu()), kept["is_real"])
    wanted = cross_entropy(logits[:8], soft[:8]) + 0.7 * telling
    torch.testing.assert_close(reg.loss(logits, y), wanted)


def test_with_a_fixed_interval_it_is_mixup_with_uniform_shares_and_a_clean_half() -> None:
    shares = []
    for seed in range(4):
        method = AdaMixup(intrusion_weight=0.0, policy=Whole())
        _, reg, _, y, logits, kept = one_loss(method, seed)
        soft = mixed_targets(y, *kept["mix"], num_classes=3)
        torch.testing.assert_close(reg.loss(logits, y), cross_entropy(logits[:8], soft[:8]))
        shares += kept["mix"].lam[:4].tolist()
    assert min(shares) < 0.25 and max(shares) > 0.75


def test_the_policy_learns_through_the_inputs_alone() -> None:
    method = AdaMixup()
    _, reg, _, y, logits, kept = one_loss(method)
    assert not kept["mix"].lam.requires_grad and not kept["unmixed"][0][0].requires_grad
    reg.loss(logits, y).backward()
    grads = [p.grad for p in method.network.parameters()]
    assert all(g is not None for g in grads) and any(float(g.abs().sum()) > 0 for g in grads)
    before = [p.detach().clone() for p in method.network.parameters()]
    reg.seam.optimizer.step()
    moved = list(method.network.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    assert set(reg.measure()["adamixup"]) == {"low", "high"}


def test_the_policy_has_a_learning_rate_of_its_own() -> None:
    method = AdaMixup(policy_lr_scale=0.25)
    _, reg, _, y, logits, _ = one_loss(method)
    reg.loss(logits, y).backward()
    reg.seam.optimizer.step()
    own = {name: method.ctx.optimizer_of(name).param_groups[0]["lr"]
           for name in ("policy", "intrusion")}  # fmt: skip
    assert own == pytest.approx({"policy": 0.025, "intrusion": 0.1})


def test_what_does_not_fit_is_said() -> None:
    for name, value in {
        "intrusion_weight": -1, "policy": "large", "policy_input": "sum", "policy_lr_scale": -1,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=name):
            AdaMixup(**{name: value})
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3))
    with pytest.raises(TetherError, match="'adamixup'.*cannot be told.*policy=a module"):
        attach(words, AdaMixup())
    reg = attach(words, AdaMixup(policy=Whole()), torch.optim.SGD(words.parameters(), lr=0.1))
    ids = DataLoader(TensorDataset(torch.zeros(4, 2).long(), Y[:4]), batch_size=4)
    with pytest.raises(TetherError, match="blends images or rows of numbers.*for texts use mixup"):
        next(reg.batches(ids))
    model = Seen()
    reg = attach(model, AdaMixup(), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(TetherError, match=r"policy cannot take inputs of shape \(2, 5\)"):
        next(reg.batches(DataLoader(TensorDataset(torch.zeros(4, 5), Y[:4]), batch_size=4)))


# -- what it is for --------------------------------------------------------------------------------


def three_clusters(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes 0, 1, 2 around -1, 0, 1: even blends of the outer ones lie on the middle one."""
    y = torch.arange(n) % 3
    return (y.float() - 1)[:, None] + 0.1 * torch.randn(n, 1, generator=seeded(seed)), y


def test_blends_of_the_outer_classes_stay_away_from_the_middle_one() -> None:
    x_test, y_test = three_clusters(900, 99)
    for seed in range(3):
        x, y = three_clusters(300, seed)
        middle = {}
        for method in (Mixup(1.0), AdaMixup(policy_input="concat", policy_lr_scale=2.0)):
            torch.manual_seed(seed)
            net = nn.Sequential(
                nn.Linear(1, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
            )
            fit(net, x, y, [method], epochs=40, batch_size=60, seed=seed)
            with torch.no_grad():
                losses = cross_entropy(net(x_test), y_test, reduction="none")
            middle[method.info.name] = float(losses[y_test == 1].mean())
        assert middle["adamixup"] < 0.7 * middle["mixup"]
        with torch.no_grad():
            low, width = policy_interval(method.network(torch.tensor([[-1.0, 1.0], [1.0, -1.0]])))
        assert float((low + width / 2 - 0.5).abs().min()) > 0.15


def test_numbers_stay_finite_on_tiny_batches() -> None:
    for n in (1, 2, 3):
        model = Seen()
        reg = attach(model, AdaMixup(), torch.optim.SGD(model.parameters(), lr=0.1))
        x, y = next(reg.batches(DataLoader(TensorDataset(X[:n], Y[:n]), batch_size=n)))
        assert len(x) == (1 if n == 1 else 3)
        loss = reg.loss(model(x), y)
        loss.backward()
        assert np.isfinite(float(loss.detach()))
