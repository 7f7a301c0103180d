import math

import numpy as np
import pytest

from tests.reference import compare_twins as twins
from tether.compare.intervals import bootstrap_interval, resampled_means, t_interval
from tether.compare.power import detectable_difference, paired_power, seeds_needed
from tether.compare.ranks import (
    average_ranks,
    critical_difference,
    friedman_p,
    rank_groups,
    rank_methods,
)
from tether.compare.statistics import (
    effect_size,
    holm,
    paired_test,
    sign_flip_p,
    wilcoxon_p,
    win_tie_loss,
)

stats = pytest.importorskip("scipy.stats")
NAN = float("nan")


@pytest.mark.parametrize("n", [3, 4, 5, 9])
def test_agrees_with_the_slow_twins(n):
    rng = np.random.default_rng(n)
    for _ in range(3):
        values = rng.normal(0.3, 1.0, n).tolist()
        assert paired_test(values).p == pytest.approx(twins.paired_t_p(values), abs=1e-6)
        assert sign_flip_p(values) == pytest.approx(twins.sign_flip_p(values), abs=1e-12)
        assert effect_size(values) == pytest.approx(twins.effect_size(values), abs=1e-12)
        assert t_interval(values) == pytest.approx(twins.t_interval(values), abs=1e-6)
        p = rng.uniform(size=n).tolist()
        assert holm(p).tolist() == pytest.approx(twins.holm(p), abs=1e-12)


def test_tests_over_cases_agree_with_the_slow_twins():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(7, 4))
    assert average_ranks(table) == pytest.approx(twins.average_ranks(table))
    expected = stats.chi2.sf(twins.friedman_statistic(table), 3)
    assert friedman_p(table) == pytest.approx(expected, abs=1e-9)
    for values in (
        rng.normal(0.5, 1, 8).tolist(),
        [0.0, 0.1, 0.1, -0.1, 0.3, 0.2, 0.0],  # ties and zeros
    ):
        assert wilcoxon_p(values) == pytest.approx(twins.wilcoxon_p(values), abs=1e-9)


def test_power_agrees_with_the_slow_twin():
    for effect, n in ((1.0, 10), (0.5, 5), (2.0, 4)):
        bound = float(stats.t.ppf(0.975, n - 1))
        twin = twins.paired_power(effect, n, bound)
        assert float(paired_power(effect, n)) == pytest.approx(twin, abs=1e-4)
    # A textbook value: one standard deviation and ten pairs.
    assert float(paired_power(1.0, 10)) == pytest.approx(0.8031, abs=1e-4)


def test_power_does_not_break_far_out():
    found = paired_power(np.array([0.3, 30.0, 300.0]), np.array([1000, 1000, 3]))
    assert np.isfinite(found).all() and (found > 0.999).all()


def test_seeds_needed_is_the_smallest_number():
    for effect in (0.2, 0.5, 1.0, 3.0):
        n = seeds_needed(effect, 1.0, level=0.01)
        assert float(paired_power(effect, n, level=0.01)) >= 0.8
        assert n == 3 or float(paired_power(effect, n - 1, level=0.01)) < 0.8
    assert seeds_needed(0.001, 1.0) is None
    assert seeds_needed(0.0, 1.0) is None and seeds_needed(NAN, 1.0) is None
    assert seeds_needed(0.1, 0.0) == 3
    assert seeds_needed(-0.5, 1.0) == seeds_needed(0.5, 1.0)


def test_detectable_difference_has_the_power_asked_for():
    reach = detectable_difference(2.0, 7, level=0.01)
    assert float(paired_power(reach / 2.0, 7, level=0.01)) == pytest.approx(0.8, abs=1e-6)
    assert math.isnan(detectable_difference(1.0, 2))


# --- awkward input -----------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[], [0.1], [0.1, 0.2], [0.1, NAN, 0.2], [math.inf, 0.1, 0.2]])
def test_too_few_pairs_get_no_interval(values):
    assert paired_test(values).name == "none" and math.isnan(paired_test(values).p)
    assert t_interval(values) is None and bootstrap_interval(values) is None
    assert math.isnan(effect_size(values))


def test_bootstrap_needs_six():
    assert bootstrap_interval([0.1, 0.2, 0.3, 0.2, 0.1]) is None
    assert bootstrap_interval([0.1, 0.2, 0.3, 0.2, 0.1, 0.3]) is not None


def test_no_spread():
    same = paired_test([0.0] * 5)
    assert (same.name, same.p, effect_size([0.0] * 5)) == ("identical", 1.0, 0.0)
    # Differences of equal scores that only rounding tells apart.
    rounded = [0.81 - 0.80, 0.31 - 0.30, 0.11 - 0.10]
    assert len(set(rounded)) > 1
    test = paired_test(rounded)
    assert test.name == "sign flip" and test.p == 0.25
    assert math.isnan(effect_size(rounded))
    assert t_interval(rounded) == pytest.approx((0.01, 0.01))
    assert paired_test([0.1] * 20).p == pytest.approx(2.0**-19)


def test_win_tie_loss_knows_rounding_and_direction():
    values = [0.3 - 0.2 - 0.1, 0.1, -0.2, NAN]
    assert values[0] != 0
    assert win_tie_loss(values) == (1, 1, 1)
    assert win_tie_loss([0.1, 0.2, -0.1], higher_is_better=False) == (1, 0, 2)


def test_holm_leaves_out_what_was_not_tested():
    corrected = holm([0.01, NAN, 0.02])
    assert corrected[[0, 2]].tolist() == [0.02, 0.02] and math.isnan(corrected[1])
    assert holm([]).size == 0


def test_bootstrap_covers():
    """95 % intervals of skewed values with eight seeds, over 400 repeats."""
    rng = np.random.default_rng(0)
    hits = {"t": 0, "bootstrap": 0}
    for _ in range(400):
        values = rng.gamma(4.0, 1.0, 8)
        for name, (low, high) in (
            ("t", t_interval(values)),
            ("bootstrap", bootstrap_interval(values)),
        ):
            hits[name] += low <= 4.0 <= high
    assert 0.90 <= hits["t"] / 400 <= 0.98
    assert 0.90 <= hits["bootstrap"] / 400 <= 0.98


def test_bootstrap_repeats_itself():
    values = [0.1, 0.5, 0.2, 0.9, 0.3, 0.3]
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_many_values_are_resampled_in_parts():
    values = np.random.default_rng(0).normal(1.0, 2.0, 3000)
    means = resampled_means(values, 500)
    assert means.shape == (500,)
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)
    assert means.std() == pytest.approx(values.std() / math.sqrt(3000), rel=0.15)
    low, high = bootstrap_interval(values[:500])
    assert t_interval(values[:500]) == pytest.approx((low, high), abs=0.03)


# --- ranks -------------------------------------------------------------------------------------


def test_critical_difference_is_that_of_the_paper():
    """Demšar 2006, table 5: q(0.05) of 2 to 10 methods."""
    q = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for k, quantile in zip(range(2, 11), q, strict=True):
        expected = quantile * math.sqrt(k * (k + 1) / 60)
        assert critical_difference(k, 10) == pytest.approx(expected, abs=2e-3)


def test_rank_groups_are_the_longest_runs():
    average = {"d": 4.0, "a": 1.0, "c": 2.4, "b": 1.9}
    assert rank_groups(average, 1.0) == (("a", "b"), ("b", "c"))
    assert rank_groups(average, 9.0) == (("a", "b", "c", "d"),)
    assert rank_groups(average, 0.1) == ()


def test_ranks_leave_out_cases_with_a_gap():
    means = {
        "x": {"a": 0.9, "b": 0.8},
        "y": {"a": 0.9},
        "z": {"a": 0.3, "b": NAN},
        "w": {"a": 0.7, "b": 0.7 + 1e-15},  # a rounding is a tie
    }
    found = rank_methods(means, ["a", "b"])
    assert found.cases == ("x", "w") and found.left_out == ("y", "z")
    assert found.average == {"a": 1.25, "b": 1.75}
    assert math.isnan(found.friedman_p)
    down = rank_methods(means, ["a", "b"], higher_is_better=False)
    assert down.average == {"a": 1.75, "b": 1.25}
    assert rank_methods({"x": means["x"]}, ["a", "b"]) is None


def test_friedman_of_equal_methods_is_one():
    assert friedman_p(np.ones((5, 4))) == 1.0
    assert math.isnan(friedman_p(np.ones((2, 4)))) and math.isnan(friedman_p(np.ones((5, 2))))
