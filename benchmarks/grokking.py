"""The command ``python -m benchmarks.grokking``: when addition modulo p generalises, and why not.

Bias-free perceptrons on all pairs of numbers below p, full batches, AdamW: plain, with weight
decay, with orthogonal gradients (with and without their rescaling), with StableMax, and plain with
the loss in float16. Each arm runs until it generalises or its steps are over. Each run is a line
of ``results/grokking.jsonl``; runs that are there are not made again. The page is
``docs/results/grokking.md``.

The setting of the paper, for an accelerator and hours:
``--p 113 --share 0.4 --width 200 --steps 80000 --device cuda``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tether
from benchmarks.tables import _table
from tether.machine import describe_machine

ROOT = Path(__file__).parents[1]
ROWS = Path(__file__).parent / "results" / "grokking.jsonl"
PAGE = ROOT / "docs" / "results" / "grokking.md"

#: Arm -> methods, weight decay, and the type of the logits in the loss.
ARMS: dict[str, tuple[dict[str, dict[str, Any]], float, str]] = {
    "plain": ({}, 0.0, "float32"),
    "plain, loss in float16": ({}, 0.0, "float16"),
    "weight decay 1": ({}, 1.0, "float32"),
    "orthogonal gradient": ({"orthogonal_gradient": {}}, 0.0, "float32"),
    "orthogonal gradient, rescale=false": (
        {"orthogonal_gradient": {"rescale": False}}, 0.0, "float32",
    ),
    "StableMax": ({"stablemax": {}}, 0.0, "float32"),
    "StableMax and weight decay 1": ({"stablemax": {}}, 1.0, "float32"),
}  # fmt: skip

WORDS = """\
# Grokking

Written by `python -m benchmarks.grokking --write` from the rows of `python -m benchmarks.grokking`
(`benchmarks/results/grokking.jsonl`): addition modulo {p}, {share:.0%} of the {pairs} pairs for
training, perceptrons with two hidden layers of {width} and no biases, full batches, AdamW with a
learning rate of {lr} and the default betas. A run ends when {enough:.0%} of the test pairs are
right, or after {steps} steps. Ranges are over the seeds {seeds}.

**Machine.** {machine}; {device}.

- **fits**, **generalises**: first step (of those looked at, every {every}) with {enough:.0%} of the
  training, of the test pairs.
- **collapsed**: at the end, share of training samples whose softmax has rounded to 0 and 1
  (`tether.measure.softmax_saturation`).
- **radial**: at the end, cosine between step and weights
  (`tether.measure.weight_gradient_alignment`): 1 where a step only lengthens them. Measured after
  the gradients were made orthogonal, where they are.
"""

READING = """\
Without regularisation the training pairs are fitted within some tens of steps, and most of every
further step lengthens the weights. Without that part of the gradient the network generalises as
soon as it fits. StableMax has a loss and a gradient where softmax has none, but that alone did not
generalise in runs of this length (the paper's have 80 000 steps and more, with 113 numbers; see
`--help`), and with weight decay it was no faster than softmax. In float16 the softmax collapses and
the steps are no longer radial; it does not generalise either.
"""


def make_network(p: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2 * p, width, bias=False), nn.ReLU(), nn.Linear(width, width, bias=False),
        nn.ReLU(), nn.Linear(width, p, bias=False),
    )  # fmt: skip


def make_pairs(p: int, share: float, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One-hot pairs and their sums, for training and for test."""
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).T
    x, y = torch.cat([F.one_hot(a, p), F.one_hot(b, p)], 1).float(), (a + b) % p
    order = torch.randperm(p * p)
    train, test = order[: int(share * p * p)], order[int(share * p * p) :]
    made: tuple[Tensor, ...] = (x[train], y[train], x[test], y[test])
    first, second, third, fourth = (part.to(device) for part in made)
    return first, second, third, fourth


def run(arm: str, seed: int, setting: dict[str, Any]) -> dict[str, Any]:
    """One run to its end."""
    recipe, decay, dtype = ARMS[arm]
    torch.manual_seed(seed)
    p, steps, enough = setting["p"], setting["steps"], setting["enough"]
    x, y, test_x, test_y = make_pairs(p, setting["share"], setting["device"])
    net = make_network(p, setting["width"]).to(setting["device"])
    optimizer = torch.optim.AdamW(net.parameters(), lr=setting["lr"], weight_decay=decay)
    methods = [tether.create_method(name, **options) for name, options in recipe.items()]
    reg = tether.attach(net, methods, optimizer, total_steps=steps, nan_check="log")
    began = time.perf_counter()
    fits = generalises = None
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        logits = net(x)
        if dtype == "float32":
            loss = reg.loss(logits, y)
        else:
            loss = F.cross_entropy(logits.to(getattr(torch, dtype)), y)
        loss.backward()
        optimizer.step()
        if step % setting["every"] == 0 or step == steps:
            with torch.no_grad():
                train = float((logits.argmax(1) == y).float().mean())
                test = float((net(test_x).argmax(1) == test_y).float().mean())
            fits = step if fits is None and train >= enough else fits
            generalises = step if generalises is None and test >= enough else generalises
            if generalises is not None:
                break
    saturated = tether.measure.softmax_saturation(logits.to(getattr(torch, dtype)), y)
    return {
        "arm": arm, "seed": seed, "setting": setting, "fits": fits, "generalises": generalises,
        "steps": step, "train": train, "test": test, "collapsed": saturated.collapsed,
        "zero_loss": saturated.zero_loss, "largest_logit": float(logits.detach().abs().max()),
        "radial": tether.measure.weight_gradient_alignment(net).overall,
        "seconds": time.perf_counter() - began, "machine": describe_machine(),
    }  # fmt: skip


def known_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def page(rows: list[dict[str, Any]]) -> str:
    """The page of the rows of one setting."""
    setting, first = rows[0]["setting"], rows[0]
    seeds = sorted({row["seed"] for row in rows})
    cells = []
    for arm in ARMS:
        mine = [row for row in rows if row["arm"] == arm]
        if mine:
            cells.append([
                arm, _steps(mine, "fits"), _steps(mine, "generalises"),
                _range([100 * row["test"] for row in mine], 1),
                _range([100 * row["collapsed"] for row in mine], 0),
                _range([row["radial"] for row in mine], 2),
            ])  # fmt: skip
    heads = ["", "fits at step", "generalises at step", "test %", "collapsed %", "radial"]
    words = WORDS.format(
        **setting, pairs=setting["p"] ** 2, seeds=", ".join(map(str, seeds)),
        machine=", ".join(f"{key} {value}" for key, value in first["machine"].items()),
    )  # fmt: skip
    return f"{words}\n{_table(heads, cells)}\n\n{READING}"


def _steps(rows: list[dict[str, Any]], key: str) -> str:
    found = [row[key] for row in rows if row[key] is not None]
    if not found:
        return "never"
    lost = len(rows) - len(found)
    return _range(found, 0) + (f" ({lost} of {len(rows)} never)" if lost else "")


def _range(values: list[float], digits: int) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grokking", description=__doc__)
    parser.add_argument("--p", type=int, default=31)
    parser.add_argument("--share", type=float, default=0.6, help="of the pairs for training")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=10, help="steps between two looks")
    parser.add_argument("--enough", type=float, default=0.95, help="accuracy that ends a run")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="*", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help="only write the page of the rows")
    options = vars(parser.parse_args())
    torch.set_num_threads(1)
    names = ("p", "share", "width", "lr", "steps", "every", "enough", "device")
    setting = {name: options[name] for name in names}
    if not 0 < setting["share"] < 1 or setting["steps"] < 1 or not math.isfinite(setting["lr"]):
        parser.error("--share lies between 0 and 1, --steps is at least 1")
    if not options["write"]:
        made = {(r["arm"], r["seed"]) for r in known_rows() if r["setting"] == setting}
        for seed in options["seeds"]:
            for arm in options["arms"]:
                if (arm, seed) not in made:
                    row = run(arm, seed, setting)
                    with ROWS.open("a") as file:
                        file.write(json.dumps(row) + "\n")
                    print(f"{arm}, seed {seed}: test {row['test']:.3f} at {row['steps']}",
                          file=sys.stderr, flush=True)  # fmt: skip
        return 0
    rows = [row for row in known_rows() if row["setting"] == setting]
    if not rows:
        parser.error("no rows of this setting yet: run without --write first")
    PAGE.write_text(page(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
