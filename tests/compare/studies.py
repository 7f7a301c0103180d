"""Invented studies: rows as the engine writes them, with known truth."""

from __future__ import annotations

import numpy as np


def row(case_id, method, seed, score, **more):
    base = {
        "case": {"model": "m", "data": case_id, "noise": "", "shots": 0, "limit_train": 0},
        "case_id": case_id,
        "method": method,
        "kind": "final",
        "trial": None,
        "seed": seed,
        "settings": {},
        "status": "done",
        "error": "",
        "metric": "accuracy",
        "higher_is_better": True,
        "validation": {"accuracy": score},
        "test": {"accuracy": score},
        "which": "last",
        "best_epoch": 3.0,
        "curve": [[1.0, 0.3], [2.0, 0.5]],
        "per_class": {},
        "seconds": 12.0,
        "memory_mib": 600.0,
        "key": f"{case_id}-{method}-{seed}",
    }
    return {**base, **more}


def meta(methods, cases, **more):
    base = {
        "name": "invented",
        "metric": "accuracy",
        "higher_is_better": True,
        "methods": list(methods),
        "cases": list(cases),
        "baseline": methods[0],
        "seeds": 0,
        "trials": 0,
        "spaces": {},
        "fingerprints": {},
        "versions": {"tether": "0"},
        "machine": {"cpu": "one"},
        "config": "name: invented\n",
        "failed": 0,
    }
    return {**base, **more}


def study(table, **more):
    """Rows and meta from case -> method -> scores, one a seed."""
    rows = [
        row(case, method, seed, score)
        for case, methods in table.items()
        for method, scores in methods.items()
        for seed, score in enumerate(scores)
    ]
    methods = list(dict.fromkeys(each["method"] for each in rows))
    return rows, meta(methods, list(table), **more)


def null_study(rng, *, cases, methods, seeds, grid=0, heavy=False):
    """Scores in which no method differs: case, seed and chance, and nothing else.

    Args:
        rng: source of randomness.
        cases: number of data sets.
        methods: number of methods, the baseline included.
        seeds: number of seeds.
        grid: size of a test set, on whose multiples accuracies lie; 0 for none.
        heavy: now and then a run goes badly wrong, for every method alike.
    """
    table = {}
    for case in range(cases):
        level = rng.uniform(0.5, 0.9)
        shared = rng.normal(0, 0.02, seeds)
        rows = {}
        for method in range(methods):
            noise = 0.02 * (rng.standard_t(2, seeds) if heavy else rng.normal(size=seeds))
            scores = np.clip(level + shared + noise, 0, 1)
            if grid:
                scores = rng.binomial(grid, scores) / grid
            rows[f"m{method}"] = scores.tolist()
        table[f"c{case}"] = rows
    return study(table)


NASTY = "<script>alert(1)</script>"
METHODS = ("plain", "adarand+elr", "l2-sp", NASTY, "טלאי", "mixup 🧪")


def rich_study(*, sizes=(200, 800, 3200), seeds=5, trials=12, classes=True):
    """A study with everything: sizes, trials, curves, classes, failures, awkward names."""
    rng = np.random.default_rng(0)
    rows, cases = [], [f"clothes, {size} images" for size in sizes]
    classes_of = ["coat", "<b>shoe</b>", "bag", "حذاء", "hat"] if classes else []
    for place, (case, size) in enumerate(zip(cases, sizes, strict=True)):
        parts = {"model": "tiny", "data": "clothes", "noise": "", "shots": 0, "limit_train": size}
        lifts = (0.0, 0.05 - 0.04 * place, 0.004, -0.03 + 0.03 * place, 0.0, 0.001)
        shared = rng.normal(0, 0.01, seeds)
        for method, lift in zip(METHODS, lifts, strict=True):
            space = {"lr": 1e-3, "weight": 1.0, "kind": "a"}
            for trial in range(trials):
                tried = {
                    "lr": float(10 ** rng.uniform(-4, -1)),
                    "weight": float(rng.uniform(0, 3)),
                    "kind": "ab"[trial % 2],
                }
                score = 0.7 - 0.05 * abs(np.log10(tried["lr"]) + 2.5) + rng.normal(0, 0.01)
                status = "failed" if method == "l2-sp" and trial == 0 else "done"
                rows.append(
                    row(case, method, 0, score, kind="trial", trial=trial, settings=tried, test={},
                        status=status, case=parts)
                )  # fmt: skip
            for seed in range(seeds):
                score = 0.65 + 0.08 * place + lift + shared[seed] + rng.normal(0, 0.006)
                curve = [[e, score * (1 - 0.6 * np.exp(-e / 2))] for e in range(1, 11)]
                each = {name: score + rng.normal(0, 0.03) for name in classes_of}
                more = {"status": "failed", "error": "out of memory", "test": {}}
                bad = method == "l2-sp" and seed == 1 and place == 0
                rows.append(
                    row(case, method, seed, score, settings=space, curve=curve, per_class=each,
                        case=parts, **(more if bad else {}))
                )  # fmt: skip
    spaces = {
        method: {
            "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
            "weight": {"type": "float", "low": 0.0, "high": 3.0, "log": False},
            "kind": {"type": "choice", "choices": ["a", "b"]},
        }
        for method in METHODS
    }
    prints = {case: {"train": "3f2a", "validation": "77b1", "test": "09cc"} for case in cases}
    config = "name: clothes\nmethods: [plain, adarand+elr]\n# <script>alert(2)</script>\n"
    return rows, meta(METHODS, cases, spaces=spaces, fingerprints=prints, config=config,
                      command="tether compare --config study.yaml")  # fmt: skip
