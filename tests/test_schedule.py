"""Schedulable numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether import Schedule

numbers = st.floats(-100, 100).map(lambda v: round(v, 3))
shares = st.floats(0, 1)


@given(numbers, numbers, shares)
def test_curves_run_from_a_to_b(a, b, t):
    low, high = min(a, b), max(a, b)
    for name in ("linear", "cosine"):
        curve = Schedule(f"{name}({a}, {b})")
        assert math.isclose(curve(0.0), a, abs_tol=1e-9)
        assert math.isclose(curve(1.0), b, abs_tol=1e-9)
        assert low - 1e-9 <= curve(t) <= high + 1e-9
        assert curve.needs_horizon


def test_each_curve():
    assert Schedule(0.5)(0.9) == 0.5
    assert Schedule("0.5")(0.9) == 0.5
    assert Schedule("constant(2)")(0.3) == 2
    assert Schedule("cosine(1, 0)")(0.5) == pytest.approx(0.5)
    assert Schedule("exponential(1, 0.01)")(0.5) == pytest.approx(0.1)
    assert [Schedule("step(1, 0, 0.5)")(t) for t in (0.0, 0.49, 0.5, 1.0)] == [1, 1, 0, 0]
    assert [Schedule("warmup(2, 0.5)")(t) for t in (0.0, 0.25, 0.5, 1.0)] == [0, 1, 2, 2]
    assert Schedule("warmup(2, 0)")(0.0) == 2
    assert Schedule(lambda t: 3 * t)(0.5) == 1.5
    assert Schedule("linear(1, 0)")(1.7) == 0  # progress is clamped


def test_what_needs_a_horizon():
    free = [1, 0.5, "3", "constant(2)"]
    assert not any(Schedule(spec).needs_horizon for spec in free)
    assert all(Schedule(spec).needs_horizon for spec in ["linear(1, 0)", lambda t: t])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cosin(1, 0)", "unknown schedule 'cosin"),
        ("cosine(1)", "cosine takes 2 values, got 1"),
        ("cosine(a, b)", "values must be numbers"),
        ("exponential(1, 0)", "between positive values"),
        ("", "unknown schedule"),
        (None, "a number, a curve or a callable"),
        (True, "a number, a curve or a callable"),
    ],
)
def test_bad_schedules(spec, message):
    with pytest.raises(ValueError, match=message):
        Schedule(spec)
