from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tests.methods.noisy_digits import images
from tests.reference import sparse_twins as twins
from tether import L2SP, ProximalStep, TetherError, attach, prox
from tether.methods.weights.proximal import threshold_share
from tether.methods.weights.thresholds import threshold

GRID = np.linspace(-2.0, 2.0, 41)
FORMS = ("l1", "l0", "l1/2", "l2/3")
OPERATORS = {
    "l1": prox.prox_l1,
    "l0": prox.prox_l0,
    "l1/2": prox.prox_l12,
    "l2/3": prox.prox_l23,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("g", [0.3, 0.7])
def test_operators_are_the_minimisers_and_the_printed_formulas(form: str, g: float) -> None:
    t = torch.from_numpy(GRID)
    found = OPERATORS[form](t, g).numpy()
    for value, at in zip(found, GRID, strict=True):
        assert value == pytest.approx(twins.prox(at, g, form), abs=1e-9)
        assert value == pytest.approx(twins.brute_force_prox(at, g, form), abs=1e-4)


@pytest.mark.parametrize("q", [0.1, 0.5, 2 / 3, 0.9])
def test_general_exponents(q: float) -> None:
    found = prox.prox_lq(torch.from_numpy(GRID), 0.3, q).numpy()
    for value, at in zip(found, GRID, strict=True):
        assert value == pytest.approx(twins.prox_lq(at, 0.3, q), abs=1e-9)
        assert value == pytest.approx(twins.brute_force_prox(at, 0.3, "lq", q=q), abs=1e-4)


@pytest.mark.parametrize(("gamma", "a"), [(0.5, 1.0), (0.3, 0.7), (1.0, 1.0), (1.5, 2.0)])
def test_cel0(gamma: float, a: float) -> None:
    found = prox.prox_cel0(torch.from_numpy(GRID), gamma, 0.4, a).numpy()
    for value, at in zip(found, GRID, strict=True):
        assert value == pytest.approx(twins.prox_cel0(at, gamma, 0.4, a), abs=1e-9)
        wanted = twins.brute_force_prox(at, gamma, "cel0", lam=0.4, a=a)
        assert value == pytest.approx(wanted, abs=2e-4)


@pytest.mark.parametrize("form", [*FORMS, "lq", "cel0"])
def test_operators_are_odd_monotone_and_never_lengthen(form: str) -> None:
    t = torch.linspace(-3.0, 3.0, 1001, dtype=torch.float64)
    y = threshold(t, 0.3, form=form, q=0.3, step=0.5)
    assert torch.equal(y, -y.flip(0))
    assert (y.diff() >= 0).all() and (y.abs() <= t.abs()).all()
    if form != "l1":  # the bias vanishes
        far = threshold(torch.tensor([1e4], dtype=torch.float64), 0.3, form=form, q=0.3, step=0.5)
        assert 1e4 - float(far) < 0.05


@pytest.mark.parametrize("form", [*FORMS, "lq"])
def test_a_threshold_is_where_zero_ends_and_no_strength_is_the_identity(form: str) -> None:
    g = prox.threshold_to_strength(form, 0.6, q=0.3)
    t = torch.tensor([0.6 - 1e-9, 0.6 + 1e-6], dtype=torch.float64)
    kept = threshold(t, g, form=form, q=0.3)
    assert kept[0] == 0 and kept[1] > 0
    x = torch.randn(9)
    for nothing in (0.0, torch.tensor(0.0)):
        assert torch.equal(threshold(x, nothing, form=form), x)
        assert not threshold_share(x, nothing, form=form).any()


@pytest.mark.parametrize("form", [*FORMS, "lq", "cel0"])
def test_gradients_are_right_and_finite_where_all_is_zero(form: str) -> None:
    t = torch.tensor([-1.7, -0.1, 0.05, 1.1, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: threshold(x, 0.3, form=form, q=0.4, step=0.5), (t,), eps=1e-7
    )
    zero = torch.zeros(3, requires_grad=True)
    threshold(zero, 0.3, form=form, step=0.5).sum().backward()
    assert zero.grad is not None and torch.isfinite(zero.grad).all()


def test_cel0_finds_a_minimiser_of_l0() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        a, y, lam = rng.normal(size=(4, 3)), rng.normal(size=4), 0.3
        _, where = twins.best_support(a, y, lam)
        columns = torch.from_numpy(np.linalg.norm(a, axis=0))
        found = prox.sparse_code(
            torch.from_numpy(a),
            torch.from_numpy(y)[None],
            lambda s, r, c=columns: prox.prox_cel0(s, r, 0.3, c),
            steps=300,
            start=torch.from_numpy(where)[None],
        )
        # the minimiser of l0 is a fixed point of the steps on CEL0
        np.testing.assert_allclose(found[0].numpy(), where, atol=1e-6)


def test_orthonormal_columns_give_hard_thresholding() -> None:
    y = torch.tensor([[0.3, -0.9, 1.1, 2.0]], dtype=torch.float64)
    found = prox.sparse_code(
        torch.eye(4, dtype=torch.float64), y, lambda s, r: prox.prox_cel0(s, r, 0.5)
    )
    torch.testing.assert_close(found, prox.prox_l0(y, 0.5))


def test_sparse_code_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\[d, m\]"):
        prox.sparse_code(torch.eye(3), torch.zeros(3), prox.prox_l1)


def coded(seed: int, form: str) -> tuple[float, int]:
    """Error of the best code with 5 to 8 entries, and its entries, for one random problem."""
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(32, 128, generator=draw)
    a /= a.norm(dim=0)
    s0 = torch.zeros(1, 128)
    places = torch.randperm(128, generator=draw)[:5]
    s0[0, places] = (1.0 + torch.rand(5, generator=draw)) * torch.randn(5, generator=draw).sign()
    y = s0 @ a.T + 0.01 * torch.randn(1, 32, generator=draw)
    warm = prox.sparse_code(a, y, lambda s, r: prox.prox_l1(s, 0.05 * r), steps=150)
    best, entries = float("inf"), 0
    for weight in (0.02, 0.06, 0.15, 0.4):
        if form == "cel0":
            step, start = (lambda s, r, w=weight: prox.prox_cel0(s, r, w)), warm
        else:
            operator = OPERATORS[form]
            step = lambda s, r, w=weight, op=operator: op(s, w * r)  # noqa: E731
            start = None if form == "l1" else warm
        codes = prox.sparse_code(a, y, step, steps=200, start=start)
        count = int((codes != 0).sum())
        error = float((codes - s0).norm())
        if 5 <= count <= 8 and error < best:
            best, entries = error, count
    return best, entries


def test_sparser_penalties_have_less_bias_than_l1() -> None:
    errors = {form: [coded(seed, form)[0] for seed in range(3)] for form in ("l1", "cel0", "l1/2")}
    for form in ("cel0", "l1/2"):
        ratios = [e / l1 for e, l1 in zip(errors[form], errors["l1"], strict=True)]
        assert np.median(ratios) < 0.5, (form, ratios)


# -- attached ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "weight"),
        ({"weight": 0.1, "threshold": 0.1}, "one of them"),
        ({"weight": -1.0}, "weight must be >= 0"),
        ({"threshold": -1.0}, "threshold must be >= 0"),
        ({"weight": 0.1, "form": "l2"}, "form 'l2'"),
        ({"weight": 0.1, "form": "lq", "q": 1.0}, "q must lie"),
        ({"weight": 0.1, "every": 0}, "every"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProximalStep(**options)  # type: ignore[arg-type]


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train(model: nn.Module, methods: list, x: torch.Tensor, y: torch.Tensor, steps: int) -> dict:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with attach(model, methods, optimizer, total_steps=steps) as reg:
        for step in range(steps):
            rows = torch.arange(step * 64, step * 64 + 64) % len(x)
            optimizer.zero_grad()
            reg.loss(model(x[rows]), y[rows]).backward()
            optimizer.step()
        return reg.measure()


def test_a_wildcard_that_fits_nothing_names_what_is_near() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TetherError, match=r"0\.weigth.*0\.weight"):
        attach(model, ProximalStep(0.1, include=["0.weigth"]), optimizer)
    with pytest.raises(TetherError, match="below the head"):
        attach(nn.Sequential(nn.Linear(4, 2)), ProximalStep(0.1))


def test_l1_is_the_proximal_l1_sp() -> None:
    x, y = images()
    first, second = net(), net()
    train(first, [ProximalStep(0.01)], x[:512], y[:512], 30)
    train(second, [L2SP(0.01, 0.0, form="l1_sp", proximal=True)], x[:512], y[:512], 30)
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_step_every_few_updates_and_the_weights_themselves() -> None:
    x, y = images()
    method = ProximalStep(threshold=0.02, form="l0", relative_to_reference=False, every=5)
    model = net()
    numbers = train(model, [method], x[:512], y[:512], 9)
    assert numbers["proximal"]["unchanged_share"] < 0.05  # four free updates since
    again = net()
    found = train(again, [ProximalStep(threshold=0.02, form="l0", relative_to_reference=False)],
                  x[:512], y[:512], 5)  # fmt: skip
    kept = again[0].weight.detach().abs()
    assert found["proximal"]["unchanged_share"] > 0.1
    assert ((kept == 0) | (kept > 0.02)).all()


def test_large_parameters_are_stepped_piece_by_piece() -> None:
    model = nn.Sequential(nn.Linear(400, 300, bias=False), nn.ReLU(), nn.Linear(300, 2))
    start = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = ProximalStep(threshold=0.5, form="l1/2")
    with attach(model, method, optimizer), torch.no_grad():
        model[0].weight.add_(torch.randn_like(start))
        model[0].weight.grad = torch.zeros_like(start)
        moved = model[0].weight - start
        method.after_step()
    g = prox.threshold_to_strength("l1/2", 0.5)
    wanted = start + prox.prox_l12(moved, g)
    torch.testing.assert_close(model[0].weight.detach(), wanted, rtol=1e-5, atol=1e-5)
    assert torch.equal(model[0].weight.detach() == start, moved.abs() <= 0.5)


def test_most_weights_stay_where_they_were_at_little_cost_in_accuracy() -> None:
    x, y = images()
    accuracy = {"plain": [], "cel0": []}
    shares = []
    for seed in range(3):
        start = net(seed)
        train(start, [], x[:600], (y[:600] // 2) % 10, 60)  # what it knew before
        for name, methods in (("plain", []), ("cel0", [ProximalStep(0.0008, form="cel0")])):
            model = net(seed)
            model.load_state_dict(start.state_dict())
            numbers = train(model, methods, x[600:1200], y[600:1200], 120)
            right = (model(x[1200:]).argmax(1) == y[1200:]).float().mean()
            accuracy[name].append(float(right))
            if methods:
                shares.append(numbers["proximal"]["unchanged_share"])
    assert min(shares) > 0.6, shares
    assert np.mean(accuracy["cel0"]) > np.mean(accuracy["plain"]) - 0.02, accuracy


def test_operators_take_partials_of_their_strength() -> None:
    codes = prox.sparse_code(torch.eye(2), torch.tensor([[2.0, 0.1]]), partial(prox.prox_lq, q=0.3))
    assert codes[0, 1] == 0 and codes[0, 0] > 1.0
