"""What the demo shows, on the code path and the seeds that it uses."""

import os

import numpy as np
import pytest

from tether.demo.experiments import FEW_SHOT, NOISY, PLAIN
from tether.demo.pool import run_all
from tether.demo.summary import Results

SEEDS = range(2 if os.environ.get("TETHER_LONG") else 1)
pytestmark = pytest.mark.slow


def results_of(experiment, methods):
    jobs = [(experiment.name, method, seed) for seed in SEEDS for method in methods]
    runs = run_all(jobs)
    picked = {method: experiment.methods[method] for method in methods}
    return Results(experiment.__class__(**{**vars(experiment), "methods": picked}), runs)


def test_wrong_labels_are_not_memorised():
    results = results_of(NOISY, (PLAIN, "ELR", "RegSL"))
    assert 0.3 < results.wrong_share < 0.4
    assert results.mean(PLAIN, "memorized") > 0.8
    for method in ("ELR", "RegSL"):
        gains = results.gains(method)
        assert np.mean(gains) > 0.10 + 0.05  # the promise, and a margin for other processors
        assert min(gains) > 0.05
        assert results.mean(method, "memorized") < 0.25
        assert results.mean(method, "correction_precision") > 0.75
        assert results.mean(method, "correction_recall") > 0.65


@pytest.mark.long
def test_few_labels_go_further_and_features_keep_their_size():
    results = results_of(FEW_SHOT, (PLAIN, "FNP", "AdaRand"))
    assert np.mean(results.gains("AdaRand")) > 0.02
    before = results.mean(PLAIN, "norm_before")
    assert results.mean("FNP", "norm") < 0.3 * before
    assert results.mean("FNP", "entropy") < results.mean(PLAIN, "entropy") - 50
    assert 0.75 * before < results.mean("AdaRand", "norm") < 1.33 * before
    assert results.mean("AdaRand", "entropy") > results.mean(PLAIN, "entropy") - 20
