from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from examples.unlearn_class import adapt, digits, fit, network, scores
from tests.reference import sparse_twins as twins
from tether import TetherError, WeightRepulsion, attach
from tether.functional import negative_direction, repulsion_penalty
from tether.methods.weights.anchors import FORMS, repulsion_slope


def random_weights(count: int = 3) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(6, generator=draw, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("form", FORMS)
def test_penalty_and_gradient_agree_with_their_twins(form: str) -> None:
    w, first, second = random_weights()
    w.requires_grad_()
    pair = [[first], [second]]
    value = repulsion_penalty([w], pair, form=form, scale=3.0)
    raw = [a.numpy() for a in (w.detach(), first, second)]
    found = float(value.detach())
    assert found == pytest.approx(twins.repulsion(raw[0], raw[1:], form, 3.0), rel=1e-9)
    with torch.no_grad():
        assert float(repulsion_penalty([w], pair[::-1], form=form, scale=3.0)) == found
    repulsion_penalty([w], [[first]], form=form).backward()
    wanted = twins.repulsion_gradient(raw[0], raw[1], form)
    np.testing.assert_allclose(w.grad.numpy(), wanted, atol=1e-9)
    u = torch.tensor([0.3, 1.0, 2.5], dtype=torch.float64, requires_grad=True)
    values = {"exp": torch.exp(-u), "inverse": 1 / u, "negative": -u}[form]
    (slope,) = torch.autograd.grad(values.sum(), u)
    torch.testing.assert_close(repulsion_slope(u.detach(), form=form), slope)


def test_a_cap_ends_the_push_and_exp_is_bounded() -> None:
    u = torch.tensor([0.5, 3.0])
    assert repulsion_slope(u, form="negative", cap=2.0).tolist() == [-1.0, 0.0]
    w, anchor, _ = random_weights()
    found = float(repulsion_penalty([w], [[anchor]], form="negative", cap=0.1))
    assert found == pytest.approx(-0.1)
    near = [float(repulsion_penalty([w * s], [[w * 0]], scale=9.0)) for s in (0.1, 1.0, 9.0)]
    assert 1.0 >= near[0] > near[1] > near[2] >= 0.0
    with pytest.raises(ValueError, match="form 'l2'"):
        repulsion_penalty([w], [[anchor]], form="l2")


def test_extrapolation_leads_away_from_the_mean() -> None:
    w, first, second = random_weights()
    (moved,) = negative_direction([w], [[first], [second]], 0.5)
    torch.testing.assert_close(moved, w + 0.5 * (w - (first + second) / 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "l2"}, "form 'l2'"),
        ({"normalize": "none at all"}, "normalize"),
        ({"weight": -1.0}, "weight must be >= 0"),
        ({"cap": 2.0}, "cap"),
        ({"anchors": []}, "anchors is empty"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightRepulsion(**{"anchors": "bad.safetensors", **options})  # type: ignore[arg-type]


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def attached(model: nn.Module, *methods: WeightRepulsion) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attach(model, methods, optimizer)
    return optimizer


def test_anchors_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TetherError, match=r"anchor '.*none\.safetensors' cannot be read"):
        attached(net(), WeightRepulsion(str(tmp_path / "none.safetensors")))
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(TetherError, match="cannot be read"):
        attached(net(), WeightRepulsion(str(tmp_path / "text.safetensors")))
    with pytest.raises(TetherError, match=r"begin with '0\.weigth'; did you mean '0\.weight'"):
        attached(net(), WeightRepulsion({"0.weigth": torch.zeros(5, 4)}))
    with pytest.raises(TetherError, match=r"'2\.weight' have another shape"):
        attached(net(), WeightRepulsion({"2.weight": torch.zeros(4, 5)}))
    with pytest.raises(TetherError, match="not finite"):
        attached(net(), WeightRepulsion({"2.bias": torch.full((3,), torch.nan)}))
    with pytest.raises(TetherError, match="stands where the anchors are"):
        attached(net(), WeightRepulsion(net().state_dict()))


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    """Updates whose own gradient is zero."""
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()


def test_a_step_of_the_negative_form_is_the_printed_one(tmp_path: Path) -> None:
    anchor = net(1).state_dict()
    path = tmp_path / "bad.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in anchor.items()}, path)
    for given in (anchor, str(path), [anchor, path]):
        model = net()
        start = copy.deepcopy(model.state_dict())
        method = WeightRepulsion(given, 0.3, "negative", "none")
        stepped(model, attached(model, method))
        for name, value in model.state_dict().items():
            away = start[name] + 2 * 0.1 * 0.3 * (start[name] - anchor[name])
            torch.testing.assert_close(value, away)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", ["initial", "mean", "none"])
def test_edited_gradients_are_those_of_the_penalty(form: str, normalize: str) -> None:
    anchors = [net(1).state_dict(), {**net(2).state_dict(), "2.bias": torch.ones(3)}]
    del anchors[0]["0.bias"]  # then it is left alone
    model = net()
    names = [name for name, _ in model.named_parameters() if name != "0.bias"]
    params = dict(model.named_parameters())
    pairs = [[a[name] for name in names] for a in anchors]
    first = [params[name].detach().clone() for name in names]
    scale = {"initial": float(-repulsion_penalty(first, pairs, form="negative")),
             "mean": float(sum(p.numel() for p in first)), "none": 1.0}[normalize]  # fmt: skip
    method = WeightRepulsion(anchors, 0.7, form, normalize)
    optimizer = attached(model, method)
    with torch.no_grad():
        model[0].weight.add_(0.3)
    wanted = torch.autograd.grad(
        0.7 * repulsion_penalty([params[n] for n in names], pairs, form=form, scale=scale),
        [params[n] for n in names],
    )
    stepped(model, optimizer)
    for name, gradient in zip(names, wanted, strict=True):
        torch.testing.assert_close(params[name].grad, gradient, rtol=1e-4, atol=1e-6)
    assert not params["0.bias"].grad.any()


def test_fused_optimisers_get_the_scaled_gradient() -> None:
    model, anchor = net(), net(1).state_dict()
    method = WeightRepulsion(anchor, form="negative", normalize="none")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, method, optimizer) as reg, torch.no_grad():
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        reg.seam.grad_scale = torch.tensor(8.0)
        method.edit_gradients()
        reg.seam.grad_scale = None
        wanted = -16.0 * (model[0].weight - anchor["0.weight"])
    torch.testing.assert_close(model[0].weight.grad, wanted)


def test_no_weight_is_a_plain_run_bit_for_bit() -> None:
    results = []
    for methods in ([], [WeightRepulsion(net(1).state_dict(), weight=0.0)]):
        model = net()
        stepped(model, attached(model, *methods), 3)
        results.append(model[0].weight.detach().clone())
    assert torch.equal(*results)


def test_a_class_is_unlearnt_and_the_rest_is_kept() -> None:
    rows = []
    for seed in range(3):
        data = digits(seed)
        original = network(seed)
        fit(original, data.train_x, data.train_y, 250, lr=0.05, seed=seed)
        bad = adapt(original, data, seed=seed)
        found = []
        for methods in ([], [WeightRepulsion(bad.state_dict(), weight=1.0)]):
            model = copy.deepcopy(original)
            numbers = fit(model, *data.without(7), 200, methods, lr=0.02, seed=seed)
            found.append((*scores(model, data, 7), numbers))
        rows.append(found)
    for plain, away in rows:
        assert away[0] < 0.2 and plain[0] > 0.5, rows  # recall on the class
        assert away[1] > plain[1] - 0.02, rows  # accuracy on the rest
        assert away[2]["weight_repulsion"]["u"] > 2.0
