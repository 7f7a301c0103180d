"""Small images of digits with wrong labels: what the experiments on label noise train on."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from tether import Handle, Method, attach


@dataclass
class Digits:
    """Training images with given and true labels, and a clean test set."""

    x: torch.Tensor
    given: torch.Tensor
    true: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor

    @property
    def wrong(self) -> torch.Tensor:
        return self.given != self.true

    def accuracy(self, net: nn.Module) -> float:
        return float((net(self.test_x).argmax(1) == self.test_y).float().mean())

    def memorised(self, net: nn.Module) -> float:
        """Share of the wrong labels that the network gives back."""
        fitted = net(self.x).argmax(1) == self.given
        return float(fitted[self.wrong].float().mean())


@functools.cache
def images() -> tuple[torch.Tensor, torch.Tensor]:
    datasets = pytest.importorskip("sklearn.datasets")
    bunch = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    rows = torch.from_numpy(bunch.data[order] / 16.0).float()
    return rows, torch.from_numpy(bunch.target[order]).long()


def symmetric(labels: torch.Tensor, rate: float, seed: int) -> torch.Tensor:
    """A share ``rate`` of the labels, each replaced by one of the nine wrong classes."""
    rng = np.random.default_rng(seed)
    hit = rng.random(len(labels)) < rate
    shift = rng.integers(1, 10, len(labels))
    return torch.from_numpy(np.where(hit, (labels.numpy() + shift) % 10, labels.numpy()))


def upright(rate: float, seed: int) -> Digits:
    """1000 digits for training from scratch."""
    x, y = images()
    return Digits(x[:1000], symmetric(y[:1000], rate, seed), y[:1000], x[1000:], y[1000:])


def turned(rate: float, seed: int) -> Digits:
    """400 rolled and transposed digits, a target task for a network that knows upright ones."""
    x, y = images()
    square = torch.roll(x.view(-1, 8, 8), 2, dims=2).transpose(1, 2).reshape(-1, 64)
    train, test = slice(900, 1300), slice(1300, None)
    return Digits(square[train], symmetric(y[train], rate, seed), y[train], square[test], y[test])


@functools.cache
def pretrained_body() -> dict[str, torch.Tensor]:
    """Weights of :func:`small_net` after training on 900 upright digits."""
    x, y = images()
    net = small_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(30):
        for rows in torch.randperm(900, generator=torch.Generator().manual_seed(0)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.state_dict()


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def pretrained_net(seed: int) -> nn.Sequential:
    """The pretrained body with a new head."""
    net = small_net()
    net.load_state_dict(pretrained_body())
    torch.manual_seed(seed)
    net[4].reset_parameters()
    return net


def train(
    net: nn.Module,
    data: Digits,
    methods: Sequence[Method],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> Handle:
    """Train on the given labels; the handle stays attached."""
    rows_of = torch.Generator().manual_seed(seed)
    train_data = TensorDataset(data.x, data.given)
    reg = attach(net, list(methods), optimizer, train_data=train_data, epochs=epochs)
    for epoch in range(epochs):
        reg.start_epoch(epoch)
        for rows in torch.randperm(len(data.x), generator=rows_of).split(batch_size):
            optimizer.zero_grad()
            reg.loss(net(data.x[rows]), data.given[rows], index=rows).backward()
            optimizer.step()
        reg.end_epoch()
    return reg
