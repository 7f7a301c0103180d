"""Freezing: what is told stands still, bit for bit, also under train(), compile and DDP."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from tether.errors import ConfigError
from tether.models import freeze, parameter_groups


def network() -> nn.Module:
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("resnet10t", num_classes=3)


def train(called: nn.Module, model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        called.train()  # as a trainer does before each step
        optimizer.zero_grad()
        called(torch.randn(4, 3, 32, 32, generator=generator)).square().mean().backward()
        optimizer.step()


def moved(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


@pytest.mark.parametrize("compiled", [False, True])
def test_a_linear_probe_moves_the_head_alone(compiled: bool) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    report = freeze(model, "fc", "backbone")
    torch._dynamo.reset()
    counter = CompileCounter()
    train(torch.compile(model, backend=counter) if compiled else model, model)
    assert moved(model, before) == {"fc.weight", "fc.bias"} == set(report.trainable)
    assert counter.frame_count == int(compiled)  # one graph, whatever train() did in between


def test_statistics_follow_the_policy() -> None:
    for norm in ("auto", "all", "none"):
        model = network()
        before = copy.deepcopy(model.state_dict())
        report = freeze(model, "fc", "bn1, layer1", norm)
        train(model, model)
        changed = moved(model, before)
        assert not changed & set(report.frozen)
        running = {k for k in before if k.endswith(("running_mean", "running_var"))}
        early = {k for k in running if k.startswith(("bn1.", "layer1."))}
        expected = {"auto": running - early, "all": set(), "none": running}[norm]
        assert changed & running == expected
        assert any(k.startswith("layer4.0.conv1") for k in changed)


def test_a_copy_holds_its_own_layers_still() -> None:
    model = network()
    freeze(model, "fc", "backbone")
    twin = copy.deepcopy(model)
    before = copy.deepcopy(twin.state_dict())
    train(twin, twin, steps=1)
    assert moved(twin, before) == {"fc.weight", "fc.bias"}


def test_new_layers_below_the_head_stay_trainable() -> None:
    model = network()
    report = freeze(model, "fc", "backbone", new=["layer4.0.bn1.weight", "layer4.0.bn1.bias"])
    assert "layer4.0.bn1.weight" in report.trainable and "layer4.0.bn1" not in report.still


def test_patterns_that_fit_nothing() -> None:
    with pytest.raises(ConfigError, match=r"'layr1' fits no parameter.*did you mean layer1"):
        freeze(network(), "fc", "layr1")
    with pytest.raises(ConfigError, match="its parts are conv1, bn1"):
        freeze(network(), "fc", "zzzzzz")
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        freeze(network(), "fc", "*")


def test_under_ddp(tmp_path: object) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0,
                                         world_size=1)  # fmt: skip
    try:
        model = network()
        before = copy.deepcopy(model.state_dict())
        freeze(model, "fc", "backbone")
        train(nn.parallel.DistributedDataParallel(model), model)
        assert moved(model, before) == {"fc.weight", "fc.bias"}
    finally:
        torch.distributed.destroy_process_group()


# -- groups ----------------------------------------------------------------------------------------


def test_groups_follow_depth_and_role() -> None:
    model = network()
    groups = parameter_groups(
        model, "fc", lr=1.0, head_lr_mult=10.0, weight_decay=0.1, layer_decay=0.5
    )
    rates = {group["name"].removesuffix("/no_decay"): group["lr"] for group in groups}
    assert rates == {"stem": 0.0625, "layer1": 0.125, "layer2": 0.25, "layer3": 0.5, "layer4": 1.0,
                     "head": 10.0}  # fmt: skip
    names = {id(p): n for n, p in model.named_parameters()}
    seen = [id(p) for group in groups for p in group["params"]]
    assert sorted(seen) == sorted(names)
    for group in groups:
        assert group["weight_decay"] == (0.0 if group["name"].endswith("/no_decay") else 0.1)
        for parameter in group["params"]:
            assert group["name"].endswith("/no_decay") == (parameter.ndim < 2)
    torch.optim.AdamW(groups, lr=1.0)


def test_groups_leave_frozen_parameters_out() -> None:
    model = network()
    freeze(model, "fc", "backbone")
    groups = parameter_groups(model, "fc", lr=0.1, weight_decay=0.1)
    assert [group["name"] for group in groups] == ["head", "head/no_decay"]


def test_positions_of_a_transformer_are_not_decayed() -> None:
    import timm

    model = timm.create_model("test_vit", num_classes=3)
    spared = {id(p) for g in parameter_groups(model, "head", lr=0.1, weight_decay=0.1)
              if g["weight_decay"] == 0 for p in g["params"]}  # fmt: skip
    assert id(model.pos_embed) in spared and id(model.cls_token) in spared
