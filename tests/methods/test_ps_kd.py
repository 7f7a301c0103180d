from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from tests.methods.noisy_digits import images
from tests.reference import teaching_twins as twins
from tether import Method, ProgressiveSelfDistillation, TetherError, attach
from tether.measure import expected_calibration_error
from tether.methods.targets.ps_kd import alpha_in_epoch, blend_targets

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randint(0, 3, (12,), generator=torch.Generator().manual_seed(1))


def make(*methods: Method, **attached: object):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    attached = {"train_data": TensorDataset(X, Y), "epochs": 4} | attached
    return net, optimizer, attach(net, list(methods), optimizer, **attached)


def epoch_of(net, optimizer, reg, order: list[list[int]]) -> list[tuple[torch.Tensor, float]]:
    """(logits, loss) of every step."""
    found = []
    reg.start_epoch()
    for rows in order:
        index = torch.tensor(rows)
        optimizer.zero_grad()
        logits = net(X[index])
        loss = reg.loss(logits, Y[index], index=index)
        loss.backward()
        optimizer.step()
        found.append((logits.detach(), float(loss.detach())))
    reg.end_epoch()
    return found


#: Samples of the steps of four epochs; 6 and 8 are first seen later.
ORDER = [
    [[0, 5, 2, 9], [3, 1, 7, 4]],
    [[9, 3, 10, 0], [6, 8]],
    [[1, 2, 3, 4], [10, 0]],
    [[11, 4, 0], [8, 5]],
]


@pytest.mark.parametrize("horizon", [{"epochs": 4}, {"epochs": None, "total_steps": 8}])
def test_a_course_of_four_epochs_agrees_with_its_twin(horizon: dict[str, object]) -> None:
    net, optimizer, reg = make(ProgressiveSelfDistillation(alpha_max=0.7), **horizon)
    course, losses = [], []
    for batches in ORDER:
        found = epoch_of(net, optimizer, reg, batches)
        course.append([(rows, z.numpy()) for rows, (z, _) in zip(batches, found, strict=True)])
        losses.append([loss for _, loss in found])
    targets = twins.ps_kd_targets(course, Y.tolist(), 3, 0.7)
    for steps, own, wanted in zip(course, losses, targets, strict=True):
        for (_, logits), loss, target in zip(steps, own, wanted, strict=True):
            np.testing.assert_allclose(target.sum(1), 1.0)
            assert loss == pytest.approx(twins.soft_cross_entropy(logits, target), abs=1e-6)


def test_alpha_ends_at_its_maximum_and_the_first_epoch_is_plain() -> None:
    assert [alpha_in_epoch(e, e / 5, 0.8) for e in range(5)] == pytest.approx(
        [0.0, 0.32, 0.48, 0.64, 0.8]
    )
    net, optimizer, reg = make(ProgressiveSelfDistillation())
    for epoch, batches in enumerate(ORDER):
        found = epoch_of(net, optimizer, reg, batches)
        plain = [float(F.cross_entropy(z, Y[b])) for b, (z, _) in zip(batches, found, strict=True)]
        losses = [loss for _, loss in found]
        assert (losses == pytest.approx(plain, abs=1e-9)) == (epoch == 0)
    assert reg.measure()["ps_kd"]["alpha"] == pytest.approx(0.8)


def test_the_gradient_is_the_difference_of_prediction_and_target() -> None:
    torch.manual_seed(1)
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    past = torch.randn(5, 4, dtype=torch.float64).softmax(1)
    targets = blend_targets(F.one_hot(torch.tensor([0, 1, 2, 3, 0]), 4).double(), past, 0.3)
    assert bool((targets >= 0).all())
    F.cross_entropy(logits, targets, reduction="sum").backward()
    torch.testing.assert_close(logits.grad, logits.detach().softmax(1) - targets)
    assert float(logits.grad.sum(1).abs().max()) < 1e-12


def test_rows_are_predictions_of_the_last_visit() -> None:
    method = ProgressiveSelfDistillation()
    net, optimizer, reg = make(method)
    (logits, _), *_ = epoch_of(net, optimizer, reg, [[4, 2]])
    torch.testing.assert_close(method.past[[4, 2]].double(), logits.softmax(1), rtol=0, atol=1e-7)
    assert not method.past[[0, 1, 3, 5]].any()
    (logits, loss), *_ = epoch_of(net, optimizer, reg, [[0, 1]])  # never seen: their labels
    assert method.alpha == pytest.approx(0.4)
    assert loss == pytest.approx(float(F.cross_entropy(logits, Y[:2])))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_tables_give_targets_that_sum_to_one(dtype: str) -> None:
    wide, narrow = ProgressiveSelfDistillation(), ProgressiveSelfDistillation(store_dtype=dtype)
    losses = []
    for method in (wide, narrow):
        net, optimizer, reg = make(method)
        losses.append([epoch_of(net, optimizer, reg, [[0, 1, 2]])[0][1] for _ in range(4)])
    assert narrow.past.dtype is getattr(torch, dtype)
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and losses[0] != losses[1]


def test_a_snapshot_predicts_with_the_weights_of_the_epoch_before() -> None:
    snapshot = ProgressiveSelfDistillation(source="snapshot")
    net, optimizer, reg = make(snapshot, train_data=None)  # rows are not needed
    rows = [[0, 1, 2, 3], [4, 5, 6, 7]]
    for epoch in range(4):
        before = [p.detach().clone() for p in net.parameters()]
        found = epoch_of(net, optimizer, reg, rows)
        if epoch == 0:
            continue
        after = [p.detach().clone() for p in net.parameters()]
        with torch.no_grad():
            for p, old in zip(net.parameters(), before, strict=True):
                p.copy_(old)
            past = net(X[4:8]).softmax(1)
            for p, new in zip(net.parameters(), after, strict=True):
                p.copy_(new)
        target = blend_targets(F.one_hot(Y[4:8], 3).double(), past, 0.8 * (epoch + 1) / 4)
        assert found[1][1] == pytest.approx(float(F.cross_entropy(found[1][0], target)), abs=1e-6)


def test_bad_options_and_what_is_missing_are_told() -> None:
    for options in ({"alpha_max": 1.5}, {"source": "teacher"}, {"store_dtype": "int8"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            ProgressiveSelfDistillation(**options)  # type: ignore[arg-type]
    with pytest.raises(TetherError, match="ps_kd.*length of training"):
        make(ProgressiveSelfDistillation(), epochs=None)


def digits(seed: int, *methods: Method) -> tuple[float, float]:
    """Negative log-likelihood and calibration error after 100 images and 100 epochs."""
    x, y = images()
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    data = TensorDataset(x[:100], y[:100])
    reg = attach(net, list(methods), optimizer, train_data=data, epochs=100)
    for epoch in range(100):
        reg.start_epoch(epoch)
        for rows in torch.randperm(100, generator=draw).split(50):
            optimizer.zero_grad()
            noisy = x[rows] + 0.1 * torch.randn(len(rows), 64, generator=draw)
            reg.loss(net(noisy), y[rows], index=rows).backward()
            optimizer.step()
        reg.end_epoch()
    with torch.no_grad():
        logits = net(x[500:])
    confidence, told = logits.softmax(1).max(1)
    error = expected_calibration_error(confidence.numpy(), (told == y[500:]).numpy())
    return float(F.cross_entropy(logits, y[500:])), float(error)


def test_digits_are_predicted_with_better_calibration() -> None:
    plain = np.array([digits(seed) for seed in range(3)])
    found = np.array([digits(seed, ProgressiveSelfDistillation()) for seed in range(3)])
    assert (found[:, 0] < plain[:, 0] - 0.02).all()
    assert found[:, 1].mean() < 0.65 * plain[:, 1].mean()
