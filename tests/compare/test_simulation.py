"""Whole studies with a known truth: false findings are rare, true differences are found."""

import math

import numpy as np
import pytest

from tests.compare.studies import null_study, study
from tether.compare.power import paired_power
from tether.compare.summary import summarise

pytest.importorskip("scipy")
STUDIES = 500
#: 5 % and three standard errors of a share of 500.
BOUND = 0.05 + 3 * math.sqrt(0.05 * 0.95 / STUDIES)


@pytest.mark.parametrize(
    "shape",
    [
        {"cases": 1, "methods": 4, "seeds": 3},
        {"cases": 1, "methods": 4, "seeds": 5, "grid": 200},
        pytest.param({"cases": 3, "methods": 3, "seeds": 3, "heavy": True}, marks=pytest.mark.long),
        pytest.param({"cases": 6, "methods": 3, "seeds": 1}, marks=pytest.mark.long),
    ],
    ids=str,
)
def test_studies_without_a_difference_report_none(shape):
    rng = np.random.default_rng(1)
    wrong = raw = 0
    for _ in range(STUDIES):
        found = summarise(*null_study(rng, **shape))
        wrong += found.differs
        tests = [*found.comparisons, *found.across]
        raw += any(each.p <= 0.05 for each in tests)
    assert wrong / STUDIES <= BOUND
    if shape["methods"] > 3:  # the correction is what keeps it so low
        assert raw / STUDIES > BOUND


def test_every_pair_of_methods_is_kept_in_bounds_too():
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(200):
        rows, meta = null_study(rng, cases=1, methods=4, seeds=5)
        found = summarise(rows, {**meta, "comparisons": "all"})
        assert len(found.comparisons) == 6 == found.tests
        wrong += found.differs
    assert wrong / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_a_difference_of_one_standard_deviation_is_found():
    """Ten seeds; the exact power is 80.3 %, of which the share may miss by chance."""
    assert float(paired_power(1.0, 10)) > 0.80
    rng = np.random.default_rng(3)
    found = wrong_way = 0
    for _ in range(STUDIES):
        plain = rng.normal(0.7, 0.05, 10)
        better = plain + rng.normal(0.01, 0.01, 10)
        one = summarise(*study({"data": {"plain": plain, "elr": better}})).comparisons[0]
        found += one.verdict == "better"
        wrong_way += one.verdict == "worse"
    assert found / STUDIES >= 0.80 - 2 * math.sqrt(0.8 * 0.2 / STUDIES)
    assert wrong_way == 0
