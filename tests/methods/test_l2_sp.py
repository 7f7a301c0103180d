from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.reference import weight_twins as twins
from tether import L2SP, TetherError, attach
from tether.methods.weights.fisher import diagonal_fisher
from tether.methods.weights.start_penalty import FORMS, start_gradient, start_penalty, start_pull

CASES = [(form, weighed) for form in FORMS for weighed in (False, True)]


def moved_and_fisher(form: str, weighed: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    rng = np.random.default_rng(0)
    moved = rng.normal(size=(4, 3))
    moved[1] = 0.0
    moved[2, 1] = 0.0
    use = weighed and form in ("l2_sp", "group_lasso_sp")
    return torch.from_numpy(moved), torch.from_numpy(rng.random((4, 3))) if use else None


@pytest.mark.parametrize(("form", "weighed"), CASES)
def test_formulas_agree_with_their_twins(form: str, weighed: bool) -> None:
    moved, fisher = moved_and_fisher(form, weighed)
    raw = None if fisher is None else fisher.numpy()
    value = start_penalty(moved, form=form, fisher=fisher)
    assert float(value) == pytest.approx(twins.start_penalty(moved.numpy(), form, raw), rel=1e-12)
    slope = start_gradient(moved, form=form, fisher=fisher)
    np.testing.assert_allclose(
        slope.numpy(), twins.start_gradient(moved.numpy(), form, raw), atol=1e-6
    )


@pytest.mark.parametrize(("form", "weighed"), CASES)
def test_the_gradient_is_that_of_the_penalty(form: str, weighed: bool) -> None:
    moved, fisher = moved_and_fisher(form, weighed)
    moved = (moved + 0.01).requires_grad_()  # away from the corners
    start_penalty(moved, form=form, fisher=fisher).backward()
    assert moved.grad is not None
    torch.testing.assert_close(
        moved.grad, start_gradient(moved.detach(), form=form, fisher=fisher), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("form", ["l1_sp", "group_lasso_sp"])
def test_the_proximal_step_is_soft_thresholding(form: str) -> None:
    moved, _ = moved_and_fisher(form, False)
    kept = moved * (1.0 - start_pull(moved, 0.4, form=form))
    expected = twins.proximal(moved.numpy(), 0.4, form)
    np.testing.assert_allclose(kept.numpy(), expected, atol=1e-12)
    assert ((kept == 0).numpy() == (expected == 0)).all()


def test_at_the_start_penalty_and_gradient_are_zero() -> None:
    zero = torch.zeros(3, 2)
    for form in FORMS:
        assert start_penalty(zero, form=form) == 0
        assert torch.equal(start_gradient(zero, form=form), zero)


def test_a_fisher_of_ones_is_none_and_of_zeros_is_nothing() -> None:
    moved, _ = moved_and_fisher("l2_sp", False)
    assert torch.equal(start_gradient(moved, fisher=torch.ones(4, 3)), start_gradient(moved))
    assert not start_gradient(moved, fisher=torch.zeros(4, 3)).any()


def test_diagonal_fisher_of_a_linear_classifier_is_the_closed_form() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 4).double().train()
    rows = torch.randn(6, 3, dtype=torch.float64)
    found = diagonal_fisher(model, [rows[:4], (rows[4:], None)])
    weight, bias = (p.detach().numpy() for p in (model.weight, model.bias))
    expected = twins.linear_fisher(weight, bias, rows.numpy())
    np.testing.assert_allclose(found["weight"].numpy(), expected[0], rtol=1e-9)
    np.testing.assert_allclose(found["bias"].numpy(), expected[1], rtol=1e-9)
    assert model.training
    first = diagonal_fisher(model, [rows], num_samples=1)
    np.testing.assert_allclose(
        first["weight"].numpy(), twins.linear_fisher(weight, bias, rows[:1].numpy())[0], rtol=1e-9
    )


def test_sampled_labels_give_the_same_fisher_on_average() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    row = torch.randn(1, 2).expand(1500, 2)
    generator = torch.Generator().manual_seed(0)
    sampled = diagonal_fisher(model, [row], labels="sampled", generator=generator)
    exact = diagonal_fisher(model, [row[:1]])
    for name, values in exact.items():
        torch.testing.assert_close(sampled[name], values, rtol=0.15, atol=0.01)


def test_fisher_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="labels 'true'"):
        diagonal_fisher(nn.Linear(2, 2), [torch.ones(1, 2)], labels="true")
    with pytest.raises(ValueError, match="no sample"):
        diagonal_fisher(nn.Linear(2, 2), [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "l3"}, "form 'l3'"),
        ({"include": "biases"}, "include"),
        ({"weight": -0.1}, "weight must be >= 0"),
        ({"head_weight": -0.1}, "head_weight must be >= 0"),
        ({"proximal": True}, "proximal is for"),
        ({"form": "l1_sp", "fisher": {}}, "takes no fisher"),
        ({"form": "group_lasso_sp", "fisher": {}, "decoupled": True}, "no closed form"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        L2SP(**options)  # type: ignore[arg-type]


# -- attached ------------------------------------------------------------------------------------


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.ReLU(), nn.Linear(5, 2))


X = torch.randn(16, 3, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 2, (16,), generator=torch.Generator().manual_seed(2))


def train(
    model: nn.Module, method: L2SP | None, steps: int = 5, lr: float = 0.3, momentum: float = 0.0
) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    with attach(model, [] if method is None else [method], optimizer, total_steps=steps) as reg:
        for _ in range(steps):
            reg.loss(model(X), Y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


def by_hand(include: str, a: float = 0.4, b: float = 0.2, steps: int = 5) -> nn.Module:
    """The same training with the penalty in the loss, through autograd."""
    model = net()
    start = {k: v.detach().clone() for k, v in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(X), Y)
        for name, p in model.named_parameters():
            if include == "weights" and p.ndim < 2:
                continue
            if name.startswith("3."):
                loss = loss + b / 2 * p.square().sum()
            else:
                loss = loss + a / 2 * (p - start[name]).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def assert_same(first: nn.Module, second: nn.Module, **tolerance: float) -> None:
    for (name, p), (_, q) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        if tolerance:
            torch.testing.assert_close(p, q, msg=lambda m, n=name: f"{n}: {m}", **tolerance)
        else:
            assert torch.equal(p, q), name


@pytest.mark.parametrize("include", ["weights", "all"])
def test_edited_gradients_train_like_the_penalty_in_the_loss(include: str) -> None:
    ours = train(net(), L2SP(0.4, 0.2, include=include))
    assert_same(ours, by_hand(include), rtol=1e-5, atol=1e-6)


def test_zero_weights_are_plain_training_bit_for_bit() -> None:
    plain = train(net(), None)
    for decoupled in (False, True):
        assert_same(train(net(), L2SP(0.0, 0.0, decoupled=decoupled)), plain)


def test_without_momentum_the_decoupled_pull_is_nearly_the_gradient() -> None:
    # one pull acts before the step's update, the other after it: they differ by (lr a)^2
    coupled = train(net(), L2SP(0.01, 0.01), lr=0.1)
    decoupled = train(net(), L2SP(0.01, 0.01, decoupled=True), lr=0.1)
    plain = train(net(), None, lr=0.1)
    gap = (coupled[0].weight - decoupled[0].weight).norm()
    effect = (coupled[0].weight - plain[0].weight).norm()
    assert effect > 0 and gap < 0.5 * effect
    assert_same(coupled, decoupled, rtol=1e-3, atol=2e-4)


def test_a_decoupled_pull_of_one_returns_to_the_start() -> None:
    model = net()
    start = model[0].weight.detach().clone()
    train(model, L2SP(2.0, 0.0, decoupled=True), lr=0.5)
    assert torch.equal(model[0].weight.detach(), start)


def test_the_start_of_a_frozen_or_idle_parameter_is_not_pulled() -> None:
    model = net()
    model[3].requires_grad_(False)
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    train(model, L2SP(0.5, 0.5))
    assert torch.equal(model[3].weight.detach(), before["3.weight"])
    idle = nn.Sequential(net(), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(idle.parameters(), lr=0.1)
    start = idle[1].weight.detach().clone()
    with attach(idle, L2SP(0.5, 0.5), optimizer):
        idle[0](X).sum().backward()  # the head gets no gradient
        optimizer.step()
    assert torch.equal(idle[1].weight.detach(), start)


def test_weights_follow_their_schedules() -> None:
    late = train(net(), L2SP("step(0, 5, 0.99)", 0.0))
    assert_same(late, train(net(), None))
    early = train(net(), L2SP("step(0.4, 0.4, 0.5)", 0.2))
    assert_same(early, train(net(), L2SP(0.4, 0.2)))


def quadratic(form: str, target: float, **options: object) -> float:
    """Where SGD ends on ``0.5 (w - c)^2`` from 1.0."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1))
    model[0].weight.data.fill_(1.0)
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.05)
    model[1].requires_grad_(False)
    with attach(model, L2SP(0.5, 0.0, form=form, **options), optimizer):  # type: ignore[arg-type]
        for _ in range(400):
            optimizer.zero_grad()
            (0.5 * (model[0].weight - target).square().sum()).backward()
            optimizer.step()
    return float(model[0].weight.detach())


def test_optima_on_a_quadratic() -> None:
    assert quadratic("l2_sp", 4.0) == pytest.approx((4.0 + 0.5) / 1.5, abs=1e-4)
    assert quadratic("l2", 4.0) == pytest.approx(4.0 / 1.5, abs=1e-4)
    assert quadratic("l1_sp", 4.0) == pytest.approx(3.5, abs=1e-4)
    assert quadratic("l1_sp", 4.0, proximal=True) == pytest.approx(3.5, abs=1e-4)
    assert quadratic("l1_sp", 1.3, proximal=True) == 1.0  # exactly: less than the threshold away
    assert quadratic("group_lasso_sp", 1.3, proximal=True) == 1.0
    fisher = {"0.weight": torch.full((1, 1), 3.0)}
    assert quadratic("l2_sp", 4.0, fisher=fisher) == pytest.approx((4.0 + 1.5) / 2.5, abs=1e-4)


def test_the_fisher_may_come_from_a_file_and_must_fit(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    fisher = diagonal_fisher(net(), [X])
    path = tmp_path / "fisher.safetensors"
    save_file(fisher, path)
    from_file = train(net(), L2SP(0.4, fisher=str(path)))
    assert_same(from_file, train(net(), L2SP(0.4, fisher=fisher)))
    with pytest.raises(TetherError, match=r"no entry '0\.weight'"):
        train(net(), L2SP(fisher={}))
    with pytest.raises(TetherError, match=r"shape \(2,\)"):
        train(net(), L2SP(fisher={"0.weight": torch.ones(2)}))


def test_fused_optimisers_get_the_scaled_gradient() -> None:
    model = net()
    method = L2SP(0.4, 0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, method, optimizer) as reg:
        reg.loss(model(X), Y).backward()
        with torch.no_grad():
            model[0].weight.add_(1.0)
            before = model[0].weight.grad.clone()
            reg.seam.grad_scale = torch.tensor(8.0)
            method.edit_gradients()
            reg.seam.grad_scale = None
        added = model[0].weight.grad - before
    torch.testing.assert_close(added, torch.full_like(added, 0.4 * 8.0))


def test_a_skipped_update_is_not_pulled() -> None:
    model = net()
    method = L2SP(0.4, 0.2, decoupled=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, method, optimizer) as reg, torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
            parameter.grad = torch.zeros_like(parameter)
        before = model[0].weight.clone()
        reg.seam.found_inf = torch.tensor(1.0)
        method.after_step()
        assert torch.equal(model[0].weight, before)
        reg.seam.found_inf = torch.tensor(0.0)
        method.after_step()
        torch.testing.assert_close(model[0].weight, before - 0.04)


def test_measure_reports_penalty_and_distance() -> None:
    model = net()
    start = model[0].weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    with attach(model, L2SP(0.4), optimizer) as reg:
        for _ in range(3):
            optimizer.zero_grad()
            reg.loss(model(X), Y).backward()
            optimizer.step()
        numbers = reg.measure()["l2_sp"]
    square = float((model[0].weight.detach() - start).square().sum())
    assert numbers["penalty"] == pytest.approx(0.2 * square, rel=1e-5)
    assert numbers["distance"] == pytest.approx(square**0.5, rel=1e-5)
    assert numbers["head_norm"] == pytest.approx(float(model[3].weight.detach().norm()), rel=1e-5)


def test_two_pulls_may_be_combined() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    with attach(model, [L2SP(0.1, 0.05), L2SP(0.3, 0.15)], optimizer) as reg:
        for _ in range(5):
            reg.loss(model(X), Y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert_same(model, train(net(), L2SP(0.4, 0.2)), rtol=1e-5, atol=1e-6)
