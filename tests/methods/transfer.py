"""Few turned digits for a small network that knows upright ones, and its discarded head."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tests.methods.noisy_digits import Digits, images, small_net, turned
from tether import Handle, Method, attach


@dataclass
class Trained:
    """A network after training, its handle, and what it began with."""

    net: nn.Sequential
    start: nn.Sequential
    reg: Handle
    data: Digits

    def features(self, x: Tensor) -> Tensor:
        return self.net[:-1](x).detach()

    def moved(self) -> float:
        """Mean squared distance of test features from the pretrained ones."""
        before = self.start[:-1](self.data.test_x).detach()
        return float((self.features(self.data.test_x) - before).square().mean())

    @property
    def accuracy(self) -> float:
        return self.data.accuracy(self.net)


@functools.cache
def knowing() -> nn.Sequential:
    """A network that knows upright digits."""
    x, y = images()
    net = small_net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    draw = torch.Generator().manual_seed(0)
    for _ in range(15):
        for rows in torch.randperm(900, generator=draw).split(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net


def pretrained_net(seed: int) -> nn.Sequential:
    """Its body with a new head."""
    net = copy.deepcopy(knowing())
    torch.manual_seed(seed)
    net[4].reset_parameters()
    return net


def few(per_class: int = 10) -> Digits:
    """The first turned digits of each class."""
    data = turned(0.0, 0)
    hot = nn.functional.one_hot(data.given, 10)
    chosen = (hot.cumsum(0) * hot).sum(1) <= per_class
    x, y = data.x[chosen], data.given[chosen]
    return Digits(x, y, y, data.test_x, data.test_y)


def fine_tune(
    methods: Sequence[Method], seed: int, *, epochs: int = 15, batch_size: int = 25,
    lr: float = 0.02, data: Digits | None = None, views: bool = False,
) -> Trained:  # fmt: skip
    data = few() if data is None else data
    net = pretrained_net(seed)
    start = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    reg = attach(
        net, list(methods), optimizer, train_data=TensorDataset(data.x, data.given),
        epochs=epochs, source_head=knowing()[4],
    )  # fmt: skip
    draw = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        reg.start_epoch(epoch)
        for rows in torch.randperm(len(data.x), generator=draw).split(batch_size):
            x, extras = data.x[rows], {}
            if views:
                noise = 0.1 * torch.randn(2, *x.shape, generator=draw)
                x, extras = x + noise[0], {"views": [x + noise[1]]}
            optimizer.zero_grad()
            reg.loss(net(x), data.given[rows], index=rows, **extras).backward()
            optimizer.step()
        reg.end_epoch()
    return Trained(net, start, reg, data)
