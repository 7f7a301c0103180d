from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from tests.reference import teaching_twins as twins
from tether import CoTeaching, Method, NestedDropout, TetherError, attach, prepare
from tether.methods.second_network import rows_of_call
from tether.methods.targets.small_loss import forget_rate_in_epoch, small_loss_selection


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("rows", [1, 2, 10, 37])
def test_the_selection_agrees_with_its_twin(rate: float, rows: int) -> None:
    losses = normal(rows).abs().round(decimals=1)  # with ties
    keep = small_loss_selection(losses, rate)
    assert keep.nonzero().flatten().tolist() == sorted(twins.kept(losses.numpy(), rate))
    hidden = torch.cat([losses, torch.zeros(5)])
    mask = torch.arange(rows + 5) < rows
    assert torch.equal(small_loss_selection(hidden, rate, mask), torch.cat([keep, mask[rows:]]))


def test_of_ten_with_three_forgotten_seven_are_kept() -> None:
    assert int(small_loss_selection(normal(10), 0.3).sum()) == 7
    assert not small_loss_selection(normal(4), 0.3, torch.zeros(4, dtype=torch.bool)).any()


def test_the_forget_rate_rises_and_stays() -> None:
    assert [forget_rate_in_epoch(e, 0.4, 4) for e in range(6)] == pytest.approx(
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.4]
    )
    assert forget_rate_in_epoch(0, 0.4, 0) == 0.4


def test_rows_of_a_call_are_cut_wherever_they_are() -> None:
    args, kwargs = rows_of_call(
        (torch.arange(6), [torch.zeros(6, 2), torch.ones(3)]),
        {"mask": {"x": torch.arange(6)}, "scale": 2, "none": None},
        slice(4, 6),
        6,
    )
    assert args[0].tolist() == [4, 5] and [len(part) for part in args[1]] == [2, 3]
    assert kwargs["mask"]["x"].tolist() == [4, 5] and kwargs["scale"] == 2


# -- attached ------------------------------------------------------------------------------------

X, Y = normal(10, 4), torch.arange(10) % 3


def make(method: Method, norm: bool = False, **attached: object):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.ReLU(), nn.Linear(8, 3)]
    net = nn.Sequential(*layers).double()
    prepare(net, method)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    reg = attach(net, method, optimizer, epochs=4, train_data=TensorDataset(X, Y), **attached)
    return net, optimizer, reg


def step(net, optimizer, reg, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    reg.loss(net(X[rows]), Y[rows]).backward()
    optimizer.step()
    optimizer.zero_grad()
    return reg.parts


def losses_of(net: nn.Module, rows: slice = slice(None), mode: bool = True) -> np.ndarray:
    net = copy.deepcopy(net).train(mode)
    with torch.no_grad():
        return twins.cross_entropies(net(X[rows]).numpy(), Y[rows].tolist())


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_a_shared_batch_agrees_with_its_twin(rate: float) -> None:
    method = CoTeaching(forget_rate=rate, second="all")
    net, optimizer, reg = make(method, norm=True)
    reg.start_epoch()
    for _ in range(3):
        wanted = twins.co_teaching_losses(losses_of(net), losses_of(method.second_network), rate)
        parts = step(net, optimizer, reg)
        assert float(parts["task"]) == pytest.approx(wanted[0], abs=1e-6)
        assert float(parts["co_teaching"]) == pytest.approx(wanted[1], abs=1e-6)


def test_halves_are_exchanged() -> None:
    method = CoTeaching(forget_rate=0.4, shared_batch=False, second="all")
    net, optimizer, reg = make(method, norm=True)
    reg.start_epoch()
    first, rest = slice(0, 5), slice(5, 10)
    for _ in range(3):
        of_first = twins.kept(losses_of(net, first, mode=False), 0.4)
        of_rest = twins.kept(losses_of(method.second_network, rest, mode=False), 0.4)
        mine = np.mean(losses_of(net)[5:][of_rest])  # its own forward saw the whole batch
        theirs = np.mean(losses_of(method.second_network, first)[of_first])
        parts = step(net, optimizer, reg)
        assert float(parts["task"]) == pytest.approx(mine, abs=1e-6)
        assert float(parts["co_teaching"]) == pytest.approx(theirs, abs=1e-6)


def test_what_a_network_keeps_of_its_half_never_trains_it() -> None:
    method = CoTeaching(forget_rate=0.2, shared_batch=False)
    net, _, reg = make(method)
    reg.start_epoch()
    logits = net(X)
    logits.retain_grad()
    reg.loss(logits, Y).backward()
    assert logits.grad is not None
    assert not logits.grad[:5].any() and int(logits.grad[5:].any(1).sum()) == 4


@pytest.mark.parametrize("shared", [True, False])
def test_small_batches_and_hidden_rows(shared: bool) -> None:
    method = CoTeaching(forget_rate=0.5, shared_batch=shared)
    net, optimizer, reg = make(method)
    reg.start_epoch()
    for rows in (slice(0, 1), slice(0, 3)):
        assert all(bool(part.isfinite()) for part in step(net, optimizer, reg, rows).values())
    hidden = Y.clone()
    hidden[[1, 6, 8]] = -100
    logits = net(X)
    logits.retain_grad()
    reg.loss(logits, hidden).backward()
    assert logits.grad is not None and not logits.grad[[1, 6, 8]].any()
    assert int(logits.grad.any(1).sum()) == (3 if shared else 1)


def test_the_second_network_begins_as_told_and_is_trained() -> None:
    for second, same in (("head", [True, False]), ("all", [False, False]), ("copy", [True, True])):
        method = CoTeaching(second=second)
        net, optimizer, reg = make(method)
        twin = method.second_network
        found = [torch.equal(net[at].weight, twin[at].weight) for at in (0, 2)]
        assert found == same
        before = copy.deepcopy(twin)
        reg.start_epoch()
        step(net, optimizer, reg)
        for p, q in zip(twin.parameters(), before.parameters(), strict=True):
            assert not torch.equal(p, q)
    assert 0.0 <= reg.measure()["co_teaching"]["disagreement"] <= 1.0


def test_a_second_network_shares_the_truncation() -> None:
    nested, pair = NestedDropout(sigma=2.0), CoTeaching(forget_rate=0.0, second="all")
    torch.manual_seed(0)
    net = prepare(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), [nested, pair])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x, data = X.float(), TensorDataset(X.float(), Y)
    reg = attach(net, [nested, pair], optimizer, valid_data=data, epochs=1)
    reg.start_epoch()
    for _ in range(4):
        h, head = pair.second_network[:2](x), pair.second_network[2]
        h = h * (torch.arange(8) < nested.drawn)
        wanted = F.cross_entropy(F.linear(h, head.weight, head.bias), Y)
        reg.loss(net(x), Y).backward()
        torch.testing.assert_close(reg.parts["co_teaching"], wanted.detach())
        optimizer.step()


def test_bad_options_and_recipes_are_refused() -> None:
    for options in ({"forget_rate": 1.0}, {"ramp_epochs": -1}, {"second": "tail"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            CoTeaching(**options)  # type: ignore[arg-type]
    net = nn.Linear(4, 3)
    with pytest.raises(TetherError, match="cannot be combined"):
        attach(net, [CoTeaching(), CoTeaching()], epochs=1)
