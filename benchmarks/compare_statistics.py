"""The command ``python -m benchmarks.compare_statistics``: how sound the findings are, how fast.

Simulated studies in which nothing differs, and how many of them report a difference; studies with
a true difference, and how many find it; then the page of 10 000 runs, its seconds and memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.compare.studies import meta, null_study, row, study
from tether.compare.page import write_report
from tether.compare.summary import summarise
from tether.files import read_rows, write_rows

RESULTS = Path(__file__).parent / "results" / "compare_statistics.json"
NULLS: tuple[dict[str, Any], ...] = (
    {"cases": 1, "methods": 2, "seeds": 3},
    {"cases": 1, "methods": 2, "seeds": 5},
    {"cases": 1, "methods": 2, "seeds": 10},
    {"cases": 1, "methods": 5, "seeds": 3},
    {"cases": 1, "methods": 5, "seeds": 5},
    {"cases": 1, "methods": 5, "seeds": 10},
    {"cases": 1, "methods": 5, "seeds": 5, "grid": 50},
    {"cases": 1, "methods": 5, "seeds": 5, "heavy": True},
    {"cases": 3, "methods": 4, "seeds": 5},
    {"cases": 6, "methods": 4, "seeds": 3},
    {"cases": 10, "methods": 4, "seeds": 1},
)
POWERS = ((5, 1.0), (10, 1.0), (10, 0.5), (20, 1.0))  # seeds, standard deviations


def false_findings(shape: dict[str, Any], studies: int, seed: int) -> dict[str, Any]:
    """Share of studies without a difference that report one; all pairs, and against a baseline."""
    found = {}
    for comparisons in ("baseline", "all"):
        rng = np.random.default_rng(seed)
        wrong = 0
        for _ in range(studies):
            rows, about = null_study(rng, **shape)
            wrong += summarise(rows, {**about, "comparisons": comparisons}).differs
        found[comparisons] = wrong / studies
    return {**shape, **found}


def findings(seeds: int, effect: float, studies: int, seed: int) -> dict[str, Any]:
    """Share of studies with a true difference that report it."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(studies):
        plain = rng.normal(0.7, 0.05, seeds)
        better = plain + rng.normal(0.01 * effect, 0.01, seeds)
        summary = summarise(*study({"data": {"plain": plain, "elr": better}}))
        found += summary.comparisons[0].verdict == "better"
    return {"seeds": seeds, "effect": effect, "found": found / studies}


def many_runs(folder: Path, cases: int, methods: int, seeds: int, trials: int) -> dict[str, Any]:
    """Seconds to load the runs of a large study and to write its page."""
    rng = np.random.default_rng(0)
    names = [f"method {place}" for place in range(methods)]
    places = [f"case {place}" for place in range(cases)]
    rows, tried = [], {"lr": 1e-3}
    for place, case in enumerate(places):
        parts = {"model": "m", "data": "d", "limit_train": 100 * (place + 1)}
        for name in names:
            for trial in range(trials):
                tried = {"lr": float(10 ** rng.uniform(-4, -1)), "epochs": int(rng.integers(5, 20))}
                rows.append(
                    row(case, name, 0, float(rng.uniform(0.5, 0.8)), kind="trial", trial=trial,
                        settings=tried, test={}, case=parts)
                )  # fmt: skip
            for seed in range(seeds):
                score = float(rng.uniform(0.6, 0.7))
                curve = [[epoch, score * (1 - 0.5**epoch)] for epoch in range(1, 30)]
                classes = {f"class {k}": score + float(rng.normal(0, 0.02)) for k in range(20)}
                rows.append(
                    row(case, name, seed, score, settings=tried, case=parts, curve=curve,
                        per_class=classes)
                )  # fmt: skip
    path = folder / "results.jsonl"
    write_rows(path, rows)
    count = len(rows)
    del rows
    start, used = time.perf_counter(), time.process_time()
    page = write_report(read_rows(path), meta(names, places), folder)
    return {
        "runs": count, "cases": cases, "methods": methods, "seeds": seeds, "trials": trials,
        "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - used,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "page_mib": page.stat().st_size / 2**20,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_statistics")
    parser.add_argument("--studies", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("null", "power", "page"), default=None)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    from tether.machine import describe_machine

    found: dict[str, Any] = {"studies": options.studies, "seed": options.seed}
    found["machine"] = describe_machine("scipy", "matplotlib")
    if options.only in (None, "page"):  # first: the peak of memory is that of the process
        with tempfile.TemporaryDirectory() as place:
            found["page"] = many_runs(Path(place), 10, 10, 20, 80)
            print(found["page"], flush=True)
    if options.only in (None, "null"):
        found["null"] = []
        for shape in NULLS:
            found["null"].append(false_findings(shape, options.studies, options.seed))
            print(found["null"][-1], flush=True)
    if options.only in (None, "power"):
        found["power"] = [findings(n, e, options.studies, options.seed) for n, e in POWERS]
        print(found["power"], flush=True)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
