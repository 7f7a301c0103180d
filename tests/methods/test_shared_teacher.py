"""Methods that compare with the pretrained model share one copy of its weights and one forward."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import TensorDataset

from tether import DELTA, DRTune, LearningWithoutForgetting, attach

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def test_one_forward_a_step_and_one_copy_for_all():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    methods = [DELTA(), LearningWithoutForgetting(), DRTune()]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    data, calls = TensorDataset(X, Y), []
    reg = attach(net, methods, optimizer, train_data=data, source_head=nn.Linear(8, 5))
    net[0].register_forward_hook(lambda *_: calls.append(1))
    for step in range(3):
        calls.clear()
        reg.loss(net(X[:8]), Y[:8]).backward()
        assert step == 0 or len(calls) == 2  # at first the pass over the data, too
        optimizer.step()
        optimizer.zero_grad()
    assert {name for name, part in reg.parts.items() if float(part) > 0} >= {
        "delta", "lwf", "dr_tune",
    }  # fmt: skip
    kept = {t.data_ptr() for m in reg.methods.values() for t in [m.ctx.reference["0.weight"]]}
    assert len(kept) == 1
