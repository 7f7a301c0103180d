"""Reading data in evaluation mode, and the head that ``prepare`` is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.engine.toys import mlp, samples, toy
from tether import Method, TetherError, attach, prepare


@toy("looks", needs=("features", "valid_data"))
class Looks(Method):
    """Reads the validation data at the end of an epoch."""

    def __init__(self):
        self.seen = []

    def epoch_end(self, epoch):
        assert self.ctx.model.training
        for batch in self.ctx.evaluate(self.ctx.valid_data):
            assert not self.ctx.model.training
            self.seen.append(batch)


@pytest.mark.parametrize("loader", [False, True])
def test_validation_data_are_read_in_evaluation_mode(loader: bool) -> None:
    model, looks, data = mlp(norm=True, drop=0.5), Looks(), samples(20, seed=5)
    valid = DataLoader(data, batch_size=8, shuffle=True) if loader else data
    reg = attach(model, looks, valid_data=valid)
    reg.start_epoch()
    before, drawn = [b.clone() for b in model.buffers()], torch.get_rng_state()
    reg.end_epoch()
    assert model.training and torch.equal(torch.get_rng_state(), drawn)
    for buffer, was in zip(model.buffers(), before, strict=True):
        assert torch.equal(buffer, was)
    assert [len(batch.targets) for batch in looks.seen] == ([8, 8, 4] if loader else [20])
    found = {name: torch.cat([getattr(b, name) for b in looks.seen]) for name in
             ("logits", "features", "targets", "index")}  # fmt: skip
    model.eval()
    x, y = data.tensors
    assert torch.equal(found["index"], torch.arange(20)) and torch.equal(found["targets"], y)
    torch.testing.assert_close(found["logits"], model(x).detach())
    torch.testing.assert_close(found["features"], model[:-1](x).detach())
    assert not found["logits"].requires_grad


@toy("asks", kind="layers")
class Asks(Method):
    """Notes the head."""

    def __init__(self):
        pass

    def prepare(self, model):
        self.told = self.head_name


def test_prepare_tells_the_head() -> None:
    asks = Asks()
    prepare(mlp(), asks)
    assert asks.told == "5"
    prepare(mlp(), asks, head="3")
    assert asks.told == "3"
    prepare(nn.Sequential(nn.LayerNorm(3)), asks)
    assert asks.told is None
    with pytest.raises(TetherError, match="head 'fc' is not a module"):
        prepare(mlp(), asks, head="fc")
