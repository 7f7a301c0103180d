"""Digits in a loop over a loader: what the experiments on mixed and masked inputs train with."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tether import Handle, Method, attach


def perceptron(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def fit(
    net: nn.Module, x: torch.Tensor, y: torch.Tensor, methods: list[Method], *, epochs: int,
    batch_size: int, lr: float = 0.05, weight_decay: float = 0.0, seed: int = 0, **options: object,
) -> Handle:  # fmt: skip
    """Train with ``reg.batches``; the handle stays attached."""
    data = TensorDataset(x, y)
    draw = torch.Generator().manual_seed(seed)
    sampler = torch.utils.data.RandomSampler(data, generator=draw)
    batches = torch.utils.data.BatchSampler(sampler, batch_size, drop_last=False)
    loader = DataLoader(_Whole(data), sampler=batches, batch_size=None)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay, foreach=True
    )
    reg = attach(net, methods, optimizer, train_data=data, epochs=epochs, seed=seed, **options)
    for _ in range(epochs):
        for rows, targets in reg.batches(loader):
            optimizer.zero_grad()
            reg.loss(net(rows), targets).backward()
            optimizer.step()
    return reg


class _Whole(torch.utils.data.Dataset):
    """Batches by their rows, at once."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows):
        return tuple(tensor[rows] for tensor in self.data.tensors)
