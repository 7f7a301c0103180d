from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tests.reference import target_twins as twins
from tether import SelfLabelCorrection, attach
from tether.methods.targets.self_label_correction import correct_labels

N, K = 8, 3


class Table(nn.Module):
    """A network whose logits are written down, one row a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(N, K, bias=False)
        nn.init.zeros_(self.fc.weight)

    def say(self, sample: int, label: int, confidence: float) -> None:
        odds = math.log(confidence / ((1 - confidence) / (K - 1)))
        self.fc.weight.data[:, sample] = 0.0
        self.fc.weight.data[label, sample] = odds

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.fc(nn.functional.one_hot(rows, N).float())


Y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def start(**options: float):
    method = SelfLabelCorrection(**options)
    net = Table()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    reg = attach(net, method, optimizer, train_data=TensorDataset(torch.arange(N), Y))
    return net, reg, method


def loss_of(net: Table, reg, rows: list[int], given: torch.Tensor | None = None) -> torch.Tensor:
    index = torch.tensor(rows)
    return reg.loss(net(index), Y[index] if given is None else given, index=index)


def test_the_rule_agrees_with_its_twin() -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(4 * rng.normal(size=(200, 5)))
    labels, probs = torch.from_numpy(rng.integers(0, 5, 200)), logits.softmax(1)
    found = correct_labels(labels, probs, threshold=0.8)
    expected = [twins.correct(int(y), p.numpy(), 0.8) for y, p in zip(labels, probs, strict=True)]
    assert found.tolist() == expected
    assert 0 < int((found != labels).sum()) < 200


def test_the_threshold_must_be_exceeded() -> None:
    probs = torch.tensor([[0.1, 0.9], [0.05, 0.95]], dtype=torch.float64)
    labels = torch.tensor([0, 0])
    assert correct_labels(labels, probs, threshold=0.9).tolist() == [0, 1]
    certain = torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert correct_labels(labels, certain, threshold=1.0).tolist() == [0, 0]
    unlabelled = torch.tensor([-100, 0])
    assert correct_labels(unlabelled, certain, threshold=0.5).tolist() == [-100, 1]


def test_corrections_start_in_their_epoch_and_the_same_loss_uses_them() -> None:
    net, reg, method = start(threshold=0.9, start_epoch=3)
    net.say(0, 2, 0.97)
    for epoch in range(4):
        reg.start_epoch(epoch)
        loss = loss_of(net, reg, [0])
        label = 2 if epoch + 1 >= 3 else 0
        assert int(method.labels()[0]) == label
        torch.testing.assert_close(
            loss, nn.functional.cross_entropy(net(torch.tensor([0])), torch.tensor([label]))
        )
        reg.end_epoch()


def test_a_correction_is_permanent_until_the_next_one() -> None:
    net, reg, method = start(threshold=0.9, start_epoch=1)
    reg.start_epoch(0)
    net.say(3, 1, 0.95)
    loss_of(net, reg, [3])
    net.say(3, 2, 0.6)  # unsure again: the corrected label stays
    loss = loss_of(net, reg, [3])
    assert int(method.labels()[3]) == 1
    torch.testing.assert_close(
        loss, nn.functional.cross_entropy(net(torch.tensor([3])), torch.tensor([1]))
    )
    net.say(3, 2, 0.95)
    loss_of(net, reg, [3])
    assert int(method.labels()[3]) == 2
    assert int(method.given_labels[3]) == 0


def test_unseen_samples_stay_unseen_and_corrections_are_listed() -> None:
    net, reg, method = start(threshold=0.9, start_epoch=1)
    reg.start_epoch(0)
    net.say(1, 0, 0.99)
    net.say(5, 0, 0.99)
    loss_of(net, reg, [0, 1, 5])
    assert method.labels().tolist() == [0, 0, -1, -1, -1, 0, -1, -1]
    found = {key: values.tolist() for key, values in method.corrections().items()}
    assert found == {"index": [1, 5], "given": [1, 2], "corrected": [0, 0]}
    assert reg.measure()["self_label_correction"] == {
        "seen": 3,
        "corrected": 2,
        "corrected_from": [0, 1, 1],
        "corrected_to": [2, 0, 0],
    }


def test_duplicates_are_judged_by_their_mean_prediction() -> None:
    net, reg, method = start(threshold=0.9, start_epoch=1)
    reg.start_epoch(0)
    index = torch.tensor([2, 2])
    sure = torch.tensor([[6.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    reg.loss(net(index) * 0 + sure, Y[index], index=index)
    assert int(method.labels()[2]) == 2  # one is sure, their mean is not


def test_rows_without_a_label_are_neither_corrected_nor_stored() -> None:
    net, reg, method = start(threshold=0.5, start_epoch=1)
    reg.start_epoch(0)
    net.say(0, 2, 0.99)
    net.say(1, 2, 0.99)
    loss_of(net, reg, [0, 1], torch.tensor([-100, 1]))
    assert method.labels()[:2].tolist() == [-1, 2]


def test_soft_targets_become_one_hot_only_where_corrected() -> None:
    net, reg, _ = start(threshold=0.9, start_epoch=1)
    reg.start_epoch(0)
    net.say(0, 2, 0.97)
    soft = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    loss = loss_of(net, reg, [0, 1], soft)
    expected = torch.stack([torch.tensor([0.0, 0.0, 1.0]), soft[1]])
    torch.testing.assert_close(
        loss, nn.functional.cross_entropy(net(torch.tensor([0, 1])), expected)
    )


def test_neutral_options_leave_the_loss_bit_for_bit() -> None:
    for options in ({"start_epoch": math.inf}, {"threshold": 1.0, "start_epoch": 1}):
        net, reg, method = start(**options)
        reg.start_epoch(0)
        net.say(0, 2, 0.999)
        rows = list(range(N))
        plain = nn.functional.cross_entropy(net(torch.arange(N)), Y)
        assert torch.equal(loss_of(net, reg, rows), plain)
        assert torch.equal(method.labels(), Y)


def test_labels_survive_a_restart() -> None:
    net, reg, _ = start(threshold=0.9, start_epoch=1)
    reg.start_epoch(0)
    net.say(0, 2, 0.97)
    loss_of(net, reg, [0, 4])
    reg.end_epoch()
    _, again, method = start(threshold=0.9, start_epoch=1)
    again.load_state_dict(reg.state_dict())
    assert method.labels().tolist() == [2, -1, -1, -1, 1, -1, -1, -1]
    assert len(method.corrections()["index"]) == 1


def test_bad_options_are_refused() -> None:
    for options in ({"threshold": 1.5}, {"threshold": -0.1}, {"start_epoch": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            SelfLabelCorrection(**options)
