from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tether import LayerwiseConstraint, TetherError, attach
from tether.methods.weights.radii import radii_from_distances, read_radii


class Stages(nn.Module):
    """A stem, three stages and a head, named as in a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        for i in (1, 2, 3):
            block = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
            self.add_module(f"layer{i}", nn.Sequential(block))
        self.fc = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn1(self.conv1(x))
        for i in (1, 2, 3):
            x = self.get_submodule(f"layer{i}")(x)
        return self.fc(x.mean((2, 3)))


def conv(i: int) -> str:
    return f"layer{i}.0.0.weight"


def train(net: nn.Module, method: LayerwiseConstraint | None, steps: int = 8) -> dict[str, float]:
    """Distances that the parameters travelled."""
    start = {k: v.detach().clone() for k, v in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    with attach(net, [] if method is None else [method], optimizer) as reg:
        generator = torch.Generator().manual_seed(1)
        for _ in range(steps):
            x = torch.randn(8, 1, 12, 12, generator=generator)
            y = torch.randint(0, 5, (8,), generator=generator)
            reg.loss(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {k: float((v.detach() - start[k]).norm()) for k, v in net.named_parameters()}


def radii_of(method: LayerwiseConstraint, net: nn.Module | None = None) -> dict[str, float]:
    net = net or Stages()
    with attach(net, method, torch.optim.SGD(net.parameters(), lr=0.1)) as reg:
        rows = reg.measure()["layerwise_constraint"]["tensors"]
    return {name: row["radius"] for name, row in rows.items()}


def test_radii_grow_with_depth_and_the_stem_is_free() -> None:
    radii = radii_of(LayerwiseConstraint(0.1, growth=3.0, head_radius=2.0))
    assert [radii[conv(i)] for i in (1, 2, 3)] == pytest.approx([0.1, 0.3, 0.9])
    assert radii["layer3.0.1.weight"] == pytest.approx(0.9)
    assert radii["fc.weight"] == 2.0
    assert not any(name.startswith(("conv1", "bn1")) or "bias" in name for name in radii)


def test_training_binds_each_stage_at_its_own_radius() -> None:
    net = Stages()
    moved = train(net, LayerwiseConstraint(0.05, growth=2.0, head_radius=1.0))
    assert [moved[conv(i)] for i in (1, 2, 3)] == pytest.approx([0.05, 0.1, 0.2], rel=1e-5)
    assert moved["conv1.weight"] > 0.2
    assert float(net.fc.weight.detach().norm()) <= 1.0 + 1e-6


def test_exponents_replace_the_place_of_the_group() -> None:
    radii = radii_of(LayerwiseConstraint(0.1, growth=3.0, exponents=(0, 0, 1)))
    assert [radii[conv(i)] for i in (1, 2, 3)] == pytest.approx([0.1, 0.1, 0.3])
    with pytest.raises(TetherError, match="2 exponents for 3 depth groups: layer1"):
        radii_of(LayerwiseConstraint(0.1, exponents=(0, 1)))


def test_given_radii_win_and_other_groups_follow_the_rule() -> None:
    radii = radii_of(LayerwiseConstraint(0.1, radii={"layer2": 0.7, "stem": 0.4, "head": 5}))
    assert [radii[conv(i)] for i in (1, 2, 3)] == pytest.approx([0.1, 0.7, 0.1])
    assert radii["conv1.weight"] == pytest.approx(0.4)
    assert radii["fc.weight"] == 5.0
    alone = radii_of(LayerwiseConstraint(radii={"layer2": 0.7}))
    assert set(alone) == {conv(2), "layer2.0.1.weight"}


@pytest.mark.parametrize("name", ["radii.json", "radii.yaml"])
def test_radii_come_from_a_file(tmp_path: Path, name: str) -> None:
    if name.endswith("yaml"):
        pytest.importorskip("yaml")
    path = tmp_path / name
    path.write_text(json.dumps({"radii": {"layer1": 0.2, "layer3": 1}}), encoding="utf-8")
    assert read_radii(path) == {"layer1": 0.2, "layer3": 1.0}
    assert radii_of(LayerwiseConstraint(radii=str(path)))[conv(3)] == 1.0


def test_a_file_without_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "radii.json"
    path.write_text(json.dumps({"layer1": "wide"}), encoding="utf-8")
    with pytest.raises(ValueError, match="the radius of 'layer1' must be a number"):
        read_radii(path)
    path.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(ValueError, match="expected a mapping"):
        read_radii(path)


def test_unknown_groups_raise_with_the_models_groups() -> None:
    with pytest.raises(TetherError, match="layer9.*stem, layer1, layer2, layer3, head"):
        radii_of(LayerwiseConstraint(radii={"layer9": 1.0}))


def test_groups_by_wildcard_replace_the_engines() -> None:
    groups = {"conv1.*": "early", "bn1.*": "early", "layer1.*": "early", "layer[23].*": "late"}
    method = LayerwiseConstraint(0.1, growth=4.0, groups=groups)
    radii = radii_of(method)
    assert radii["conv1.weight"] == radii[conv(1)] == pytest.approx(0.1)
    assert radii[conv(2)] == radii[conv(3)] == pytest.approx(0.4)


def test_ratio_leaves_the_head_absolute() -> None:
    net = Stages()
    size = float(net.layer2[0][0].weight.detach().norm())
    radii = radii_of(LayerwiseConstraint(0.1, growth=2.0, ratio=True, head_radius=3.0), net)
    assert radii[conv(2)] == pytest.approx(0.2 * size, rel=1e-6)
    assert radii["fc.weight"] == 3.0


def test_infinity_is_plain_training_and_zero_freezes() -> None:
    plain, bound, frozen = Stages(), Stages(), Stages()
    train(plain, None)
    train(bound, LayerwiseConstraint(math.inf))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, bound.state_dict()[name]), name
    moved = train(frozen, LayerwiseConstraint(0.0, growth=3.0))
    assert [moved[conv(i)] for i in (1, 2, 3)] == [0.0, 0.0, 0.0]
    assert moved["conv1.weight"] > 0


def test_running_statistics_are_never_written() -> None:
    net, plain = Stages(), Stages()
    train(net, LayerwiseConstraint(1e-3), steps=1)
    train(plain, None, steps=1)
    for i in (1, 2, 3):
        name = f"layer{i}.0.1.running_var"
        assert torch.equal(net.get_buffer(name), plain.get_buffer(name))


def test_radii_from_distances() -> None:
    assert radii_from_distances({"a": 2.0, "b": 5.0}, 0.3) == pytest.approx({"a": 0.6, "b": 1.5})
    with pytest.raises(ValueError, match="ratio"):
        radii_from_distances({"a": 1.0}, 0.0)
    with pytest.raises(ValueError, match="distance of 'a'"):
        radii_from_distances({"a": -1.0}, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a radius, radii or a head_radius"),
        ({"radius": 1.0, "growth": 0.0}, "growth"),
        ({"radius": -1.0}, "radius must be"),
        ({"radii": {"layer1": -1.0}}, "the radius of 'layer1'"),
        ({"radius": 1.0, "norm": "spectral"}, "norm 'spectral'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerwiseConstraint(**options)  # type: ignore[arg-type]
