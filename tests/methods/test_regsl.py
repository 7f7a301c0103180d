from __future__ import annotations

import math

import pytest
import torch

from tests.methods.noisy_digits import Digits, pretrained_net, train, turned
from tether import (
    ConfidenceReweighting,
    LayerwiseConstraint,
    Method,
    RegSL,
    SelfLabelCorrection,
)


def test_the_bundle_hands_its_options_to_the_parts() -> None:
    bundle = RegSL(
        radius=0.5,
        growth=2.0,
        head_radius=7.0,
        norm="mars",
        temperature=1.5,
        reweighting_start_epoch=3,
        decay=0.2,
        floor=0.4,
        threshold=0.8,
        correction_start_epoch=6,
    )
    constraint, correction, reweighting = bundle.expand()
    assert isinstance(constraint, LayerwiseConstraint)
    assert isinstance(correction, SelfLabelCorrection)
    assert isinstance(reweighting, ConfidenceReweighting)
    assert (constraint.radius, constraint.growth, constraint.head_radius) == (0.5, 2.0, 7.0)
    assert constraint.norm == "mars"
    assert (correction.threshold, correction.start_epoch) == (0.8, 6)
    assert reweighting.options() == {
        "temperature": 1.5,
        "start_epoch": 3,
        "decay": 0.2,
        "floor": 0.4,
    }


def test_without_radii_only_the_parts_on_labels_act() -> None:
    assert [part.info.name for part in RegSL().expand()] == [
        "self_label_correction",
        "confidence_reweighting",
    ]


def test_options_of_the_parts_are_checked() -> None:
    for options in ({"threshold": 2.0}, {"temperature": -1.0}, {"radius": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            RegSL(**options)  # type: ignore[arg-type]


def run(seed: int, *methods: Method) -> tuple[Digits, torch.nn.Module]:
    data, net = turned(0.36, seed), pretrained_net(seed)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3, amsgrad=True)
    train(net, data, methods, optimizer, epochs=80, batch_size=32, seed=seed)
    return data, net


def test_a_bundle_that_never_starts_is_plain_training_bit_for_bit() -> None:
    data = turned(0.36, 0)
    nets = []
    idle = RegSL(reweighting_start_epoch=math.inf, correction_start_epoch=math.inf)
    for methods in ([], [idle]):
        net = pretrained_net(0)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
        train(net, data, methods, optimizer, epochs=2, batch_size=32, seed=0)
        nets.append(net)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_constraint_stops_the_memorising_of_wrong_labels(seed: int) -> None:
    data, plain = run(seed)
    _, bound = run(seed, LayerwiseConstraint(2.0, growth=2.0, head_radius=2.0))
    assert data.memorised(plain) > 0.9
    assert data.memorised(bound) < 0.25
    assert data.accuracy(bound) > data.accuracy(plain) + 0.05


@pytest.mark.parametrize("seed", [0, 1])
def test_correction_needs_reweighting_to_have_something_to_correct(seed: int) -> None:
    def precision_and_recall(*methods: Method) -> tuple[float, float, float]:
        correction = SelfLabelCorrection()
        data, net = run(seed, correction, *methods)
        labels = correction.labels()
        right, changed = labels == data.true, labels != data.given
        precision, recall = right[changed].float().mean(), right[data.wrong].float().mean()
        return float(precision), float(recall), data.accuracy(net)

    alone, both = precision_and_recall(), precision_and_recall(ConfidenceReweighting())
    assert alone[1] < 0.3
    assert both[1] > 0.65 and both[0] > 0.8
    assert both[2] > alone[2] + 0.08


@pytest.mark.parametrize("seed", [0, 1])
def test_the_whole_bundle_mends_labels_within_its_radii(seed: int) -> None:
    start = pretrained_net(seed)
    data, net = run(seed, RegSL(radius=3.0, growth=1.5, head_radius=4.0))
    for layer, radius in ((0, 3.0), (2, 4.5)):
        moved = (net[layer].weight - start[layer].weight).detach()  # type: ignore[index]
        assert float(moved.norm()) <= radius * (1 + 1e-5)
    assert data.memorised(net) < 0.2
    assert data.accuracy(net) > 0.8
