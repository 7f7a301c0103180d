from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.methods.noisy_digits import images
from tests.reference import layer_input_twins as twins
from tether import Mixup, RandomStartFGSM, TetherError, attach
from tether.measure import robust_accuracy
from tether.measure.perturbations import Attack
from tether.methods.inputs.fgsm_rs import random_start

X = torch.rand(10, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10) % 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))


def attacked(method: RandomStartFGSM, net: nn.Module, x: torch.Tensor = X) -> torch.Tensor:
    """What the loop gets."""
    reg = attach(net, method)
    (found, _), *_ = list(reg.batches(DataLoader(TensorDataset(x, Y), 10)))
    reg.detach()
    return found


@pytest.mark.parametrize("init", ["rs", "noise"])
@pytest.mark.parametrize("bounds", [None, [0.0, 1.0]])
def test_one_step_agrees_with_its_twin(init: str, bounds: list[float] | None) -> None:
    net, method = network(), RandomStartFGSM(epsilon=0.2, init=init, bounds=bounds)
    found = attacked(method, net)
    method.ctx._handle.phase = "inputs"
    method.ctx._seeded_for = (-1, "")  # the generator begins anew
    eta = random_start(X, 0.2, init, method.ctx.generator).numpy()

    def gradient(x: np.ndarray) -> np.ndarray:
        leaf = torch.from_numpy(x).float().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(net(leaf), Y), leaf)
        return grad.numpy()

    wanted = twins.fgsm_rs(X.numpy(), eta, gradient, 0.2, init, bounds)
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)
    reach = 0.2 if init == "rs" else 0.6
    assert float((found - X).abs().max()) <= reach + 1e-6
    if bounds:
        assert float(found.min()) >= 0.0 and float(found.max()) <= 1.0


def test_the_start_is_uniform_over_the_ball_or_twice_as_wide() -> None:
    like, draw = torch.zeros(20_000), torch.Generator().manual_seed(0)
    for init, reach in (("rs", 0.3), ("noise", 0.6)):
        eta = random_start(like, 0.3, init, draw)
        assert float(eta.abs().max()) <= reach
        assert float(eta.std()) == pytest.approx(reach / 3**0.5, rel=0.02)


def test_units_are_those_of_pixels() -> None:
    net, x = network(), (X - 0.4) / 0.25
    found = attacked(RandomStartFGSM(0.1, mean=0.4, std=0.25, bounds=[0, 1]), net, x)
    pixels = found * 0.25 + 0.4
    assert float((pixels - X).abs().max()) <= 0.1 + 1e-6
    assert float(pixels.min()) >= -1e-6 and float(pixels.max()) <= 1 + 1e-6


def test_the_loss_is_raised_and_parameters_get_no_gradient_from_the_attack() -> None:
    net = network()
    found = attacked(RandomStartFGSM(0.3), net)
    assert all(p.grad is None for p in net.parameters())
    assert not found.requires_grad
    with torch.no_grad():
        before, after = (F.cross_entropy(net(x), Y) for x in (X, found))
    assert float(after) > float(before) + 0.05


def test_batch_norm_statistics_move_once_a_step_and_evaluation_is_left_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    reg = attach(net, RandomStartFGSM(0.3))
    for x, y in reg.batches(DataLoader(TensorDataset(X, Y), 10)):
        assert int(net[1].num_batches_tracked) == 0
        reg.loss(net(x), y)
    assert int(net[1].num_batches_tracked) == 1
    net.eval()
    for x, _ in reg.batches(DataLoader(TensorDataset(X, Y), 10)):
        assert torch.equal(x, X)


def test_a_schedule_that_begins_at_zero_and_mixed_targets() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    method = RandomStartFGSM("linear(0, 0.4)")
    reg = attach(net, [method, Mixup(alpha=1.0)], optimizer, total_steps=3)
    assert list(reg.methods) == ["mixup", "fgsm_rs"]
    starts = []
    for _ in range(3):
        for x, y in reg.batches(DataLoader(TensorDataset(X, Y), 10)):
            starts.append(method.start_logits is not None)
            reg.loss(net(x), y).backward()
            optimizer.step()
    assert starts == [False, True, True]


def test_what_does_not_fit_is_refused() -> None:
    for options in (
        {"epsilon": -1.0}, {"step_size": 0.0}, {"init": "zero"}, {"std": -1.0}, {"bounds": [1, 0]},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            RandomStartFGSM(**options)
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3))
    reg = attach(words, RandomStartFGSM())
    data = TensorDataset(torch.ones(10, 2).long(), Y)
    with pytest.raises(TetherError, match="token ids cannot be moved"):
        list(reg.batches(DataLoader(data, 10)))

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.detach())

    reg = attach(Cut(), RandomStartFGSM())
    with pytest.raises(TetherError, match="no gradient reaches the inputs"):
        list(reg.batches(DataLoader(TensorDataset(X, Y), 10)))
    with pytest.raises(TetherError, match="stands in the recipe twice"):
        attach(network(), [RandomStartFGSM(), RandomStartFGSM()])
    net = network()
    reg = attach(net, RandomStartFGSM())
    with pytest.raises(TetherError, match=r"changes the batches before.*reg\.batches"):
        reg.loss(net(X), Y)


def test_on_digits_it_withstands_attacks_of_many_steps() -> None:
    x, y = images()
    strong = Attack(0.15, steps=10)
    test = [(x[1200:1600], y[1200:1600])]
    for seed in range(3):
        held = []
        for methods in ([], [RandomStartFGSM(0.15, bounds=[0, 1])]):
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
            loader = DataLoader(TensorDataset(x[:1000], y[:1000]), 100, shuffle=True)
            with attach(net, methods, optimizer, seed=seed) as reg:
                for _ in range(8):
                    for bx, by in reg.batches(loader):
                        optimizer.zero_grad()
                        reg.loss(net(bx), by).backward()
                        optimizer.step()
            rows = robust_accuracy(net, test, blur=(), noise=(), attacks=[strong], bounds=(0, 1))
            held.append((rows[0].accuracy, rows[1].accuracy))
        plain, ours = held
        assert ours[1] > plain[1] + 0.1 and ours[0] > plain[0] - 0.08, held
