"""What methods know of one another and of the task, and moments that leave things as they are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.engine.toys import toy
from tether import Method, TetherError, attach
from tether.engine.order import arrange

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


@toy("asks")
class Asks(Method):
    """Replaces the loss from the second step on."""

    def __init__(self, late: bool = True) -> None:
        self.late = late

    def sample_loss(self, batch):
        if self.late and self.ctx.step == 0:
            return None
        return 2.0 * self.ctx.sample_losses(batch.logits, batch.targets)


@toy("tripled", kind="inputs")
class Tripled(Method):
    """Inputs times three."""

    def __init__(self) -> None:
        pass

    def transform_batch(self, batch):
        batch.args = (3 * batch.args[0],)
        return batch


def test_a_loss_that_is_left_alone_is_the_plain_mean_bit_for_bit() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    reg = attach(net, Asks(), optimizer)
    plain = F.cross_entropy(net(X), Y)
    assert torch.equal(reg.loss(net(X), Y), plain)
    reg.loss(net(X), Y).backward()
    optimizer.step()
    torch.testing.assert_close(reg.loss(net(X), Y), 2 * plain)


def test_rows_that_do_not_count_cost_nothing() -> None:
    net = network()
    labels = torch.where(torch.arange(12) < 5, -100, Y)
    reg = attach(net, Asks(late=False))
    found = reg.methods["asks"].ctx.sample_losses(net(X), labels)
    assert not found[:5].any() and bool((found[5:] > 0).all())
    torch.testing.assert_close(reg.loss(net(X), labels), 2 * F.cross_entropy(net(X[5:]), Y[5:]))


def test_a_method_finds_another_of_its_recipe() -> None:
    first, second = Asks(), Tripled()
    reg = attach(network(), [first, second])
    assert first.ctx.partner(Tripled) is second
    reg.detach()
    alone = Asks()
    attach(network(), alone)
    assert alone.ctx.partner(Tripled) is None


def test_a_method_of_batches_is_not_left_out_in_silence() -> None:
    net = network()
    reg = attach(net, Tripled())
    with pytest.raises(TetherError, match=r"'tripled' changes the batches.*reg\.batches\(loader\)"):
        reg.loss(net(X), Y)
    for x, y in reg.batches(DataLoader(TensorDataset(X, Y), 12)):
        assert torch.equal(x, 3 * X)
        reg.loss(net(x), y)
    net.eval()
    reg.loss(net(X), Y)


def test_augmented_then_mixed_then_attacked() -> None:
    made = []
    for name, band in (("c_attack", "attack"), ("b_mix", ""), ("d_augment", "augment")):

        @toy(name, kind="inputs", band=band)
        class Changes(Method):
            """Changes inputs."""

            def transform_batch(self, batch):
                return batch

        made.append(Changes())
    assert list(arrange(made)) == ["d_augment", "b_mix", "c_attack"]
