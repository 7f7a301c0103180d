"""Task losses: per sample, mean, masks, units."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tether import TetherError
from tether.losses import TaskLoss

torch.manual_seed(0)
LOGITS = torch.randn(5, 3)
CASES = {
    "cross_entropy": (LOGITS, torch.tensor([0, 2, 1, 1, 0])),
    "binary_cross_entropy": (LOGITS, torch.randint(0, 2, (5, 3))),
    "mse": (LOGITS, torch.randn(5, 3)),
    "l1": (LOGITS[:, 0], torch.randn(5)),
    "token_cross_entropy": (torch.randn(5, 4, 3), torch.randint(0, 3, (5, 4))),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_mean_is_the_mean_of_the_samples(kind):
    loss = TaskLoss(kind)
    logits, targets = CASES[kind]
    targets = loss.check(logits, targets)
    per_sample = loss.per_sample(logits, targets)
    assert per_sample.shape == (5,)
    torch.testing.assert_close(per_sample.mean(), loss.mean(logits, targets))
    assert loss.row_mask(targets) is None


def test_probabilities_are_targets_too():
    loss = TaskLoss("cross_entropy")
    soft = torch.rand(5, 3).softmax(1)
    hard = F.one_hot(CASES["cross_entropy"][1], 3).float()
    assert torch.equal(loss.mean(LOGITS, soft), F.cross_entropy(LOGITS, soft))
    torch.testing.assert_close(
        loss.mean(LOGITS, loss.check(LOGITS, hard)), loss.mean(LOGITS, CASES["cross_entropy"][1])
    )
    assert loss.items(soft) == 5


def test_rows_that_do_not_count():
    loss = TaskLoss("cross_entropy")
    targets = torch.tensor([0, -100, 1, -100, 2])
    assert loss.row_mask(targets).tolist() == [True, False, True, False, True]
    assert loss.items(targets) == 3
    assert loss.row_items(targets).tolist() == [1, 0, 1, 0, 1]
    per_sample = loss.per_sample(LOGITS, targets)
    assert per_sample[1] == per_sample[3] == 0
    torch.testing.assert_close(per_sample.sum() / 3, loss.mean(LOGITS, targets))


def test_tokens_are_weighted_by_what_counts():
    loss = TaskLoss("token_cross_entropy")
    logits, targets = CASES["token_cross_entropy"]
    targets = targets.clone()
    targets[0, 1:] = -100
    targets[3] = -100
    assert loss.row_mask(targets).tolist() == [True, True, True, False, True]
    assert loss.items(targets) == 13
    counts = loss.row_items(targets)
    assert counts.tolist() == [1, 4, 4, 0, 4]
    torch.testing.assert_close(
        (loss.per_sample(logits, targets) * counts).sum() / 13, loss.mean(logits, targets)
    )


def test_regression_shapes_do_not_broadcast():
    loss = TaskLoss("mse")
    logits, targets = torch.zeros(4, 1), torch.arange(4.0)
    checked = loss.check(logits, targets)
    assert checked.shape == (4, 1)
    assert loss.mean(logits, checked) == F.mse_loss(logits[:, 0], targets)
    with pytest.raises(TetherError, match=r"targets of the logits' shape \(4, 2\)"):
        loss.check(torch.zeros(4, 2), targets)


def test_a_callable():
    loss = TaskLoss(lambda logits, targets: (logits - targets).abs().sum(1))
    assert loss.kind == "custom"
    assert loss.mean(torch.ones(4, 2), torch.zeros(4, 2)) == 2
    with pytest.raises(TetherError, match=r"must give \[N\] losses"):
        TaskLoss(lambda logits, targets: logits).mean(torch.ones(4, 2), torch.zeros(4, 2))


@pytest.mark.parametrize(
    ("kind", "logits", "targets", "message"),
    [
        ("cross_entropy", torch.zeros(2, 3, 4), torch.zeros(2).long(), r"takes logits \[N, K\]"),
        ("token_cross_entropy", torch.zeros(2, 3), torch.zeros(2).long(), r"logits \[N, T, K\]"),
        ("token_cross_entropy", torch.zeros(2, 3, 4), torch.full((2, 3), 4), "out of range"),
        ("token_cross_entropy", torch.zeros(2, 3, 4), torch.zeros(2, 3), "an integer type"),
        ("binary_cross_entropy", torch.zeros(2, 3), torch.zeros(2), "logits' shape"),
    ],
)
def test_bad_targets(kind, logits, targets, message):
    with pytest.raises(TetherError, match=message):
        TaskLoss(kind).check(logits, targets)
