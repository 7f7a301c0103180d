"""Small models and data for the measures that perturb weights."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import torch
from torch import nn


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def image_model():
    """Convolutions with a shortcut, batch norm in train mode, dropout; one layer is frozen."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.bn = nn.BatchNorm2d(4)
            self.block = nn.Conv2d(4, 4, 3, padding=1)
            self.downsample = nn.Conv2d(4, 4, 1)
            self.drop = nn.Dropout(0.5)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = self.bn(self.stem(x)).relu()
            x = self.block(x).tanh() + self.downsample(x)
            return self.head(self.drop(x.mean((2, 3))))

    net = seeded(Net)
    net.block.weight.requires_grad_(False)
    net.bn.eval()
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    net.train()
    net(x).sum().backward()  # buffers and gradients of its own
    net.head.eval()  # flags that differ between modules
    return net


def images(n=20, size=8):
    rng = torch.Generator().manual_seed(2)
    x, y = torch.randn(n, 3, 5, 5, generator=rng), torch.randint(3, (n,), generator=rng)
    return [(x[i : i + size], y[i : i + size]) for i in range(0, n, size)]


class Named(nn.Module):
    """Takes its inputs by name and answers like a model of transformers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.dense = nn.Linear(6, 6)
        self.classifier = nn.Linear(6, 3)

    def forward(self, input_ids, attention_mask=None):
        h = self.embed(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        h = (h * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

        class Output(dict):
            __getattr__ = dict.__getitem__

        return Output(loss=None, logits=self.classifier(self.dense(h).tanh()))


def texts(n=12, size=5):
    rng = torch.Generator().manual_seed(3)
    ids, y = torch.randint(11, (n, 7), generator=rng), torch.randint(3, (n,), generator=rng)
    mask = (torch.rand(n, 7, generator=rng) > 0.3).long().clamp(min=0)
    mask[:, 0] = 1
    return [
        {
            "input_ids": ids[i : i + size],
            "attention_mask": mask[i : i + size],
            "labels": y[i : i + size],
        }
        for i in range(0, n, size)
    ]


def smooth_net(sizes=(5, 7, 3), act=nn.Tanh, dtype=torch.float64, seed=0):
    def make():
        layers = []
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), act()]
        return nn.Sequential(*layers[:-1]).to(dtype)

    return seeded(make, seed)


def rows(n, d, k, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng, dtype=dtype), torch.randint(k, (n,), generator=rng)


def half_square(logits, targets):
    return 0.5 * (logits - targets).square().sum(1)


class Snapshot:
    """All of a model's state and of the random numbers, to compare bit by bit."""

    def __init__(self, model):
        self.model = model
        self.objects = {id(p): (p, p.grad) for p in model.parameters()}
        self.buffers = dict(model.named_buffers())
        self.values = self._values()
        self.random = self._random()

    def _values(self):
        m = self.model
        bits = {f"p {n}": p.detach().clone() for n, p in m.named_parameters()}
        bits |= {f"b {n}": b.clone() for n, b in m.named_buffers()}
        bits |= {f"g {n}": p.grad.clone() for n, p in m.named_parameters() if p.grad is not None}
        flags = [(n, p.requires_grad, p.grad is None) for n, p in m.named_parameters()]
        hooks = [(len(x._forward_pre_hooks), len(x._forward_hooks)) for x in m.modules()]
        return bits, flags, [x.training for x in m.modules()], hooks

    @staticmethod
    def _random():
        name, keys, *rest = np.random.get_state()
        return torch.get_rng_state().tolist(), random.getstate(), name, keys.tolist(), rest

    def check(self):
        bits, *others = self._values()
        old, *old_others = self.values
        assert others == old_others
        assert bits.keys() == old.keys()
        for name, tensor in bits.items():
            assert torch.equal(tensor, old[name]), name
        for p in self.model.parameters():
            assert self.objects[id(p)][1] is p.grad
        assert all(b is self.buffers[n] for n, b in self.model.named_buffers())
        assert self._random() == self.random
