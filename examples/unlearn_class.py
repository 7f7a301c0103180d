"""Unlearn a class: adapt a copy to it, then train the original on the rest, away from the copy.

After "Adapt then Unlearn" (Tiwary et al., TMLR 2025, arXiv:2309.14054), for a classifier: no
image of the class is used in the second stage, where it would be given a wrong label otherwise.
The data are scikit-learn's digits; it takes some seconds on a CPU:

    python examples/unlearn_class.py
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tether import Method, WeightRepulsion, attach


@dataclass
class Data:
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def without(self, label: int) -> tuple[Tensor, Tensor]:
        """Training samples of the other classes."""
        rows = self.train_y != label
        return self.train_x[rows], self.train_y[rows]

    def only(self, label: int) -> tuple[Tensor, Tensor]:
        """Training samples of the class."""
        rows = self.train_y == label
        return self.train_x[rows], self.train_y[rows]


def digits(seed: int) -> Data:
    bunch = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    x = torch.from_numpy(bunch.data[order] / 16.0).float()
    y = torch.from_numpy(bunch.target[order]).long()
    return Data(x[:1200], y[:1200], x[1200:], y[1200:])


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def fit(
    model: nn.Module, x: Tensor, y: Tensor, steps: int, methods: Sequence[Method] = (), *,
    lr: float, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Train in place; what the methods measure at the end."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    draw = torch.Generator().manual_seed(seed)
    with attach(model, methods, optimizer, total_steps=steps) as reg:
        for _ in range(steps):
            rows = torch.randint(len(x), (64,), generator=draw)
            loss = reg.loss(model(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return reg.measure()


def adapt(original: nn.Module, data: Data, label: int = 7, *, seed: int) -> nn.Module:
    """Stage 1: a copy that was trained on the class alone, and names it too often."""
    bad = copy.deepcopy(original)
    fit(bad, *data.only(label), 50, lr=0.02, seed=seed)
    return bad


@torch.no_grad()
def scores(model: nn.Module, data: Data, label: int) -> tuple[float, float]:
    """Recall of the class, and accuracy on the others."""
    right = model(data.test_x).argmax(1) == data.test_y
    mine = data.test_y == label
    return float(right[mine].float().mean()), float(right[~mine].float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--label", type=int, default=7, help="the class to unlearn (default 7)")
    parser.add_argument("--weight", type=float, default=1.0, help="of the repulsion (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    data, original = digits(args.seed), network(args.seed)
    fit(original, data.train_x, data.train_y, 250, lr=0.05, seed=args.seed)
    bad = adapt(original, data, args.label, seed=args.seed)
    runs: dict[str, list[Method]] = {
        "rest only": [],
        "rest only, away from the copy": [WeightRepulsion(bad.state_dict(), weight=args.weight)],
    }
    print(f"{'':32} recall of {args.label}   accuracy on the rest")
    for name, model in (("original", original), ("adapted copy", bad)):
        print("{:32} {:11.3f} {:20.3f}".format(name, *scores(model, data, args.label)))
    for name, methods in runs.items():
        model = copy.deepcopy(original)
        fit(model, *data.without(args.label), 200, methods, lr=0.02, seed=args.seed)
        print("{:32} {:11.3f} {:20.3f}".format(name, *scores(model, data, args.label)))


if __name__ == "__main__":
    main()
