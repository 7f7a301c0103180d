"""One small task for all frameworks, and the loop that they are measured against."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import tether
from tests.integrations.kinds import Adapter, Blend, Jitter, Scaled
from tether import (
    L2SP,
    AdaRand,
    ClassWeights,
    ConfidenceReweighting,
    EarlyLearningRegularization,
    LabelSmoothing,
    LayerwiseConstraint,
    SelfLabelCorrection,
)

EPOCHS, LR, CLIP = 3, 0.2, 0.5

#: Methods of every kind: gradient edit, after the step, features with a module and random
#: numbers of its own, a table of rows, corrected labels and weighed samples by epochs, smoothed
#: targets and weights by class, changed batches, noise on gradients, changed layers, adapters.
KINDS = {
    "none": lambda: [],
    "l2_sp": lambda: [L2SP(weight=0.1)],
    "layerwise": lambda: [LayerwiseConstraint(radius=0.05, growth=1.5, head_radius=1.0)],
    "adarand": lambda: [AdaRand()],
    "elr": lambda: [EarlyLearningRegularization()],
    "labels": lambda: [
        SelfLabelCorrection(threshold=0.4, start_epoch=2),
        ConfidenceReweighting(start_epoch=2),
    ],
    "classes": lambda: [ClassWeights([2.0, 1.0, 0.5]), LabelSmoothing(0.2)],
    "inputs": lambda: [Blend()],
    "gradients": lambda: [Jitter()],
    "layers": lambda: [Scaled()],
    "adapters": lambda: [Adapter()],
}


def several():
    return [AdaRand(), L2SP(weight=0.1), EarlyLearningRegularization()]


class Net(nn.Module):
    def __init__(self, drop=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(drop), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.layers(x)))


def prepared_net(methods):
    """The network as the methods want it."""
    return tether.prepare(Net(), methods)


def samples(n=32):
    g = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(n, 6, generator=g), torch.randint(0, 3, (n,), generator=g))


class Dicts(Dataset):
    """The same samples as the Trainer wants them; ``note`` is a column no model knows."""

    def __init__(self, n=32):
        self.x, self.y = samples(n).tensors

    def __len__(self):
        return len(self.y)

    def __getitem__(self, row):
        return {"x": self.x[row], "labels": int(self.y[row]), "note": float(row)}


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def plain_loop(methods, batch=8, accumulate=1, epochs=EPOCHS, n=32, momentum=0.0, seed=0):
    """(weights, handle) of the bare loop, in row order."""
    model, data = prepared_net(methods), samples(n)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=momentum)
    loader = DataLoader(data, batch_size=batch)
    updates = epochs * -(-len(loader) // accumulate)
    reg = tether.attach(
        model, methods, optimizer, train_data=data, total_steps=updates, seed=seed, num_classes=3
    )
    for _ in range(epochs):
        for at, (x, y) in enumerate(reg.batches(loader), start=1):
            reg.loss(model(x), y, num_items=accumulate * batch).backward()
            if at % accumulate == 0:
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                optimizer.zero_grad()
    reg.end_epoch()
    return weights(model), reg


def same_state(first, second):
    """Whether two handles hold the same state of methods, exactly but for float noise."""
    one, two = first.state_dict(), second.state_dict()
    for part in ("methods", "auxiliaries"):
        _compare(one[part], two[part], part)
    assert one["step"] == two["step"]
    assert one["stream"]["epoch"] == two["stream"]["epoch"]


def _compare(one, two, where):
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6, msg=where)
    elif isinstance(one, dict):
        assert set(one) == set(two), where
        for key in one:
            _compare(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for at, (a, b) in enumerate(zip(one, two, strict=True)):
            _compare(a, b, f"{where}.{at}")
    else:
        assert one == two or abs(one - two) < 1e-9, where
