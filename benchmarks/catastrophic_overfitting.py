"""The command ``python -m benchmarks.catastrophic_overfitting``: where single steps collapse.

Trains networks on the digits of scikit-learn by ``fgsm_rs``, alone and with ``aaer``, over a grid
of epsilons and step sizes, attacks them with many steps, and writes the whole grid, collapsed or
not, to ``docs/results/catastrophic_overfitting.md``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import tether
from tether.files import write_text
from tether.machine import describe_machine
from tether.measure import Attack, robust_accuracy

PAGE = Path(__file__).parents[1] / "docs" / "results" / "catastrophic_overfitting.md"
#: Share of abnormal samples, and accuracy under attack, from which on a run counts as collapsed.
ABNORMAL, HELD = 0.25, 0.05


def digits(kind: str) -> tuple[Tensor, Tensor]:
    """Images of 64 pixels in [0, 1], grey or black and white, in a fixed order."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x = torch.from_numpy(bunch.data[order] / 16.0).float()
    x = (x > 0.5).float() if kind == "binary" else x
    return x, torch.from_numpy(bunch.target[order]).long()


def network(kind: str) -> nn.Module:
    """A perceptron of two hidden layers, or two convolutions."""
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def run(
    data: str, net: str, epsilon: float, ratio: float, output_weight: float, seed: int, epochs: int
) -> dict[str, Any]:
    """One training: shares of abnormal samples, clean accuracy, accuracy under attack."""
    x, y = digits(data)
    torch.manual_seed(seed)
    model = network(net)
    lr = 0.1 if net == "mlp" else 0.05
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    methods = [
        tether.RandomStartFGSM(epsilon, step_size=ratio * epsilon, bounds=[0, 1]),
        # weight 0 counts abnormal samples and changes nothing
        tether.AbnormalAdversarialRegularization(
            weight=1.0 if output_weight else 0.0, output_weight=output_weight
        ),
    ]
    loader = DataLoader(TensorDataset(x[:1300], y[:1300]), 100, shuffle=True)
    shares = []
    with tether.attach(model, methods, optimizer, seed=seed) as reg, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(epochs):
            model.train()
            for bx, by in reg.batches(loader):
                optimizer.zero_grad()
                reg.loss(model(bx), by).backward()
                optimizer.step()
            shares.append(float(reg.measure()["aaer"]["abnormal_fraction"]))
    attack = Attack(epsilon, steps=20, step_size=epsilon / 4)
    rows = robust_accuracy(
        model, [(x[1300:], y[1300:])], blur=(), noise=(), attacks=[attack], bounds=(0.0, 1.0)
    )
    return {
        "most": max(shares), "last": sum(shares[-3:]) / 3, "clean": rows[0].accuracy,
        "held": rows[1].accuracy,
    }  # fmt: skip


def line(settings: tuple[Any, ...], found: list[dict[str, Any]]) -> str:
    """A row of the table; numbers of the seeds beside one another."""
    data, net, epsilon, ratio, weight = settings
    recipe = f"with `aaer`, {weight:g}" if weight else "`fgsm_rs` alone"
    cells = [" / ".join(f"{one[k]:.3f}" for one in found) for k in ("most", "last", "clean")]
    cells.append(" / ".join(f"{one['held']:.3f}" for one in found))
    collapsed = sum(one["most"] > ABNORMAL and one["held"] < HELD for one in found)
    return (
        f"| {data} | {net} | {epsilon:g} | {ratio:g} | {recipe} | {' | '.join(cells)} | "
        f"{collapsed} of {len(found)} |"
    )


def page(lines: list[str], options: argparse.Namespace, verdict: str, seconds: float) -> str:
    """The page with the whole grid."""
    return "\n".join([
        "# Where single-step adversarial training collapses",
        "",
        "Digits of scikit-learn, 1300 for training and 497 for the test, as they are (grey) or in",
        "black and white (binary); a perceptron 64-256-256-10 (SGD 0.1) or a small convolutional",
        "network (SGD 0.05), momentum 0.9, batches of 100, constant rate, "
        f"{options.epochs} epochs.",
        "`fgsm_rs` from a random start, cut at epsilon; the step is so many epsilons. Attack: 20",
        "steps of epsilon / 4 from a random start, all of which must be withstood. Numbers of",
        f"the seeds 0 to {options.seeds - 1} stand beside one another. A run counts as collapsed "
        "when more than",
        f"{ABNORMAL:.0%} of the samples were abnormal in some epoch and less than {HELD:.0%} of "
        "the test images",
        "withstand the attack.",
        "",
        "```sh",
        f"python -m benchmarks.catastrophic_overfitting {options.command}",
        "```",
        "",
        verdict,
        "",
        "| images | network | epsilon | step | recipe | abnormal, most | last 3 epochs | clean "
        "| withstood | collapsed |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *lines,
        "",
        f"{', '.join(describe_machine().values())}; one thread, {seconds:.0f} s.",
        "",
    ])  # fmt: skip


def verdict_of(table: dict[tuple[Any, ...], list[dict[str, Any]]]) -> str:
    """What the grid says of the claim: collapse alone, and none with the penalty."""
    alone, kept = [], []
    for settings, found in table.items():
        if settings[-1]:
            continue
        if all(one["most"] > ABNORMAL and one["held"] < HELD for one in found):
            alone.append(settings)
            rivals = [table[(*settings[:-1], w)] for *s, w in table if w and
                      tuple(s) == settings[:-1]]  # fmt: skip
            if any(min(one["held"] for one in rival) > 0.2 for rival in rivals):
                kept.append(settings)
    where = "; ".join(f"{s[0]} images, {s[1]}, epsilon {s[2]:g}, step {s[3]:g}" for s in alone)
    text = f"`fgsm_rs` alone collapsed with every seed at {len(alone)} of the settings"
    text += f" ({where})" if where else ""
    text += f". With `aaer` from the start, more than 20 % withstood there at {len(kept)} of them."
    return text + (
        ""
        if kept
        else " **No setting of this grid shows that `aaer` keeps a network robust where "
        "the attack alone collapses.**"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.catastrophic_overfitting", description=__doc__
    )
    parser.add_argument("--images", nargs="*", default=["grey", "binary"])
    parser.add_argument("--networks", nargs="*", default=["mlp", "conv"])
    parser.add_argument("--epsilons", nargs="*", type=float, default=[0.2, 0.3, 0.35, 0.4, 0.5])
    parser.add_argument("--steps", nargs="*", type=float, default=[1.25, 2.0])
    parser.add_argument("--weights", nargs="*", type=float, default=[0.0, 0.15, 1.5])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = parser.parse_args()
    options.command = " ".join(sys.argv[1:])
    torch.set_num_threads(1)
    began, table = time.perf_counter(), {}
    grid = itertools.product(
        options.images, options.networks, options.epsilons, options.steps, options.weights
    )
    lines = []
    for settings in grid:
        table[settings] = [run(*settings, seed, options.epochs) for seed in range(options.seeds)]
        lines.append(line(settings, table[settings]))
        print(lines[-1], flush=True)
    verdict = verdict_of(table)
    print(verdict)
    if options.write:
        write_text(PAGE, page(lines, options, verdict, time.perf_counter() - began))
    return 0


if __name__ == "__main__":
    sys.exit(main())
