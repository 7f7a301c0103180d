"""The command ``python -m benchmarks.encode_page``: the rows of ``benchmarks.encode`` as a page."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.encode import GRID, RESULTS, SIGMA, TRIALS, cases
from benchmarks.real_runs import read

PAGE = Path(__file__).parents[1] / "docs" / "results" / "encode.md"
INTRO = """\
# Encoded constraints on real data

Written by `python -m benchmarks.encode_page` from the rows of `python -m benchmarks.encode`
(`benchmarks/results/encode.json`). Settings are those of the [real runs](real_runs.md) with the
whole validation split: MobileNetV2 with ImageNet weights at 96 pixels on ten kinds of clothes, the
sentence encoder MiniLM on TREC, 400 training samples each. Every run has one thread.

**Machine.** {machine}. It did other work beside, so seconds are not given.

Three things are asked. Do distances grow with depth under plain fine-tuning? Do radii of that
shape, with a searched ratio ({trials} trials and the measured run), validate at least as well as
the best of {grid} single radii for all layers (`distance_constraint`, after Gouk et al.)? And is a
network that began with pretrained weights more stable under noise of σ = {sigma:g} on its weights
than one that began with random ones? Scores are those of the best epoch; the head is free in all of
them. One seed is one observation: a difference of a few samples means nothing.

## The digits, which anyone can run

`tests/diagnose/test_encode_figures.py` asks the same of `demo:digits` (40 % of 400 labels drawn
anew, 12 epochs), a network of three layers, in which the answers are less clear:

- Relative to the pretrained weights, and in the MARS norm, distances grow with depth; plain
  Frobenius distances do **not** (layer1 11.2, layer2 10.0 on seed 0): the digits are turned there,
  so the first layer has the most to learn.
- Pretrained weights end at the lower loss under noise of σ = 0.01 (1.138 against 1.259 on seed 0,
  1.098 against 1.178 on seed 1), as they do without noise. The *increase* by the noise is **not**
  smaller (0.0046 against 0.0045, 0.0049 against 0.0046).
- The best of seven ratios does **not** beat the best of eight single radii: validation 96.0 against
  97.0 %, 84.8 against 84.8 % and 87.9 against 89.9 % on seeds 0, 1 and 2 (a sample is 1 %). The
  profile of this network is nearly flat, so both search the same number.
"""


def page(rows: Sequence[dict[str, Any]], machine: str) -> str:
    """The whole page."""
    text = [INTRO.format(machine=machine, trials=TRIALS, grid=GRID, sigma=SIGMA)]
    for case in cases():
        mine = [row for row in rows if row["case"] == case.key]
        text.append(f"## {case.name}, {case.noise or 'clean labels'}\n")
        if not mine:
            text.append(f"Not run yet: `python -m benchmarks.encode --cases {case.key}`.\n")
        for seed in sorted({row["seed"] for row in mine}):
            text += section(case.key, seed, [row for row in mine if row["seed"] == seed])
    return "\n".join(text)


def section(case: str, seed: int, rows: list[dict[str, Any]]) -> list[str]:
    plain = next(row for row in rows if row["kind"] == "plain")
    distances = plain["distances"]
    values = list(distances.values())
    grown = [b > a for a, b in itertools.pairwise(values)]
    name = f"encode-{case}-{seed}.svg"
    draw(PAGE.parent / name, distances, rows)
    text = [
        f"**Seed {seed}.** ![Distance by depth group, and validation accuracy]({name})",
        "",
        "| depth group | typical distance of a weight tensor |",
        "|---|---|",
        *(f"| {group} | {value:.3f} |" for group, value in distances.items()),
        "",
        f"- Distances: {sum(grown)} of {len(grown)} steps in depth go up; the last group moved "
        f"{values[-1] / values[0]:.1f} times as far as the first.",
    ]
    return [*text, *against_the_grid(plain, rows), *under_noise(rows), ""]


def against_the_grid(plain: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    of = {kind: [row for row in rows if row["kind"] == kind] for kind in ("single", "encoded")}
    if not all(of.values()):
        return ["- Single radii and encoded radii: not run yet."]
    best = {
        kind: max(found, key=lambda row: row["best"]["validation"]) for kind, found in of.items()
    }
    single, encoded = best["single"]["best"], best["encoded"]["best"]
    complete = len(of["single"]) == GRID and len(of["encoded"]) == TRIALS
    reached = encoded["validation"] >= single["validation"]
    verdict = ("reached" if reached else "**missed**") if complete else "not complete"
    return [
        f"- Validation (test) accuracy: best of {len(of['single'])} single radii "
        f"{_percent(single)} (radius {best['single']['radius']:g}); best of {len(of['encoded'])} "
        f"ratios {_percent(encoded)} (ratio {best['encoded']['ratio']:.2g}); without constraints "
        f"{_percent(plain['best'])}. At least the best single radius: {verdict}.",
    ]


def under_noise(rows: list[dict[str, Any]]) -> list[str]:
    of = {row["start"]: row for row in rows if row["kind"] == "stability"}
    if len(of) < 2:
        return ["- Noise on the weights: not run yet."]
    told = []
    for start in ("pretrained", "random"):
        noise = of[start]["noise"]["train"]
        told.append(
            f"{start} {noise['perturbed']:.3f} (without noise {noise['loss']:.3f}, increase "
            f"{noise['increase']:.4f} ± {noise['standard_error']:.4f})"
        )
    first, second = (of[start]["noise"]["train"] for start in ("pretrained", "random"))
    both = [first[key] < second[key] for key in ("perturbed", "increase")]
    verdict = {
        2: "by both",
        1: f"by the {'loss' if both[0] else 'increase'} alone",
        0: "by neither",
    }
    return [
        f"- Training loss with noise of σ = {SIGMA:g}: {'; '.join(told)}. Pretrained is the more "
        f"stable {verdict[sum(both)]}.",
    ]


def _percent(scores: dict[str, float]) -> str:
    return f"{100 * scores['validation']:.1f} ({100 * scores['test']:.1f}) %"


def draw(path: Path, distances: dict[str, float], rows: list[dict[str, Any]]) -> None:
    """Distances by depth on the left; what single radii and ratios reach on the right."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = path.name
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    left.barh(list(distances), list(distances.values()), color="#3b6ea5")
    left.invert_yaxis()
    left.set_xlabel("typical distance of a weight tensor")
    for kind, key, mark in (("single", "radius", "o-"), ("encoded", "ratio", "s")):
        found = sorted((r[key], r["best"]["validation"]) for r in rows if r["kind"] == kind)
        if found:
            label = "single radius" if kind == "single" else "ratio of the profile"
            right.semilogx(*zip(*found, strict=True), mark, label=label)
    plain = next(row for row in rows if row["kind"] == "plain")["best"]["validation"]
    right.axhline(plain, color="grey", linewidth=1, label="no constraint")
    right.set_xlabel("radius, or ratio")
    right.set_ylabel("validation accuracy")
    right.legend(fontsize=8)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def main() -> int:
    from tether.files import write_json, write_text
    from tether.machine import describe_machine

    rows = list(read(RESULTS))
    machine = describe_machine("timm", "transformers")
    write_json(RESULTS.with_suffix(".json"), {"machine": machine, "rows": rows})
    write_text(PAGE, page(rows, ", ".join(f"{key} {value}" for key, value in machine.items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
