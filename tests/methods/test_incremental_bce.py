from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.reference import continual_twins as twins
from tether import IncrementalBCE, PredictionDistillation, TetherError, attach
from tether.methods.targets.incremental_bce import incremental_losses
from tether.methods.targets.prediction_distillation import (
    MODES,
    prediction_distillation_losses,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


LABELS = [4, 2, 3, 2, 4]


def test_the_losses_agree_with_their_twins() -> None:
    logits, labels, new = 3 * normal(5, 5), torch.tensor(LABELS), [2, 3, 4]
    found = incremental_losses(logits, labels, torch.tensor(new))
    wanted = twins.incremental_loss(logits.numpy(), LABELS, new)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9)
    masked = incremental_losses(logits, labels, torch.tensor(new), softmax=True)
    wanted = twins.masked_cross_entropy(logits.numpy(), LABELS, new)
    np.testing.assert_allclose(masked.numpy(), wanted, rtol=1e-9)
    soft = nn.functional.one_hot(labels, 5).double()
    torch.testing.assert_close(incremental_losses(logits, soft, torch.tensor(new)), found)


def test_the_gradient_is_that_of_a_sigmoid_and_leaves_old_columns_alone() -> None:
    logits = normal(5, 5).requires_grad_()
    incremental_losses(logits, torch.tensor(LABELS), torch.tensor([2, 3, 4])).sum().backward()
    hot = nn.functional.one_hot(torch.tensor(LABELS), 5)
    wanted = (logits.detach().sigmoid() - hot) * torch.tensor([0, 0, 1, 1, 1])
    torch.testing.assert_close(logits.grad, wanted)
    assert torch.autograd.gradcheck(
        lambda z: incremental_losses(z, torch.tensor([2, -100, 3, 2, 4]), torch.tensor([2, 3, 4])),
        [logits.detach().requires_grad_()],
    )


def test_rows_that_do_not_count_give_nothing() -> None:
    found = incremental_losses(normal(2, 3), torch.tensor([-100, 1]))
    assert float(found[0]) == 0.0 and float(found[1]) > 0.0


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("mode", MODES)
def test_the_distillation_agrees_with_its_twin(mode: str, temperature: float) -> None:
    logits, teacher = 2 * normal(6, 4), 2 * normal(6, 4, seed=1)
    found = prediction_distillation_losses(logits, teacher, mode=mode, temperature=temperature)
    wanted = twins.prediction_divergence(logits.numpy(), teacher.numpy(), mode, temperature)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)
    assert torch.autograd.gradcheck(
        lambda z: prediction_distillation_losses(z, teacher, mode=mode, temperature=temperature),
        [logits.clone().requires_grad_()],
    )


def test_the_distillation_pulls_by_the_difference_of_the_sigmoids() -> None:
    logits, teacher = normal(4, 3).requires_grad_(), normal(4, 3, seed=1)
    prediction_distillation_losses(logits, teacher).sum().backward()
    torch.testing.assert_close(logits.grad, logits.detach().sigmoid() - teacher.sigmoid())
    for mode in MODES:
        same = prediction_distillation_losses(teacher, teacher.clone(), mode=mode)
        assert not same.any()


def make(methods: list, outputs: int = 4):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, outputs))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    return net, optimizer, attach(net, methods, optimizer)


X, Y = normal(12, 3).float(), torch.arange(12) % 2 + 2


def test_without_distillation_old_rows_of_the_head_get_no_gradient() -> None:
    net, _, reg = make([IncrementalBCE(old_classes=2)])
    reg.loss(net(X), Y).backward()
    assert not net[2].weight.grad[:2].any() and net[2].weight.grad[2:].any()


def test_at_the_start_of_a_task_the_distillation_is_zero_and_new_rows_are_untouched() -> None:
    net, optimizer, reg = make([PredictionDistillation(weight=1.0, old_classes=[0, 1])])
    total = reg.loss(net(X), Y)
    assert float(reg.parts["prediction_distillation"]) == 0.0
    total.backward()
    optimizer.step()
    optimizer.zero_grad()
    plain = nn.functional.cross_entropy(net(X), Y)
    plain.backward()
    before = [p.grad.clone() for p in net.parameters()]
    optimizer.zero_grad()
    reg.loss(net(X), Y).backward()
    assert float(reg.parts["prediction_distillation"]) > 0.0
    moved = net[2].weight.grad - before[2]
    assert moved[:2].any()
    torch.testing.assert_close(moved[2:], torch.zeros_like(moved[2:]), atol=1e-7, rtol=0)


def test_the_first_task_has_nothing_to_keep() -> None:
    net, _, reg = make([PredictionDistillation(old_classes=[])])
    reg.loss(net(X), Y)
    assert float(reg.parts["prediction_distillation"]) == 0.0


@pytest.mark.parametrize("old_logits", ["negative", "mask"])
def test_what_else_old_outputs_may_be_told(old_logits: str) -> None:
    net, _, reg = make([IncrementalBCE(old_logits=old_logits, old_classes=2)])
    reg.loss(net(X), Y).backward()
    assert bool(net[2].weight.grad[:2].any()) == (old_logits == "negative")


def test_bad_options_are_refused() -> None:
    for kind, options, word in (
        (IncrementalBCE, {"old_logits": "bogus"}, "old_logits"),
        (IncrementalBCE, {"old_classes": [0, 0]}, "twice"),
        (PredictionDistillation, {"old_classes": "abc"}, "old_classes"),
        (PredictionDistillation, {"old_classes": [-1]}, "old_classes"),
        (PredictionDistillation, {"weight": -1.0}, "weight"),
        (PredictionDistillation, {"mode": "bogus"}, "mode"),
        (PredictionDistillation, {"temperature": 0.0}, "temperature"),
    ):
        with pytest.raises(ValueError, match=word):
            kind(**options)
    with pytest.raises(TetherError, match="class 7, the head has 4"):
        make([PredictionDistillation(old_classes=8)])
    with pytest.raises(TetherError, match="all 4 classes are old"):
        make([IncrementalBCE(old_classes=4)])
