"""The command ``python -m benchmarks.encode``: the measured profile as constraints, on real data.

For each case a plain run is measured; its profile becomes radii by depth group, whose ratio is
searched on the validation split (``tether encode --tune 7``): eight training runs with the plain
one. Against it stands a grid of eight single radii for all layers (``distance_constraint``), spread
evenly on a logarithmic scale from a tenth of the smallest measured distance of a depth group to the
largest. The last runs compare pretrained and random weights at the start: both are fine-tuned, then
noise is put on the weights.

Settings are those of ``benchmarks.real_runs`` but for the validation split, which is used whole.
Every run is a ``tether.tune`` in one thread. Finished rows are kept and not repeated; ``--most 1``
ends after one run, so that others may use the machine in between.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.real_runs import IMAGES, SHARED, TEXTS, located, mobilenet, read

RESULTS = Path(__file__).parent / "results" / "encode.jsonl"
GRID, TRIALS, SIGMA, DRAWS, SAMPLES = 8, 7, 1e-2, 10, 128
NOISE = "symmetric:0.4"
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A data set, its settings, and what differs where training begins with random weights."""

    name: str
    noise: str
    settings: Row
    random: Row = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.name}-{self.noise.replace(':', '-') or 'clean'}"


def cases() -> list[Case]:
    images = {**IMAGES, **mobilenet("035"), "data": "$SHARED/data/clothing"}
    # drawn statistics of norm layers are none, and frozen random layers can't be made up for
    bare = {
        "weights": "", "model_args": {**IMAGES["model_args"], "pretrained": False},
        "freeze_norm": "none",
    }  # fmt: skip
    texts = {**TEXTS, "model": "$MINILM", "data": "$SHARED/data/trec"}
    texts_bare = {"model_args": {"pretrained": False}, "freeze": ""}
    return [
        Case("clothing", "", {**images, "lr": 1e-3}, bare),
        Case("trec", NOISE, {**texts, "lr": 1e-4}, texts_bare),
        Case("clothing", NOISE, {**images, "lr": 1e-4}, bare),
    ]  # fmt: skip


class Bench:
    """The runs of a case on a seed; each call of a step makes one of them.

    Args:
        case: what is trained.
        seed: of all runs.
        work: folder for the runs.
        path: file of the rows.
    """

    def __init__(self, case: Case, seed: int, work: Path, path: Path) -> None:
        self.case, self.seed, self.path = case, seed, path
        self.work = work / f"{case.key}-{seed}"
        self.rows = [r for r in read(path) if (r["case"], r["seed"]) == (case.key, seed)]

    def found(self, kind: str) -> list[Row]:
        return [row for row in self.rows if row["kind"] == kind]

    def steps(self) -> Iterator[Callable[[], None]]:
        """What is to be done next, one run each."""
        if not self.found("plain"):
            yield self.plain
        for start in ("pretrained", "random"):
            if not any(row["start"] == start for row in self.found("stability")):
                yield lambda start=start: self.stability(start)
        done = {row["radius"] for row in self.found("single")}
        grid = [radius for radius in self.grid() if radius not in done]
        trials = len(self.found("encoded"))
        # in turns, so that half of them tell something
        if trials < TRIALS and (trials <= len(done) or not grid):
            yield lambda: self.encoded(trials + 1)
        elif grid:
            yield lambda: self.single(grid[0])

    def grid(self) -> list[float]:
        distances = [d for d in self.found("plain")[0]["distances"].values() if d > 0]
        low, high = math.log(0.1 * min(distances)), math.log(max(distances))
        exact = [math.exp(low + (high - low) * k / (GRID - 1)) for k in range(GRID)]
        return [float(f"{radius:.4g}") for radius in exact]

    # -- runs ------------------------------------------------------------------------------------

    def settings(self, name: str, **own: Any) -> Row:
        given = {**self.case.settings, "limit_validation": 0, **own}
        return {
            **{key: located(value) for key, value in given.items()}, "noise": self.case.noise,
            "seed": self.seed, "save_total_limit": 0, "device": "cpu",
            "output_dir": str(self.work / name),
        }  # fmt: skip

    def add(self, kind: str, result: Any, **more: Any) -> None:
        metric = result.metric
        scores = {
            which: {split: values[metric] for split, values in getattr(result, which).items()}
            for which in ("best", "last")
        }
        self.write(kind, **scores, best_epoch=result.best_epoch, seconds=result.seconds, **more)

    def write(self, kind: str, **more: Any) -> None:
        row = {"case": self.case.key, "seed": self.seed, "kind": kind, **more}
        self.rows.append(row)
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row)[:300], file=sys.stderr, flush=True)

    def plain(self) -> None:
        from tether.encode import measured_profile
        from tether.tuning.job import tune

        # kept for the steps that follow; a finished one is taken as it is
        result = tune(self.settings("plain", export="none"), resume=True)
        profile = measured_profile(self.work / "plain")
        curve = [row["validation_accuracy"] for row in result.history]
        self.add("plain", result, distances=profile.distances, curve=curve)

    def single(self, radius: float) -> None:
        from tether.tuning.job import tune

        method = {"distance_constraint": {"radius": radius}}
        given = self.settings("single", methods=[method], export="none")
        self.add("single", tune(given, overwrite=True), radius=radius)

    def encoded(self, number: int) -> None:
        from tether.encode.search import Search

        if not (self.work / "plain").is_dir():
            sys.exit(f"{self.work / 'plain'} has gone: remove its rows from {self.path}")
        results = []
        search = Search(self.work / "plain")
        search.after = lambda trial, result: results.append((trial, result))
        search.run(number)
        for trial, result in results:
            self.add("encoded", result, ratio=trial.ratio)

    def stability(self, start: str) -> None:
        """Noise on the weights of the best epoch; the plain run is the pretrained one."""
        from tether.tuning.job import tune
        from tether.tuning.opened import open_run

        name, own = ("random", self.case.random) if start == "random" else ("plain", {})
        result = tune(self.settings(name, export="none", **own), resume=True)
        opened = open_run(self.work / name)
        self.add("stability", result, start=start, sigma=SIGMA, **perturbed(opened))


def perturbed(opened: Any) -> Row:
    """Loss on training samples without and with noise on the weights; the same noise for both."""
    from torch.utils.data import DataLoader

    from tether.measure.noise_stability import noise_stability

    made = opened.assembly
    found: Row = {}
    for name, data in (("train", made.plain), ("validation", made.splits["validation"])):
        measured = noise_stability(
            opened.model, DataLoader(data, 64, collate_fn=made.collate), sigmas=[SIGMA],
            draws=DRAWS, max_samples=SAMPLES,
        )  # fmt: skip
        found[name] = {
            "loss": measured.loss, "perturbed": float(measured.curve.perturbed[0]),
            "increase": float(measured.curve.increase[0]),
            "standard_error": float(measured.curve.standard_error[0]),
        }  # fmt: skip
    return {"noise": found}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.encode", description=__doc__)
    parser.add_argument("--cases", nargs="*", help="keys such as clothing-clean (default all)")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--most", type=int, default=10**6, help="runs before it ends")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tether-encode")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not (SHARED / "data").is_dir():
        parser.error(f"no data in {SHARED}: set TETHER_SHARED")
    import torch

    torch.set_num_threads(1)
    left = options.most
    for case in cases():
        if options.cases and case.key not in options.cases:
            continue
        for seed in options.seeds:
            while left:
                step = next(Bench(case, seed, options.work, options.output).steps(), None)
                if step is None:
                    break
                step()
                left -= 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
