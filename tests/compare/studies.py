"""Invented studies: rows as the engine writes them, with known truth."""

from __future__ import annotations

import numpy as np


def row(case, method, seed, score, **more):
    base = {
        "case": {"model": "m", "data": case, "noise": "", "shots": 0, "limit_train": 0},
        "case_id": case,
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
        "key": f"{case}-{method}-{seed}",
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
