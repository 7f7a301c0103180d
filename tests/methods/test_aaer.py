from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.methods.noisy_digits import images
from tests.reference import layer_input_twins as twins
from tether import AbnormalAdversarialRegularization as AAER
from tether import RandomStartFGSM, TetherError, attach
from tether.functional import abnormal_adversarial_penalty
from tether.measure import Attack, abnormal_adversarial_fraction, robust_accuracy


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def some(seed: int = 0, rows: int = 9) -> tuple[torch.Tensor, ...]:
    start, adv = normal(rows, 4, seed=seed), normal(rows, 4, seed=seed + 1)
    y = torch.arange(rows) % 4
    return start, F.cross_entropy(start, y, reduction="none"), adv, F.cross_entropy(
        adv, y, reduction="none"
    )  # fmt: skip


# -- the formula ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("seed", range(6))
def test_the_price_agrees_with_its_twin(reduction: str, seed: int) -> None:
    given = some(seed)
    found, about = abnormal_adversarial_penalty(
        *given, ce_weight=0.7, output_weight=0.4, reduction=reduction
    )
    wanted, share = twins.abnormal_penalty(*(t.numpy() for t in given), 0.7, 0.4, reduction)
    assert float(found) == pytest.approx(wanted, abs=1e-9)
    assert float(about["abnormal_fraction"]) == pytest.approx(share)


def active() -> tuple[torch.Tensor, ...]:
    """Abnormal rows move more than normal ones, so that the price is not 0."""
    start, _, adv, _ = some()
    before, after = torch.zeros(9, dtype=torch.float64), torch.ones(9, dtype=torch.float64)
    before[:3] = 2.0
    adv = adv.clone()
    adv[:3] = start[:3] + 3.0
    adv[3:] = start[3:] + 0.1
    return start, before, adv, after


def test_the_gradient_is_the_closed_form_on_abnormal_rows_and_nothing_on_others() -> None:
    start, before, adv, after = active()
    adv, start, after = (t.clone().requires_grad_() for t in (adv, start, after))
    price, _ = abnormal_adversarial_penalty(
        start, before, adv, after, ce_weight=5.0, output_weight=0.4
    )
    price.backward()
    assert adv.grad is not None
    torch.testing.assert_close(adv.grad[:3], 2 * 0.4 * (adv - start).detach()[:3] / 9)
    assert not adv.grad[3:].any()
    assert start.grad is None and after.grad is None  # as in the authors' code
    price, _ = abnormal_adversarial_penalty(
        start.detach(), before, adv, after, ce_weight=5.0, output_weight=0.0, ce_term="grad"
    )
    price.backward()
    torch.testing.assert_close(after.grad[:3], torch.full((3,), -5.0 / 9).double())
    assert not after.grad[3:].any()


def test_gradcheck() -> None:
    start, before, adv, after = active()
    assert torch.autograd.gradcheck(  # what normal rows move is constant
        lambda z: abnormal_adversarial_penalty(start, before, torch.cat([z, adv[3:]]), after)[0],
        [adv[:3].clone().requires_grad_()],
    )


def test_nothing_where_all_are_abnormal_or_none_and_the_order_does_not_matter() -> None:
    start, before, adv, after = active()
    ones, zeros = torch.ones(9).double(), torch.zeros(9).double()
    for first, second in ((ones, zeros), (zeros, ones), (ones, ones)):
        z = adv.clone().requires_grad_()
        price, about = abnormal_adversarial_penalty(start, first, z, second)
        price.backward()
        assert float(price.detach()) == 0.0 and not z.grad.any()
        assert float(about["abnormal_fraction"]) == float((first > second).double().mean())
    shuffled = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    whole, _ = abnormal_adversarial_penalty(start, before, adv, after)
    mixed, _ = abnormal_adversarial_penalty(*(t[shuffled] for t in (start, before, adv, after)))
    torch.testing.assert_close(mixed, whole)
    assert float(whole) > 0


def test_rows_that_do_not_count_are_in_no_group() -> None:
    given = active()
    mask = torch.tensor([True, False, True, True, True, False, True, True, True])
    found, about = abnormal_adversarial_penalty(*given, mask=mask)
    wanted, _ = abnormal_adversarial_penalty(*(t[mask] for t in given))
    torch.testing.assert_close(found, wanted)
    assert int(about["counted"]) == 7 and int(about["abnormal"]) == 2


def test_a_linear_model_has_no_abnormal_samples() -> None:
    torch.manual_seed(0)
    net, x = nn.Linear(6, 2), torch.randn(200, 6)
    y = torch.randint(2, (200,))
    assert abnormal_adversarial_fraction(net, [(x, y)], epsilon=0.3, start=False) == 0.0


# -- attached ------------------------------------------------------------------------------------

X, Y = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))


def loader() -> DataLoader:
    return DataLoader(TensorDataset(X, Y), 6)


def steps(methods: list, epochs: int = 2) -> tuple[list[torch.Tensor], list[float]]:
    net = network()
    with torch.no_grad():
        net[0].weight.mul_(8)  # curved enough for abnormal samples
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    reg, parts = attach(net, methods, optimizer), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(epochs):
            for x, y in reg.batches(loader()):
                optimizer.zero_grad()
                reg.loss(net(x), y).backward()
                parts.append(float(reg.parts.get("aaer", torch.zeros(()))))
                optimizer.step()
    return [p.detach().clone() for p in net.parameters()], parts


def test_its_own_attack_and_one_in_the_recipe_are_the_same() -> None:
    own, parts = steps([AAER(output_weight=2.0, epsilon=0.6)])
    beside, _ = steps([AAER(output_weight=2.0), RandomStartFGSM(0.6)])
    alone, _ = steps([RandomStartFGSM(0.6)])
    assert any(part > 0 for part in parts)
    assert all(torch.equal(a, b) for a, b in zip(own, beside, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(own, alone, strict=True))


def test_the_losses_term_is_shown_and_not_learnt_unless_asked_for() -> None:
    plain, _ = steps([RandomStartFGSM(0.6)])
    constant, parts = steps([AAER(ce_weight=3.0, output_weight=0.0, epsilon=0.6)])
    learnt, _ = steps([AAER(ce_weight=3.0, output_weight=0.0, ce_term="grad", epsilon=0.6)])
    assert any(part > 0 for part in parts)
    assert all(torch.equal(a, b) for a, b in zip(plain, constant, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(plain, learnt, strict=True))


def test_weight_zero_counts_and_raises_the_alarm() -> None:
    net = network()
    with torch.no_grad():
        net[0].weight.mul_(40)
    method = AAER(weight=0.0, alarm=0.1, epsilon=0.8)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    reg = attach(net, method, optimizer)
    for x, y in (batches := reg.batches(loader())):
        reg.loss(net(x), y)
        if method.counted == 12:
            break
    batches.close()
    with pytest.warns(UserWarning, match="catastrophic overfitting: in epoch 0 .*many steps"):
        reg.end_epoch()
    numbers = reg.measure()["aaer"]
    assert numbers["abnormal_fraction"] > 0.1 and numbers["alarm"] == 1.0
    assert int(method.counted) == 12


def test_what_does_not_fit_is_refused() -> None:
    for options in (
        {"weight": -1.0}, {"output_weight": -1.0}, {"ce_weight": -1.0}, {"ce_term": "both"},
        {"reduction": "max"}, {"alarm": 0.0}, {"epsilon": -1.0},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            AAER(**options)
    with pytest.raises(TetherError, match="'aaer' works on the attack of 'fgsm_rs'"):
        attach(network(), AAER())
    with pytest.raises(TetherError, match="twice"):
        attach(network(), [AAER(epsilon=0.1), RandomStartFGSM()])
    with pytest.raises(ValueError, match="ce_term"):
        abnormal_adversarial_penalty(*some(), ce_term="both")


# -- digits --------------------------------------------------------------------------------------


def fit(seed: int, methods: list, epochs: int) -> tuple[list[float], nn.Module]:
    """Share of abnormal samples in every epoch."""
    x, y = images()
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                        nn.Linear(128, 10))  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    batches = DataLoader(TensorDataset(x[:1000], y[:1000]), 100, shuffle=True)
    shares = []
    with attach(net, methods, optimizer, seed=seed) as reg, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(epochs):
            for bx, by in reg.batches(batches):
                optimizer.zero_grad()
                reg.loss(net(bx), by).backward()
                optimizer.step()
            shares.append(reg.measure()["aaer"]["abnormal_fraction"])
    return shares, net


def test_the_alarm_tells_a_collapse_on_digits() -> None:
    x, y = images()
    test = [(x[1300:1500], y[1300:1500])]
    for seed in range(3):
        seen = []
        for epsilon, step in ((0.15, 1.25), (0.5, 2.0)):
            attack = RandomStartFGSM(epsilon, step_size=step * epsilon, bounds=[0, 1])
            shares, net = fit(seed, [attack, AAER(weight=0.0)], 8)
            strong = Attack(epsilon, steps=10, step_size=epsilon / 4)
            rows = robust_accuracy(
                net, test, blur=(), noise=(), attacks=[strong], bounds=(0, 1)
            )  # fmt: skip
            own = abnormal_adversarial_fraction(net, test, epsilon=epsilon, bounds=(0.0, 1.0))
            seen.append((max(shares), rows[1].accuracy, own))
        (calm, withstood, own_calm), (wild, nothing, own_wild) = seen
        assert calm < 0.02 and own_calm < 0.02 and withstood > 0.3, seen
        assert wild > 0.2 and nothing < 0.05, seen
        assert own_wild > own_calm, seen
