"""The entropy estimate against the known entropy of normal features: its bias, and its spread."""

from __future__ import annotations

import math

import pytest
import torch

from tether.measure import feature_entropy


def truth(d):
    return d / 2 * math.log(2 * math.pi * math.e)


def expectation(d):
    """Of the estimate: 1 + log c_d + d E log |x - x'|, with |x - x'|^2 twice a chi-square."""
    log_ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    digamma = float(torch.digamma(torch.tensor(d / 2, dtype=torch.float64)))
    return 1 + log_ball + d / 2 * (2 * math.log(2) + digamma)


def estimates(n, d, repeats):
    g = torch.Generator().manual_seed(1000 * n + d)
    draws = torch.randn(repeats, n, d, generator=g, dtype=torch.float64)
    return torch.stack([feature_entropy(x) for x in draws])


@pytest.mark.parametrize("d", [1, 2, 8, 32])
@pytest.mark.parametrize(("n", "repeats"), [(3, 600), (20, 200), (200, 20)])
def test_its_mean_does_not_depend_on_the_number_of_samples(n, d, repeats):
    found = estimates(n, d, repeats)
    error = float(found.std()) / math.sqrt(repeats)
    assert float(found.mean()) == pytest.approx(expectation(d), abs=4 * error)
    assert error < 0.35  # tight enough to tell


def test_its_bias_grows_with_the_dimensions_and_its_spread_falls_with_samples():
    bias = [expectation(d) - truth(d) for d in (1, 2, 8, 32)]
    assert bias[0] == pytest.approx(1.404 - 1.419, abs=1e-3)
    # 0.1, 1.6, and 9.3 nats too much: compare features of equally many dimensions
    assert bias[1:] == pytest.approx([0.116, 1.619, 9.275], abs=1e-3)
    for d in (1, 8):
        assert float(estimates(200, d, 20).std()) < 0.4 * float(estimates(20, d, 200).std())
