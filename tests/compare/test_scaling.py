import math

import numpy as np
import pytest

from tests.compare.studies import meta, rich_study, row
from tether.compare.power_law import fit_power_law
from tether.compare.scaling import crossing_points, find_crossing
from tether.compare.summary import summarise
from tether.compare.summary_scaling import find_scales

pytest.importorskip("scipy")
SIZES = 100 * 2.0 ** np.arange(6)


def law(a, b, c, x):
    return c + a * np.asarray(x, dtype=float) ** -b


def noisy(rng, curve, seeds=5, noise=0.01):
    return [value * (1 + noise * rng.normal(size=seeds)) for value in curve]


# --- power laws --------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "c"), [(5.0, 0.5, 0.05), (2.0, 0.3, 0.2), (1.0, 1.2, 0.0)])
def test_a_power_law_without_noise_is_recovered(a, b, c):
    found = fit_power_law(SIZES, law(a, b, c, SIZES))
    assert float(found.a) == pytest.approx(a, rel=0.01)
    assert float(found.b) == pytest.approx(b, rel=0.01)
    assert float(found.c) == pytest.approx(c, rel=0.01, abs=1e-4)


def test_three_sizes_fix_the_offset():
    x = SIZES[:3]
    found = fit_power_law(x, np.stack([law(3, 0.4, 0, x), law(2, 0.7, 0, x)]))
    assert found.c.tolist() == [0, 0] and found.b == pytest.approx([0.4, 0.7])
    assert found.at(1e4) == pytest.approx([float(law(3, 0.4, 0, 1e4)), float(law(2, 0.7, 0, 1e4))])


@pytest.mark.parametrize(
    ("x", "y"), [([1], [1]), ([1, 0], [1, 1]), ([1, 2], [1, 0]), ([1, 2], [1])]
)
def test_a_power_law_refuses_what_it_cannot_fit(x, y):
    with pytest.raises(ValueError):
        fit_power_law(x, y)


# --- crossings ---------------------------------------------------------------------------------


def test_the_closed_form_crossing_is_found():
    """Without offsets the log ratio is straight over log size, so the crossing is exact."""
    a, b = law(5, 0.5, 0, SIZES), law(2, 0.3, 0, SIZES)
    exact = (5 / 2) ** (1 / (0.5 - 0.3))
    assert 100 > exact > 90  # outside: not within the range measured
    near = np.concatenate([[50.0], SIZES])
    found = find_crossing(
        near, [[v] * 3 for v in law(5, 0.5, 0, near)], [[v] * 3 for v in law(2, 0.3, 0, near)]
    )
    assert found.at == pytest.approx(exact, rel=1e-6) and found.crossings == 1
    assert find_crossing(SIZES, [[v] for v in a], [[v] for v in b]).at is None


def test_scaling_the_sizes_scales_the_crossing():
    rng = np.random.default_rng(0)
    mine, its = noisy(rng, law(5, 0.5, 0.05, SIZES)), noisy(rng, law(2, 0.3, 0.02, SIZES))
    one, ten = find_crossing(SIZES, mine, its), find_crossing(10 * SIZES, mine, its)
    assert ten.at == pytest.approx(10 * one.at)
    assert ten.interval == pytest.approx([10 * end for end in one.interval])
    assert (ten.share, ten.lead_at_target) == (one.share, one.lead_at_target)


def test_the_order_of_sizes_does_not_matter():
    rng = np.random.default_rng(0)
    mine, its = noisy(rng, law(5, 0.5, 0.05, SIZES)), noisy(rng, law(2, 0.3, 0.02, SIZES))
    turned = find_crossing(SIZES[::-1], mine[::-1], its[::-1])
    assert turned.at == find_crossing(SIZES, mine, its).at


@pytest.mark.long
def test_the_interval_covers_the_crossing():
    """90 % intervals, 1 % noise, 100 repeats."""
    rng = np.random.default_rng(1)
    grid = np.geomspace(100, 3200, 100_001)
    exact = grid[np.abs(law(5, 0.5, 0.05, grid) - law(2, 0.3, 0.02, grid)).argmin()]
    hits = 0
    for _ in range(100):
        found = find_crossing(
            SIZES,
            noisy(rng, law(5, 0.5, 0.05, SIZES)),
            noisy(rng, law(2, 0.3, 0.02, SIZES)),
            level=0.9,
            resamples=300,
        )
        hits += found.interval[0] <= exact <= found.interval[1]
    assert 80 <= hits <= 97


def test_measured_curves_of_weight_decay_cross():
    """Digits, an MLP, test losses without and with weight decay 1e-2: a true crossing."""
    sizes = [50, 100, 200, 400, 800]
    rng = np.random.default_rng(0)
    decay = noisy(rng, np.array([0.651, 0.411, 0.316, 0.271, 0.259]), seeds=3, noise=0.02)
    none = noisy(rng, np.array([0.687, 0.371, 0.249, 0.170, 0.118]), seeds=3, noise=0.02)
    found = find_crossing(sizes, decay, none)
    assert found.crossings == 1 and 40 < found.at < 120
    assert 40 < found.interval[0] < found.at < found.interval[1] < 120
    assert found.share > 0.9
    assert found.target == 3200 and found.lead_at_target < 0.05


def test_equal_methods_are_not_settled():
    """The share of resamples in which one leads at the target spreads around one half."""
    rng = np.random.default_rng(2)
    curve = law(5, 0.5, 0.05, SIZES)
    leads = [
        find_crossing(SIZES, noisy(rng, curve), noisy(rng, curve), resamples=200).lead_at_target
        for _ in range(40)
    ]
    assert abs(np.mean(leads) - 0.5) < 0.15


def test_zero_losses_and_rising_curves_are_not_extrapolated():
    found = find_crossing([1, 2, 4], [[0.0, 0.0, 0.0]] * 3, [[0.1, 0.2, 0.1]] * 3)
    assert found.at is None and math.isnan(found.target) and found.fits is None
    rising = find_crossing([1, 2, 4], [[1.0] * 3, [2.0] * 3, [3.0] * 3], [[2.0] * 3] * 3)
    assert rising.fits is None and rising.at == pytest.approx(2.0)


def test_touching_is_no_crossing():
    assert np.isnan(crossing_points(np.array([1.0, 2, 4]), np.array([[1.0, 0.0, 1.0]]))).all()
    through = crossing_points(np.array([1.0, 2, 4]), np.array([[1.0, 0.0, -1.0]]))
    assert through[0, 0] == pytest.approx(2.0) and np.isnan(through[0, 1])
    assert np.isnan(crossing_points(np.array([1.0, 2, 4]), np.zeros((1, 3)))).all()


def test_too_few_seeds_get_no_interval():
    found = find_crossing([1, 4], [[1.0, 1.0], [0.5, 0.5]], [[0.8, 0.8], [0.8, 0.8]])
    assert found.at is not None and found.interval is None and math.isnan(found.share)


@pytest.mark.parametrize(
    ("sizes", "options", "words"),
    [([1], {}, "two or more"), ([1, 1], {}, "two or more"), ([0, 1], {}, "above zero"),
     ([1, 2], {"target": 21}, "beyond 10 times")],
)  # fmt: skip
def test_what_cannot_be_asked(sizes, options, words):
    losses = [[0.1, 0.2, 0.3]] * len(sizes)
    with pytest.raises(ValueError, match=words):
        find_crossing(sizes, losses, losses, **options)
    with pytest.raises(ValueError, match="every size needs a loss"):
        find_crossing([1, 2], [[0.1], [float("nan")]], [[0.1], [0.1]])


# --- in a study --------------------------------------------------------------------------------


def test_a_study_over_sizes_is_checked():
    found = summarise(*rich_study(trials=0))
    checks = {check.method: check for check in found.scaling}
    crossing = checks["adarand+elr"]
    assert crossing.verdict == "crossing" and crossing.axis == "training samples"
    assert 200 < crossing.crossing.interval[0] < crossing.crossing.at < 3200
    assert checks["l2-sp"].verdict == "no crossing within the range measured"


def test_a_change_of_leader_by_chance_is_not_settled():
    gaps = {100: [0.03, -0.01, 0.02], 400: [-0.03, 0.01, -0.01]}
    rows = [
        row(f"d {size}", method, seed, 0.7 + (gap if method == "elr" else 0.0),
            case={"model": "m", "data": "d", "limit_train": size})
        for size, row_of in gaps.items() for seed, gap in enumerate(row_of)
        for method in ("plain", "elr")
    ]  # fmt: skip
    found = summarise(rows, meta(["plain", "elr"], ["d 100", "d 400"]))
    assert found.scaling[0].crossing.at is not None and found.scaling[0].crossing.share < 0.95
    assert found.scaling[0].verdict == "crossing not settled" and not found.differs


def test_sizes_from_the_study_come_first():
    rows = [
        row(f"net {k}", method, seed, 0.5 + 0.1 * k + 0.01 * seed, case={"model": f"net{k}",
            "data": "d"})
        for k in range(3) for method in ("plain", "elr") for seed in range(3)
    ]  # fmt: skip
    assert find_scales(rows, {}) == []
    sizes = {f"net {k}": {"parameters": 10**k} for k in range(3)}
    found = summarise(rows, meta(["plain", "elr"], list(sizes), sizes=sizes))
    assert found.scaling[0].axis == "parameters of the model"
    assert found.scaling[0].crossing.sizes == (1.0, 10.0, 100.0)


def test_other_data_or_noise_is_another_scale():
    parts = [("a", "", 100), ("a", "", 200), ("b", "", 100), ("a", "symmetric:0.4", 200)]
    rows = [
        {"case_id": str(part), "case": {"model": "m", "data": part[0], "noise": part[1],
                                        "limit_train": part[2]}}
        for part in parts
    ]  # fmt: skip
    found = find_scales(rows, {})
    assert len(found) == 1 and list(found[0].sizes.values()) == [100.0, 200.0]
