"""Grokking: does a network learn addition modulo p, memorise wrong sums, or both?

All pairs of numbers below p, their sum modulo p, a share of the training sums wrong. The network
is ``W (U_a + V_b)^2``; neurons whose weights are periodic compute the rule, the others memorise
(Doshi et al., 2023, arXiv:2310.13061). After training, the neurons are ranked by how few
frequencies their weights use, and masked from either end of the ranking. Ten seconds on a CPU:

    python examples/grokking.py
    python examples/grokking.py --decay 5      # periodic neurons win, wrong sums are given up

What losses and gradients do to the delay of generalisation is in ``benchmarks/grokking.py``.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import torch
from torch import Tensor, nn

from tether import attach, create_method, measure


class Adder(nn.Module):
    """``W (U_a + V_b)^2`` without biases."""

    def __init__(self, p: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(p, width), nn.Embedding(p, width)
        self.head = nn.Linear(width, p, bias=False)
        for module, inputs in ((self.first, p), (self.second, p), (self.head, width)):
            nn.init.normal_(module.weight, std=0.5 / math.sqrt(inputs))

    def hidden(self, pairs: Tensor) -> Tensor:
        return (self.first(pairs[:, 0]) + self.second(pairs[:, 1])).square()

    def forward(self, pairs: Tensor) -> Tensor:
        out: Tensor = self.head(self.hidden(pairs))
        return out


class Sums:
    """The pairs, their true and given sums, and which of them are trained on."""

    def __init__(self, p: int, share: float, noise: float, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
        self.true = self.pairs.sum(1) % p
        order = torch.randperm(p * p, generator=draw)
        self.train, self.test = order.split([int(share * p * p), p * p - int(share * p * p)])
        count = int(noise * len(self.train))
        self.wrong, self.clean = self.train.split([count, len(self.train) - count])
        self.given = self.true.clone()
        shift = torch.randint(1, p, (count,), generator=draw)
        self.given[self.wrong] = (self.true[self.wrong] + shift) % p

    def groups(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> rows and the labels that they are compared with."""
        found = {"clean": (self.clean, self.true), "test": (self.test, self.true)}
        if len(self.wrong):
            found["wrong_as_given"] = (self.wrong, self.given)
            found["wrong_true"] = (self.wrong, self.true)
        return {name: (rows, labels[rows]) for name, (rows, labels) in found.items()}


@torch.no_grad()
def accuracies(net: Adder, sums: Sums) -> dict[str, float]:
    found = {
        name: float((net(sums.pairs[rows]).argmax(1) == labels).float().mean())
        for name, (rows, labels) in sums.groups().items()
    }
    given = sums.given[sums.train]
    found["train"] = float((net(sums.pairs[sums.train]).argmax(1) == given).float().mean())
    return found


def look_at_neurons(net: Adder, sums: Sums) -> dict[str, Any]:
    """How periodic the neurons are, and what is left when the least or most periodic go."""
    weights = [net.first.weight.detach().T, net.second.weight.detach().T]
    head = net.head.weight.detach()
    scores = measure.fourier_ipr_per_neuron(weights, head)
    with torch.no_grad():
        groups = {n: (net.hidden(sums.pairs[r]), y) for n, (r, y) in sums.groups().items()}
    low = measure.pruning_curve(groups, head, scores, fractions=(0.5,))
    high = measure.pruning_curve(groups, head, scores, fractions=(0.2,), ascending=False)
    alive = scores[~scores.isnan()]
    return {
        "periodic": alive.quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist(),
        "without_lowest_half": {name: float(v[0]) for name, v in low.accuracy.items()},
        "without_highest_fifth": {name: float(v[0]) for name, v in high.accuracy.items()},
    }


def main() -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--p", type=int, default=23, help="the modulus")
    parser.add_argument("--width", type=int, default=96, help="neurons")
    parser.add_argument("--share", type=float, default=0.85, help="of the pairs for training")
    parser.add_argument("--noise", type=float, default=0.15, help="share of wrong training sums")
    parser.add_argument("--decay", type=float, default=1.0, help="weight decay of AdamW")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=600, help="each on all training pairs")
    parser.add_argument("--loss", choices=("mse", "cross_entropy"), default="mse")
    parser.add_argument("--method", action="append", default=[], help="a registered method")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    sums, net = Sums(args.p, args.share, args.noise, args.seed), Adder(args.p, args.width)
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=args.decay
    )
    methods = [create_method(name) for name in args.method]
    reg = attach(net, methods, optimizer, loss=args.loss, total_steps=args.steps)
    x, y = sums.pairs[sums.train], sums.given[sums.train]
    # the squared error over p outputs is multiplied by p: a sum over outputs
    targets, scale = y, 1
    if args.loss == "mse":
        targets, scale = nn.functional.one_hot(y, args.p).float(), args.p
    for step in range(args.steps):
        optimizer.zero_grad()
        logits = net(x)
        (scale * reg.loss(logits, targets)).backward()
        optimizer.step()
        if (step + 1) % max(args.steps // 6, 1) == 0:
            told = ", ".join(f"{name} {v:.3f}" for name, v in accuracies(net, sums).items())
            print(f"step {step + 1}: {told}")

    found = accuracies(net, sums)
    result: dict[str, Any] = {"accuracy": found, **look_at_neurons(net, sums)}
    if args.noise > 0:
        result["phase"] = measure.generalization_phase(
            found["train"], found["test"], found["wrong_as_given"], args.noise, 1 / args.p
        )
        print(f"phase: {result['phase']}")
    low, median, high = result["periodic"]
    print(f"frequencies of neurons (1: a single one): {low:.2f}, median {median:.2f}, {high:.2f}")
    for name in ("without_lowest_half", "without_highest_fifth"):
        told = ", ".join(f"{group} {v:.3f}" for group, v in result[name].items())
        print(f"{name.replace('_', ' ')}: {told}")
    result["alignment"] = measure.weight_gradient_alignment(net).overall
    print(f"share of the last step that only lengthens the weights: {result['alignment']:.2f}")
    if args.loss == "cross_entropy":
        result["collapsed"] = measure.softmax_saturation(logits, y).collapsed
        print(f"samples whose softmax has collapsed: {result['collapsed']:.2f}")
    reg.finish()
    return result


if __name__ == "__main__":
    main()
