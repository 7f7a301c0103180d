"""Neural collapse against slow twins, exact frames, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import analysis_twins as twins
from tether.errors import ConfigError
from tether.measure import (
    ClassMoments,
    nearest_mean,
    neural_collapse,
    self_duality,
    simplex_deviation,
)

NUMBERS = ("nc1", "nc1_trace", "nc1_cdnv", "nc2_norm", "nc2_angle", "nc2_angle_spread", "nc2_frame")


def data(seed, n=30, d=5, k=4):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), rng.integers(0, k, n - k)])
    return rng.normal(size=(n, d)) + 2 * rng.normal(size=(k, d))[y], y


def turn(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 7), st.sampled_from(["class", "sample"]))
def test_all_numbers_agree_with_the_twins(seed, d, weighting):
    f, y = data(seed, d=d)
    rng = np.random.default_rng(seed + 1)
    head, logits = rng.normal(size=(4, d)), rng.normal(size=(len(f), 4))
    found = neural_collapse(f, y, head, logits, weighting=weighting)
    variability, centred = twins.collapse(f, y, weighting)
    wanted = variability | {f"nc2_{name}": v for name, v in twins.simplex(centred).items()}
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-6, rel=1e-8), name
    nc3 = np.linalg.norm(head / np.linalg.norm(head) - centred / np.linalg.norm(centred))
    assert found["nc3"] == pytest.approx(nc3, abs=1e-9)
    assert found["nc4"] == twins.nearest_mismatch(f, y, logits)


@pytest.mark.parametrize(("k", "d", "copies"), [(2, 3, 4), (4, 3, 5), (10, 16, 3)])
def test_an_exact_simplex_is_fully_collapsed(k, d, copies):
    corners = math.sqrt(k / (k - 1)) * (np.eye(k) - 1 / k)
    # rotate into d dimensions (K - 1 are enough), move, and scale
    frame = np.linalg.svd(corners)[0][:, : k - 1]
    m = corners @ frame @ np.eye(k - 1, d) @ turn(d)
    f, y = np.tile(3 * m + 7, (copies, 1)), np.tile(np.arange(k), copies)
    found = neural_collapse(f, y, m, (f - 7) @ m.T)
    for name in (*NUMBERS, "nc3", "nc4"):
        assert found[name] == pytest.approx(0.0, abs=1e-6), name
    cosine = (m[0] @ m[1]) / (m[0] @ m[0])
    assert cosine == pytest.approx(-1 / (k - 1))
    assert found["num_classes"] == k and found["missing"] == []


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-50, 50))
def test_rotation_scale_shift_and_order_change_nothing(seed, scale, shift):
    f, y = data(seed)
    rng = np.random.default_rng(seed)
    head, logits = rng.normal(size=(4, 5)), rng.normal(size=(len(f), 4))
    base = neural_collapse(f, y, head, logits)
    q = turn(5, seed)
    moved = neural_collapse(scale * f @ q + shift, y, 3 * head @ q, logits)
    order = rng.permutation(len(f))
    shuffled = neural_collapse(f[order], y[order], head, logits[order])
    names = rng.permutation(4)
    back = np.argsort(names)
    renamed = neural_collapse(f, names[y], head[back], logits[:, back])
    for name, value in base.items():
        if name != "missing":
            for other in (moved, shuffled, renamed):
                assert other[name] == pytest.approx(value, rel=1e-6, abs=1e-8), name


def test_nc1_is_blind_to_linear_maps_of_the_span_and_its_trace_form_is_not():
    f, y = data(3, d=3)  # K - 1 dimensions: the means span them all
    a = np.random.default_rng(0).normal(size=(3, 3))
    base, mapped = neural_collapse(f, y), neural_collapse(f @ a, y)
    assert mapped["nc1"] == pytest.approx(base["nc1"])
    assert abs(mapped["nc1_trace"] / base["nc1_trace"] - 1) > 0.05


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_streamed_moments_equal_those_at_once_in_any_order_and_over_processes(seed, size):
    f, y = (torch.as_tensor(part) for part in data(seed))
    whole = ClassMoments(5, 5)
    whole.update(f, y)
    ranks = [ClassMoments(5, 5), ClassMoments(5, 5)]
    chunks = list(zip(f.split(size), y.split(size), strict=True))[::-1]
    for i, (part, index) in enumerate(chunks):
        ranks[i % 2].update(part, index)
    ranks[0].merge(ranks[1])
    for name in ("counts", "means", "spread"):
        torch.testing.assert_close(
            getattr(ranks[0], name), getattr(whole, name), atol=1e-9, rtol=1e-9
        )
    assert whole.missing() == [4]


def test_nearly_collapsed_features_far_from_the_origin_keep_their_digits():
    f, y = data(0)
    near = neural_collapse(1e-4 * f, y)["nc1_trace"]
    assert neural_collapse(1e-4 * f + 1e6, y)["nc1_trace"] == pytest.approx(near, rel=1e-3)


def test_missing_classes_are_told_and_change_nothing():
    f, y = data(1)
    rng = np.random.default_rng(2)
    head, logits = rng.normal(size=(4, 5)), rng.normal(size=(len(f), 4))
    base = neural_collapse(f, y, head, logits)
    spread = np.array([0, 2, 3, 6])  # the same classes under names with gaps
    wide_head, wide_logits = np.full((8, 5), 9.0), np.full((len(f), 8), 99.0)
    wide_head[spread], wide_logits[:, spread] = head, logits
    found = neural_collapse(f, spread[y], wide_head, wide_logits)
    assert found.pop("missing") == [1, 4, 5, 7] and found["num_classes"] == 4
    assert found == pytest.approx({k: v for k, v in base.items() if k != "missing"})
    assert neural_collapse(f, y, num_classes=6)["missing"] == [4, 5]


@pytest.mark.parametrize(
    ("f", "y"),
    [
        (np.ones((1, 3)), [0]),  # one sample
        (np.random.default_rng(0).normal(size=(6, 3)), [2] * 6),  # one class
        (np.full((6, 3), 0.1), [0, 1] * 3),  # constant features
        (np.zeros((6, 3)), [0, 1] * 3),
    ],
)
def test_nothing_between_classes_is_not_a_number(f, y):
    found = neural_collapse(f, np.array(y), np.ones((3, 3)), np.ones((len(f), 3)))
    for name in (*NUMBERS, "nc3"):
        assert math.isnan(found[name]), name
    assert 0 <= found["nc4"] <= 1


def test_a_class_of_one_sample_has_no_spread():
    f, y = np.array([[0.0], [2.0], [9.0]]), np.array([0, 0, 1])
    assert neural_collapse(f, y)["nc1_trace"] == pytest.approx(0.5 * 1 / 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": np.full((3, 2), np.nan)}, "not numbers in 3 of 3 rows"),
        ({"features": np.ones(3)}, "samples x dimensions"),
        ({"targets": np.array([0, 1])}, "lengths differ"),
        ({"targets": np.array([0, -100, 1])}, "leave ignored rows out"),
        ({"head_weight": np.ones((3, 5))}, "weight has shape"),
        ({"head_weight": np.ones((2, 2)), "logits": np.ones((3, 4))}, "not clear"),
        ({"head_weight": np.ones((1, 2))}, "1 classes"),
        ({"logits": np.ones((2, 2))}, "logits have 2 rows"),
        ({"weighting": "mean"}, "'class' or 'sample'"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(arguments, message):
    given_ = {"features": np.eye(3, 2), "targets": np.array([0, 1, 1])} | arguments
    with pytest.raises(ConfigError, match=message):
        neural_collapse(**given_)


def test_parts_refuse_what_does_not_fit():
    with pytest.raises(ConfigError, match="at least one class"):
        ClassMoments(0, 3)
    moments = ClassMoments(2, 3)
    with pytest.raises(ConfigError, match="those before had 3"):
        moments.update(torch.ones(2, 4), torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match="there are 2 classes"):
        moments.update(torch.ones(2, 3), torch.tensor([0, 2]))
    with pytest.raises(ConfigError, match="do not merge"):
        moments.merge(ClassMoments(3, 3))
    with pytest.raises(ConfigError, match="dimensions"):
        nearest_mean(torch.ones(2, 3), torch.ones(2, 4))
    assert math.isnan(self_duality(torch.zeros(2, 2), torch.eye(2)))
    assert math.isnan(simplex_deviation(torch.ones(1, 2))["angle"])


def test_features_tied_to_their_start_collapse_as_the_tie_loosens():
    rng = np.random.default_rng(0)
    k, n, d = 4, 25, 10
    means = rng.normal(size=(d, k))
    start = np.repeat(means, n, axis=1) + 0.7 * rng.normal(size=(d, k * n))
    y = np.repeat(np.arange(k), n)
    rows = [neural_collapse(start.T, y)]
    moved = [0.0]
    for beta, sweeps in ((1.0, 100), (0.1, 300), (0.01, 1000), (0.001, 6000)):
        h, _ = twins.feature_model(start, np.eye(k)[y].T, 0.005, 0.001, beta, sweeps)
        rows.append(neural_collapse(h.T, y))
        moved.append(np.linalg.norm(h - start) / np.linalg.norm(start))
    # found once for these draws: NC1~ (the trace form) and NC1 as the tie loosens
    trace, full = [1.106, 0.974, 0.749, 0.644, 0.207], [0.410, 0.258, 0.110, 0.041, 2e-4]
    assert [row["nc1_trace"] for row in rows] == pytest.approx(trace, abs=2e-3)
    assert [row["nc1"] for row in rows] == pytest.approx(full, abs=1e-3)
    for name in ("nc1", "nc1_trace"):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True)
    assert moved == sorted(moved) and rows[-1]["nc1"] < 0.01 * rows[0]["nc1"]
