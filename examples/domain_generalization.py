"""A shortcut that fails in the next domain, and Hessian alignment against it.

The label follows a cause in three of four samples, in every domain. A shortcut follows the label
in 80 % of the samples of the first training domain, in 90 % of the second, and in 10 % of the test
domain. Plain training takes the shortcut. Gradients and curvature of the head that are alike in
both training domains (Hemati et al., ICCV 2023, arXiv:2308.11778) make it worthless. Seconds on a
CPU:

    python examples/domain_generalization.py
    python examples/domain_generalization.py --kind hutchinson --weight 100
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from tether import HessianAlignment, attach

NOISE = 10


def domain(size: int, agreement: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs (cause, shortcut, noise) and labels."""
    cause = torch.randint(2, (size,), generator=draw)
    y = torch.where(torch.rand(size, generator=draw) < 0.25, 1 - cause, cause)
    shortcut = torch.where(torch.rand(size, generator=draw) < agreement, y, 1 - y)
    signs = 2.0 * torch.stack([cause, shortcut], 1) - 1.0
    signs = signs + 0.1 * torch.randn(size, 2, generator=draw)
    return torch.cat([signs, torch.randn(size, NOISE, generator=draw)], 1), y


def train(args: argparse.Namespace, weight: float) -> dict[str, float]:
    """Accuracies in the training domains and in the test domain."""
    draw = torch.Generator().manual_seed(args.seed)
    parts = [domain(args.size, agreement, draw) for agreement in (0.8, 0.9)]
    test_x, test_y = domain(args.size, 0.1, draw)
    x, y = (torch.cat(part) for part in zip(*parts, strict=True))
    domains = torch.arange(2).repeat_interleave(args.size)

    torch.manual_seed(args.seed)
    net = nn.Sequential(nn.Linear(2 + NOISE, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-3)
    methods = []
    if weight > 0:
        schedule = f"step(1, {weight}, 0.3)"  # the first third fits the data
        methods = [HessianAlignment(schedule, kind=args.kind, alpha=1.0, beta=1.0)]
    reg = attach(net, methods, optimizer, total_steps=args.steps)
    for _ in range(args.steps):
        rows = torch.randint(args.size, (2, args.batch_size), generator=draw)
        rows = (rows + torch.tensor([[0], [args.size]])).flatten()  # as many of each domain
        optimizer.zero_grad()
        reg.loss(net(x[rows]), y[rows], domains=domains[rows]).backward()
        optimizer.step()
    reg.finish()
    with torch.no_grad():
        return {
            "train": float((net(x).argmax(1) == y).float().mean()),
            "test": float((net(test_x).argmax(1) == test_y).float().mean()),
        }


def main() -> dict[str, dict[str, float]]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weight", type=float, nargs="*", default=[100.0, 1000.0])
    parser.add_argument("--kind", choices=("hgp", "hutchinson"), default="hgp")
    parser.add_argument("--size", type=int, default=4000, help="samples of each domain")
    parser.add_argument("--batch-size", type=int, default=128, help="samples of each domain")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    result = {}
    for weight in (0.0, *args.weight):
        name = f"{args.kind}, weight {weight:g}" if weight else "plain"
        result[name] = found = train(args, weight)
        print(f"{name}: training domains {found['train']:.3f}, new domain {found['test']:.3f}")
    return result


if __name__ == "__main__":
    main()
