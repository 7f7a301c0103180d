from __future__ import annotations

import copy
import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from tests.methods.noisy_digits import images
from tests.reference import sparse_twins as twins
from tether import TetherError, WeightCompander, attach, prepare
from tether.functional import compand, expand_inverse
from tether.methods.weights.compander import FORMS, Compander, fitted, reach


@pytest.mark.parametrize("form", FORMS)
def test_the_map_agrees_with_its_twin_is_odd_rises_and_is_undone(form: str) -> None:
    a, b = torch.tensor([0.7, 0.3], dtype=torch.float64)
    v = torch.linspace(-4.0, 4.0, 81, dtype=torch.float64)
    w = compand(v, a, b, form=form)
    wanted = [twins.compand(float(x), 0.7, 0.3, form) for x in v]
    np.testing.assert_allclose(w.numpy(), wanted, atol=1e-9)
    torch.testing.assert_close(w, -w.flip(0))
    assert (w.diff() > 0).all()
    if math.isfinite(reach(form)):
        assert (w.abs() < 0.7 * reach(form)).all()
    inner = w[w.abs() <= 0.9 * 0.7 * min(reach(form), 2.0)]
    torch.testing.assert_close(compand(expand_inverse(inner, a, b, form=form), a, b, form=form),
                               inner, rtol=1e-6, atol=1e-9)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_gradients(form: str) -> None:
    v = torch.tensor([-2.0, -0.3, 0.1, 1.4], dtype=torch.float64, requires_grad=True)
    a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.7, 0.3))
    assert torch.autograd.gradcheck(lambda *t: compand(*t, form=form), (v, a, b))
    if form == "arctan":
        found = torch.autograd.grad(compand(v, a, b).sum(), (v, a, b))
        rows = [twins.arctan_slopes(float(x), 0.7, 0.3) for x in v.detach()]
        np.testing.assert_allclose(found[0].numpy(), [r[0] for r in rows], atol=1e-9)
        assert float(found[1]) == pytest.approx(sum(r[1] for r in rows))
        assert float(found[2]) == pytest.approx(sum(r[2] for r in rows))


@pytest.mark.parametrize("form", FORMS)
def test_a_and_b_follow_from_margin_and_slope(form: str) -> None:
    weight = torch.randn(50, 20)
    a, b = fitted(weight, form, 1.7, 0.9)
    bound = reach(form) if math.isfinite(reach(form)) else 1.0
    assert float(weight.abs().max()) == pytest.approx(0.9 * a * bound)
    tiny = torch.tensor(1e-9, dtype=torch.float64)
    slope = float(compand(tiny, torch.tensor(a), torch.tensor(b), form=form) / tiny)
    assert slope == pytest.approx(1.7, rel=1e-5)
    assert fitted(torch.zeros(3, 3), form, 1.0, 0.9)[0] == 1.0


def test_what_is_out_of_reach_is_refused() -> None:
    one = torch.tensor(1.0)
    with pytest.raises(ValueError, match="beyond"):
        expand_inverse(torch.tensor([1.6]), one, one)
    for call in (compand, expand_inverse):
        with pytest.raises(ValueError, match="form 'cube'"):
            call(torch.zeros(1), one, one, form="cube")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "cube"}, "form 'cube'"),
        ({"slope": 0.0}, "slope"),
        ({"margin": 1.0}, "margin"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightCompander(**options)  # type: ignore[arg-type]


# -- in a model ----------------------------------------------------------------------------------


def net(seed: int = 0, width: int = 128) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def test_layers_are_chosen_and_refused_by_name() -> None:
    model = prepare(net(), WeightCompander())
    assert parametrize.is_parametrized(model[0]) and not parametrize.is_parametrized(model[2])
    both = prepare(net(), WeightCompander(targets="*"))
    assert parametrize.is_parametrized(both[2])
    with pytest.raises(TetherError, match=r"targets names 'fc1'.*known: 0, 2"):
        prepare(net(), WeightCompander(targets=["fc1"]))
    with pytest.raises(TetherError, match="below the head"):
        prepare(nn.Sequential(nn.Linear(3, 2)), WeightCompander())
    with pytest.raises(TetherError, match="'0' is parametrised already"):
        prepare(model, WeightCompander())
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    tied[1].weight = tied[0].weight
    with pytest.raises(TetherError, match="'0' and '1' share"):
        prepare(tied, WeightCompander())
    assert not parametrize.is_parametrized(tied[0])
    fresh = net()
    with pytest.raises(TetherError, match="prepare"):
        attach(fresh, WeightCompander(), torch.optim.SGD(fresh.parameters(), lr=0.1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_stay_when_it_is_put_in_and_taken_out(form: str, dtype: torch.dtype) -> None:
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 2))
    plain = plain.to(dtype).eval()
    x = torch.randn(4, 2, 5, 5, dtype=dtype)
    before, names = plain(x).detach(), [n for n, _ in plain.named_parameters()]
    model = copy.deepcopy(plain)
    method = WeightCompander(form, slope=1.5)
    prepare(model, method)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype is torch.float32 else {"rtol": 0.1, "atol": 0.1}
    torch.testing.assert_close(model(x), before, **close)
    method.finish(model)
    torch.testing.assert_close(model(x), before, **close)
    assert [n for n, _ in model.named_parameters()] == names
    assert type(model[0]) is nn.Conv2d
    plain.load_state_dict(model.state_dict())


def test_no_step_leads_past_the_bound_and_frozen_layers_stay_frozen() -> None:
    model = net()
    model[2].weight.requires_grad_(False)
    prepare(model, WeightCompander(targets="*", learnable=True))
    assert not model[2].parametrizations.weight.original.requires_grad
    assert not any(p.requires_grad for p in model[2].parametrizations.weight[0].parameters())
    with torch.no_grad():
        model[0].parametrizations.weight.original.add_(1e6 * torch.randn(128, 64))
    a, _ = model[0].parametrizations.weight[0].pair()
    assert (model[0].weight.abs() <= a * math.pi / 2).all()


def test_a_wide_map_is_plain_training() -> None:
    weight = torch.randn(6, 5, dtype=torch.float64)
    layer = nn.Linear(5, 6, bias=False, dtype=torch.float64)
    layer.weight.data = weight.clone()
    wide = Compander(weight, "arctan", 1.0, 1e-4, learnable=False)  # b = 1e4 max|v|
    wide.double()
    parametrize.register_parametrization(layer, "weight", wide)
    (layer.weight.square() * weight).sum().backward()
    found = layer.parametrizations.weight.original.grad
    torch.testing.assert_close(found, 2 * weight * weight, rtol=1e-5, atol=1e-6)


def train(seed: int, methods: list[WeightCompander], steps: int = 400) -> dict[str, float]:
    """Accuracy, largest weight and excess kurtosis of the first layer after 300 samples."""
    x, y = images()
    model = prepare(net(seed), methods)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    draw = torch.Generator().manual_seed(seed)
    with attach(model, methods, optimizer) as reg:
        for _ in range(steps):
            rows = torch.randint(300, (32,), generator=draw)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        measured = reg.measure()
        reg.finish()
    w = model[0].weight.detach().flatten().double()
    kurtosis = float((w - w.mean()).pow(4).mean() / w.var() ** 2 - 3)
    right = (model(x[300:]).argmax(1) == y[300:]).float().mean()
    if methods:
        assert measured["weight_compander"]["bound_share"] < 1.0
        assert measured["weight_compander"]["kurtosis"] == pytest.approx(kurtosis, abs=0.02)
    return {"accuracy": float(right), "largest": float(w.abs().max()), "kurtosis": kurtosis}


@functools.cache
def both(seed: int) -> tuple[dict[str, float], dict[str, float]]:
    return train(seed, []), train(seed, [WeightCompander()])


def test_weights_gather_near_a_bound_instead_of_near_zero() -> None:
    rows = [both(seed) for seed in range(3)]
    for plain, mapped in rows:
        assert mapped["kurtosis"] < plain["kurtosis"] - 1.0, rows
        assert mapped["largest"] < 0.6 * plain["largest"], rows
        assert mapped["accuracy"] > plain["accuracy"] - 0.03, rows


def test_the_fast_arctangent_is_the_plain_one_also_twice_differentiated() -> None:
    weight = torch.randn(300, 400, dtype=torch.float64)
    mapped = Compander(weight, "arctan", 1.3, 0.9, learnable=True).double()
    v = mapped.right_inverse(weight).requires_grad_()
    raw = (v, mapped.a_raw, mapped.b_raw)
    price = torch.randn_like(weight)
    plain = compand(v, *mapped.pair())
    torch.testing.assert_close(mapped(v), plain)
    found = torch.autograd.grad((mapped(v) * price).sum(), raw)
    for one, other in zip(found, torch.autograd.grad((plain * price).sum(), raw), strict=True):
        torch.testing.assert_close(one, other)
    small = Compander(weight[:2, :2], "arctan", 1.3, 0.9, learnable=False).double()
    x = v.detach()[:2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(small, (x,)) and torch.autograd.gradgradcheck(small, (x,))
