from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import TensorDataset

from tests.reference import continual_twins as twins
from tether import EWC, L2SP, TetherError, attach, create_method
from tether.methods.weights.ewc_fisher import accumulate_fisher, drawn_label, spread
from tether.methods.weights.fisher import diagonal_fisher
from tether.tuning.method_spec import parse_method

RNG = np.random.default_rng(0)
X = torch.from_numpy(RNG.normal(size=(30, 4)))
Y = torch.arange(30) % 3


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(4, 3, bias=False).double()


def net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


# -- the Fisher diagonal ---------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["model", "data"])
def test_the_diagonal_of_a_softmax_regression_is_the_analytic_one(labels: str) -> None:
    model = linear()
    found = diagonal_fisher(model, [(X, Y)], labels=labels)["weight"]
    given = None if labels == "model" else Y.tolist()
    wanted = twins.softmax_fisher(model.weight.detach().numpy(), X.numpy(), given)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)


def test_the_diagonal_of_logistic_regressions_is_the_analytic_one() -> None:
    model = linear()
    found = diagonal_fisher(model, [X], likelihood="sigmoid")["weight"]
    wanted = twins.sigmoid_fisher(model.weight.detach().numpy(), X.numpy())
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)


def test_drawn_labels_come_to_the_expectation_and_outputs_may_be_left_out() -> None:
    model, many = linear(), X.repeat(40, 1)
    draw = torch.Generator().manual_seed(0)
    drawn = diagonal_fisher(model, [many], labels="sampled", generator=draw)["weight"]
    exact = diagonal_fisher(model, [X])["weight"]
    torch.testing.assert_close(drawn, exact, rtol=0.25, atol=0.02)
    part = diagonal_fisher(model, [(X, Y % 2)], labels="data", classes=[0, 1])["weight"]
    assert not part[2].any() and part[:2].all()
    whole = nn.Linear(4, 2, bias=False).double()
    with torch.no_grad():
        whole.weight.copy_(model.weight[:2])
    wanted = diagonal_fisher(whole, [(X, Y % 2)], labels="data")["weight"]
    torch.testing.assert_close(part[:2], wanted)


def test_draws_that_follow_from_the_row_have_their_frequencies() -> None:
    probs = torch.tensor([0.5, 0.2, 0.3])
    drawn = torch.stack([drawn_label(probs, row) for row in range(1000)])
    shares = torch.bincount(drawn, minlength=3) / 1000
    torch.testing.assert_close(shares, probs, atol=0.01, rtol=0)
    assert sum(spread(row, 1000, 64) for row in range(1000)) == 64


def test_old_diagonals_fade_and_a_grown_head_begins_at_zero() -> None:
    old, new = {"w": torch.full((2, 3), 4.0)}, {"w": torch.ones(4, 3), "v": torch.ones(2)}
    found = accumulate_fisher(old, new, 0.5)
    assert found["w"][0, 0] == 3.0 and found["w"][3, 0] == 1.0 and found["v"][0] == 1.0
    assert old["w"][0, 0] == 4.0 and new["w"][0, 0] == 1.0


# -- the penalty -----------------------------------------------------------------------------------


def train(methods: list, steps: int = 5, model: nn.Module | None = None) -> nn.Module:
    model = net() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    attach(model, methods, optimizer, train_data=TensorDataset(X, Y), epochs=1)
    reg_loss = methods[0].ctx._handle.loss
    for _ in range(steps):
        optimizer.zero_grad()
        reg_loss(model(X), Y).backward()
        optimizer.step()
    return model


def test_the_gradient_is_that_of_the_twins_penalty(tmp_path: Path) -> None:
    start, fisher = net(), {n: torch.rand_like(p) for n, p in net().named_parameters()}
    save_file({n: t.contiguous() for n, t in fisher.items()}, tmp_path / "f.safetensors")
    method = EWC(weight=3.0, information=str(tmp_path / "f.safetensors"), old_classes=[0, 1])
    model = train([method], steps=1)
    assert float(method.measure()["distance"]) > 0
    model.zero_grad()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    reg = method.ctx._handle
    reg.loss(model(X), Y).backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters()}
    with torch.no_grad():
        method.edit_gradients()
    total = 0.0
    for name, first in start.named_parameters():
        f = fisher[name].numpy().copy()
        if name.startswith("2."):
            f[2:] = 0.0  # the row of the new class
        gap = (before[name] - first).detach()
        added = dict(model.named_parameters())[name].grad - plain[name]
        np.testing.assert_allclose(added.numpy(), 6.0 * f * gap.numpy(), atol=1e-12)
        total += twins.ewc_penalty(before[name].numpy(), first.detach().numpy(), f, 3.0)
    assert float(method.measure()["penalty"]) == pytest.approx(total, rel=1e-9)


def test_with_ones_for_the_diagonal_it_is_l2_to_the_start() -> None:
    ones = {n: torch.ones_like(p) for n, p in net().named_parameters()}
    one = train([EWC(weight=0.5, information=ones)])
    other = train([L2SP(weight=1.0, head_weight=0.0, include="all")])
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, msg=name)


def test_a_mean_weighs_less_by_the_number_of_weights() -> None:
    ones = {n: torch.ones_like(p) for n, p in net().named_parameters()}
    one = train([EWC(weight=0.5, information=ones)])
    other = train([EWC(weight=0.5 * 30, information=ones, reduction="mean")])  # 4*6 + 6 held
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)


def test_the_estimate_is_the_diagonal_of_the_start() -> None:
    method = EWC(weight=1.0, fisher="empirical", samples=1000)
    train([method], steps=1)
    wanted = diagonal_fisher(net(), [(X, Y)], labels="data")
    torch.testing.assert_close(method.fisher_0, wanted["0.weight"])
    torch.testing.assert_close(method.fisher_1, wanted["0.bias"])
    clipped = EWC(weight=1.0, fisher="empirical", samples=1000, clip=1e-3)
    train([clipped], steps=1)
    assert float(clipped.fisher_0.max()) == 1e-3
    drawn = EWC(weight=1.0, samples=1000)
    train([drawn], steps=1)
    exact = diagonal_fisher(net(), [X])["0.weight"]
    assert float((drawn.fisher_0 - exact).norm() / exact.norm()) < 0.6


def test_a_head_that_has_grown_is_held_where_it_was_there() -> None:
    small = {n: torch.ones_like(p) for n, p in net().named_parameters()}
    small["2.weight"], small["2.bias"] = small["2.weight"][:2], small["2.bias"][:2]
    method = EWC(weight=5.0, information=small, old_classes=2)
    start, model = net(), train([method], steps=10)
    moved = (model[2].weight - start[2].weight).detach().norm(dim=1)
    assert float(moved[2]) > 4 * float(moved[:2].max())


def test_what_does_not_fit_is_refused() -> None:
    for options, word in (
        ({"weight": -1.0}, "weight"), ({"fisher": "exact"}, "fisher"), ({"gamma": 2.0}, "gamma"),
        ({"reduction": "max"}, "reduction"), ({"samples": 0}, "samples"), ({"clip": -1.0}, "clip"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=word):
            EWC(**options)
    with pytest.raises(TetherError, match="no entry '0.weight'"):
        train([EWC(information={})])
    with pytest.raises(ValueError, match="likelihood"):
        diagonal_fisher(linear(), [X], likelihood="probit")
    with pytest.raises(ValueError, match="no labels"):
        diagonal_fisher(linear(), [X], labels="data")


# -- attention only --------------------------------------------------------------------------------


def test_l2_sp_may_hold_the_attention_of_a_transformer_only() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_vit", num_classes=3)
    method = L2SP(weight=0.1, include="attention")
    reg = attach(model, method, torch.optim.SGD(model.parameters(), lr=0.1))
    held = {id(pulled.param) for pulled in method._body}
    names = {n for n, p in model.named_parameters() if id(p) in held}
    assert names and all(".attn." in n and n.endswith("weight") for n in names)
    assert {n.split(".attn.")[1] for n in names} == {"qkv.weight", "proj.weight"}
    reg.detach()
    with pytest.raises(TetherError, match="no module of the model is called attention"):
        attach(net(), L2SP(include="attention"))


def test_the_word_true_on_a_command_line_is_an_estimator():
    name, options = parse_method("ewc:fisher=true")
    assert create_method(name, **options).fisher == "true"
