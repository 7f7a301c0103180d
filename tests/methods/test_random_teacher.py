from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.methods.noisy_digits import images
from tests.reference import teaching_twins as twins
from tether import RandomTeacher, attach
from tether.methods.targets.random_networks import (
    ProjectionHead,
    distillation_cross_entropy,
    interpolate_init_,
    neighborhood_init_,
    random_teacher,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def test_the_formulas_agree_with_their_twins() -> None:
    student, teacher = normal(6, 5), normal(6, 5, seed=1)
    for taus in ((1.0, 1.0), (0.5, 2.0)):
        found = distillation_cross_entropy(student, teacher, tau_s=taus[0], tau_t=taus[1])
        wanted = twins.distillation(student.numpy(), teacher.numpy(), *taus)
        assert float(found) == pytest.approx(wanted, abs=1e-9)
    head = ProjectionHead(7, 9, 11).double()
    nn.init.normal_(head.layers[0].bias)
    linear = [m for m in head.layers if isinstance(m, nn.Linear)]
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in linear]
    found = head(normal(4, 7)).detach()
    wanted = twins.projection(normal(4, 7).numpy(), layers, head.directions.detach().numpy())
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)
    assert bool((found.abs() <= 1.0).all())


def test_the_gradient_is_that_of_the_divergence() -> None:
    student = normal(3, 4).requires_grad_()
    teacher = normal(3, 4, seed=1)
    assert torch.autograd.gradcheck(lambda z: distillation_cross_entropy(z, teacher), [student])
    distillation_cross_entropy(student, teacher).backward()
    q = teacher.softmax(1)
    torch.testing.assert_close(student.grad, (student.detach().softmax(1) - q) / 3)


def net(norm: bool = False) -> nn.Sequential:
    layers = [nn.Linear(64, 96), *([nn.BatchNorm1d(96)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(96, 32), nn.ReLU(), nn.Linear(32, 10))


def test_teachers_come_from_their_seed_alone() -> None:
    model, other = net(), net()
    drawn = torch.get_rng_state()
    first, second = random_teacher(model, 5), random_teacher(other, 5)
    third = random_teacher(model, 6)
    assert not any(p.requires_grad for p in first.parameters()) and not first.training
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(first[0].weight, third[0].weight)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_batch_norms_of_a_teacher_know_no_data() -> None:
    model = net(norm=True)
    model(torch.randn(32, 64) * 3 + 1)
    teacher = random_teacher(model, 0)
    assert not teacher[1].running_mean.any() and bool((teacher[1].running_var == 1).all())


def test_starts_lie_where_they_should() -> None:
    teacher, other, student = (nn.Linear(400, 400) for _ in range(3))
    for module in (teacher, other):
        nn.init.normal_(module.weight)
    interpolate_init_(student, teacher, other, 0.0)
    assert torch.equal(student.weight, teacher.weight)
    interpolate_init_(student, teacher, other, 1.0)
    assert torch.equal(student.weight, other.weight)
    interpolate_init_(student, teacher, other, 0.3)
    assert float(student.weight.detach().std()) == pytest.approx(1.0, abs=0.01)
    interpolate_init_(student, teacher, other, 0.3, variance_preserving=False)
    torch.testing.assert_close(student.weight, 0.7 * teacher.weight + 0.3 * other.weight)
    neighborhood_init_(student, teacher, other, 0.1)
    torch.testing.assert_close(student.weight, teacher.weight + 0.1 * other.weight)
    neighborhood_init_(student, teacher, other, 0.5, variance_preserving=True)
    assert float(student.weight.detach().std()) == pytest.approx(1.0, abs=0.01)


# -- attached ------------------------------------------------------------------------------------


def train(method: RandomTeacher, model: nn.Module, steps: int) -> list[float]:
    """Divergence in every step, without labels."""
    x, _ = images()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    reg = attach(model, method, optimizer)
    draw, found = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        rows = torch.randint(1000, (100,), generator=draw)
        reg.loss(model(x[rows]), torch.full((100,), -100)).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(reg.measure()["random_teacher"]["divergence"])
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_divergence_falls_and_the_teacher_stays(seed: int) -> None:
    torch.manual_seed(seed)
    model = net(norm=True)
    method = RandomTeacher(
        alpha=1.0, output_dim=64, hidden_dim=64, tau_s=0.1, tau_t=0.1, teacher_seed=seed
    )
    teacher = random_teacher(model, seed)
    found = train(method, model, 80)
    assert np.mean(found[-10:]) < 0.5 * np.mean(found[:5])
    for kept, first in zip(
        method.teacher.state_dict().values(), teacher.state_dict().values(), strict=True
    ):
        assert torch.equal(kept, first)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    torch.manual_seed(0)
    model, method = net(), RandomTeacher(output_dim=64, hidden_dim=32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = attach(model, method, optimizer)
    for p, q in zip(model.parameters(), method.teacher.parameters(), strict=True):
        assert torch.equal(p, q)
    reg.loss(model(images()[0][:50]), torch.full((50,), -100)).backward()
    assert float(method.divergence) == pytest.approx(0.0, abs=1e-6)
    for parameter in [*model[:4].parameters(), *method.head.parameters()]:
        assert parameter.grad is not None and float(parameter.grad.abs().max()) < 1e-6


def test_bad_options_are_refused() -> None:
    bad = ({"weight": -1.0}, {"alpha": 1.5}, {"tau_s": 0.0}, {"tau_t": -1.0}, {"output_dim": 0},
           {"hidden_dim": 2.5})  # fmt: skip
    for options in bad:
        with pytest.raises(ValueError, match=next(iter(options))):
            RandomTeacher(**options)  # type: ignore[arg-type]
    model = net()
    before = copy.deepcopy(model)
    attach(model, RandomTeacher(alpha=1.0, output_dim=8, hidden_dim=8)).detach()
    assert torch.equal(model[0].weight, before[0].weight)
