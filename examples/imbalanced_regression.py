"""Regression with rare labels: ConR, and weights by the density of labels.

A base value shows strongly in the inputs; one sample in twenty has a label that is higher by 0.5,
which a weak cue tells. Plain training takes the rare samples for frequent ones. ConR (Keramati et
al., ICLR 2024, arXiv:2309.06651) pushes features apart that are predicted alike though their labels
are not; weights by density (Yang et al., ICML 2021, arXiv:2102.09554) make rare samples count more.
Errors are given for labels with many and with few training samples. Seconds on a CPU:

    python examples/imbalanced_regression.py
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from tether import ConR, Method, attach, measure

#: Name -> options of the method; None: no method.
ARMS: dict[str, dict[str, object] | None] = {
    "plain": None,
    "conr": {"weight": "warmup(0.5, 0.2)"},
    "density": {"weight": 0.0, "density": "sqrt_inv"},
    "smoothed density": {"weight": 0.0, "density": "sqrt_inv", "smoothing": 2.0},
    "conr and density": {"weight": "warmup(0.5, 0.2)", "density": "sqrt_inv"},
}


def samples(size: int, rare: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs (base value, weak cue, noise) and labels."""
    high = (torch.rand(size, generator=draw) < rare).float()
    base = 0.5 * torch.rand(size, generator=draw)
    angles = 6 * base[:, None] * torch.arange(1, 4)
    cue = 0.4 * (2 * high[:, None] - 1).expand(-1, 2)
    x = torch.cat([angles.sin(), angles.cos(), cue], 1)
    x = x + 0.1 * torch.randn(x.shape, generator=draw)
    return torch.cat([x, torch.randn(size, 8, generator=draw)], 1), base + 0.5 * high


def train(arm: str, args: argparse.Namespace) -> dict[str, float]:
    draw = torch.Generator().manual_seed(args.seed)
    x, y = samples(args.size, 0.05, draw)
    test_x, test_y = samples(4000, 0.5, draw)
    torch.manual_seed(args.seed)
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
    net.append(nn.Linear(64, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    options = ARMS[arm]
    methods: list[Method] = []
    if options is not None:
        near = {"window": 0.05, "temperature": 0.3, "push": 5.0}
        methods = [ConR(**{**near, **options})]  # type: ignore[arg-type]
    reg = attach(
        net, methods, optimizer, loss="l1", train_data=TensorDataset(x, y), total_steps=args.steps
    )
    for _ in range(args.steps):
        rows = torch.randint(args.size, (args.batch_size,), generator=draw)
        optimizer.zero_grad()
        reg.loss(net(x[rows]), y[rows]).backward()
        optimizer.step()
    reg.finish()
    with torch.no_grad():
        found = measure.shot_metrics(net(test_x)[:, 0], test_y, y, resolution=0.05, many=60)
        features = nn.functional.normalize(net[:-1](test_x), dim=1)
    high = test_y > 0.5
    return {
        "many": found.many.mae,
        "few": found.few.mae,
        "all": found.all.mae,
        "similarity": float(features[high].mean(0) @ features[~high].mean(0)),
    }


def main() -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--size", type=int, default=1024, help="training samples")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    result = {}
    for arm in args.arms:
        result[arm] = found = train(arm, args)
        if not all(map(math.isfinite, found.values())):
            raise SystemExit("no test sample in a region: take other sizes")
        print(
            f"{arm}: mean error {found['all']:.3f}, many-shot {found['many']:.3f}, few-shot "
            f"{found['few']:.3f}; rare and frequent features: cosine {found['similarity']:.2f}"
        )
    return result


if __name__ == "__main__":
    main()
