"""Learning without forgetting: the divergence, both sources of the old answers, what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import TensorDataset

from tests.methods.transfer import Trained, fine_tune, knowing
from tests.reference import transfer_twins as twins
from tether import LearningWithoutForgetting, TetherError, attach
from tether.methods.matching import distillation_divergence

DOUBLE = torch.float64


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.randn(n, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 5), k=st.integers(2, 6), t=st.floats(0.5, 8.0), seed=st.integers(0, 99))
def test_divergence_agrees_with_the_twin(n, k, t, seed):
    z, u = rows(n, k, seed).requires_grad_(), rows(n, k, seed + 1)
    found = distillation_divergence(z, u, temperature=t)
    wanted = twins.divergence(z.detach().numpy(), u.numpy(), t)
    assert found.mean().item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    (grad,) = torch.autograd.grad(found.sum(), z)  # (p - q) / T: no factor of T squared
    torch.testing.assert_close(grad, ((z / t).softmax(1) - (u / t).softmax(1)).detach() / t)


def test_gradcheck_and_matching_of_logits_at_high_temperature():
    z, u = rows(4, 5).requires_grad_(), rows(4, 5, 1)
    assert torch.autograd.gradcheck(lambda x: distillation_divergence(x, u), [z])
    t = 1e4
    apart = z - u
    apart = apart - apart.mean(1, keepdim=True)
    limit = apart.square().sum(1) / (2 * 5)  # T² KL tends to it
    torch.testing.assert_close(
        t**2 * distillation_divergence(z, u, temperature=t), limit, rtol=1e-3, atol=1e-6
    )
    assert distillation_divergence(u, u).abs().max() < 1e-14


X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


def make(method, *, source_head: nn.Module | None = None, norm: bool = False, data=None, **given):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    head = nn.Linear(8, 5) if source_head is None else source_head
    data = TensorDataset(X, Y) if data is None else data
    return (
        net,
        optimizer,
        attach(net, method, optimizer, source_head=head, train_data=data, **given),
    )


@pytest.mark.parametrize("source", ["teacher", "recorded"])
def test_it_is_zero_at_first_and_then_what_the_formula_says(source):
    head = nn.Linear(8, 5)
    net, optimizer, reg = make(LearningWithoutForgetting(2.0, source=source), source_head=head)
    before = [p.clone() for p in head.parameters()]
    u = head(net[:-1](X)).detach()
    order = torch.tensor([3, 0, 11, 7])
    for step in range(3):
        loss = reg.loss(net(X[order]), Y[order], index=order)
        own = distillation_divergence(head(net[:-1](X[order])), u[order]).mean()
        torch.testing.assert_close(reg.parts["lwf"], 2.0 * own.detach(), rtol=1e-4, atol=1e-6)
        assert (float(own.detach()) > 1e-4) == (step > 0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert reg.measure()["lwf"]["divergence"] > 1e-4
    (module,) = (item["module"] for item in reg.state_dict()["auxiliaries"].values())
    for p, own, kept in zip(head.parameters(), module.values(), before, strict=True):
        assert torch.equal(p, kept) and torch.equal(own, kept)  # the old head stays


def test_rows_that_do_not_count_have_no_part():
    found = []
    for rows_, labels in ((slice(0, 3), Y[:3]), (slice(0, 4), torch.tensor([0, 1, 2, -100]))):
        net, _, reg = make(LearningWithoutForgetting(2.0))
        with torch.no_grad():
            net[0].weight.mul_(1.5)
        reg.loss(net(X[rows_]), labels)
        found.append(reg.parts["lwf"])
    torch.testing.assert_close(*found)


def test_the_record_follows_the_source():
    assert "inputs" in LearningWithoutForgetting().info.needs
    needs = LearningWithoutForgetting(source="recorded").info.needs
    assert "index" in needs and "reference" not in needs


def test_bad_options_and_a_head_of_another_model_are_refused():
    for options in ({"weight": -1.0}, {"temperature": 0.0}, {"source": "live"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            LearningWithoutForgetting(**options)
    with pytest.raises(TetherError, match="takes 9 features, the model's own head 8"):
        make(LearningWithoutForgetting(), source_head=nn.Linear(9, 5))
    with pytest.raises(TetherError, match="has no weight"):
        make(LearningWithoutForgetting(), source_head=nn.ReLU())
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    with pytest.raises(TetherError, match="train_data"):
        attach(net, LearningWithoutForgetting(source="recorded"), source_head=nn.Linear(8, 5))


def test_recorded_answers_survive_a_restart():
    method = LearningWithoutForgetting(source="recorded")
    net, _, reg = make(method)
    reg.loss(net(X[:4]), Y[:4], index=torch.arange(4))
    again = LearningWithoutForgetting(source="recorded")
    _, _, other = make(again)
    other.load_state_dict(reg.state_dict())
    assert torch.equal(again.recorded, method.recorded) and method.recorded.any()


def old_divergence(run: Trained) -> float:
    """How far the old head's answers on held-out data are from those at the start."""
    x, head = run.data.test_x, knowing()[4]
    with torch.no_grad():
        now, before = head(run.net[:-1](x)), head(run.start[:-1](x))
    return float(distillation_divergence(now, before, temperature=1.0).mean())


def test_old_answers_stay_near_the_start_on_digits():
    for seed in range(3):
        plain = fine_tune([], seed, epochs=10)
        for source in ("teacher", "recorded") if seed == 0 else ("teacher",):
            found = fine_tune([LearningWithoutForgetting(source=source)], seed, epochs=10)
            assert old_divergence(found) < 0.1 * old_divergence(plain)
            assert found.moved() < 0.5 * plain.moved()
            assert found.accuracy > plain.accuracy - 0.05
