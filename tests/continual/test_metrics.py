from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.reference import continual_twins as twins
from tether import continual
from tether.continual import SequenceResult

RNG = np.random.default_rng(0)


def matrix(size: int = 4) -> np.ndarray:
    return RNG.random((size, size))


def test_the_numbers_agree_with_their_twins() -> None:
    r, classes = matrix(), [2, 3, 1, 4]
    assert continual.global_forgetting(r, classes) == pytest.approx(
        twins.global_forgetting(r, classes)
    )
    assert continual.forgetting(r) == pytest.approx(twins.forgetting(r))
    assert continual.average_accuracy(r) == pytest.approx(r[-1].mean())
    assert continual.local_forgetting(r) == pytest.approx(np.mean(np.diag(r)[:-1] - r[-1, :-1]))
    gains = [r[n - 1, n] - 0.25 for n in (1, 2, 3)]
    assert continual.forward_transfer(r, [0.25] * 4) == pytest.approx(np.mean(gains))


def test_perfect_memory_forgets_nothing_and_total_loss_forgets_all() -> None:
    kept, lost = np.tril(np.ones((3, 3))), np.eye(3)
    assert continual.forgetting(kept) == continual.global_forgetting(kept, [1, 1, 1]) == 0.0
    assert continual.forgetting(lost) == 1.0
    assert continual.average_accuracy(lost) == pytest.approx(1 / 3)
    # sum over i=2..3 of the shares of the tasks before: (1/2 + 2/3) / 2
    assert continual.global_forgetting(lost, [1, 1, 1]) == pytest.approx(7 / 12)


def test_forward_transfer_needs_outputs_for_what_is_to_come() -> None:
    r = np.tril(np.ones((3, 3)))
    r[0, 1] = math.nan
    assert continual.forward_transfer(r, [0.1, 0.1, 0.1]) is None


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="a row and a column for each task"):
        continual.forgetting([[0.5, 0.5]])


def test_a_result_travels_as_json() -> None:
    nan = math.nan
    rows = [[0.9, nan], [0.5, 0.7]]
    found = SequenceResult(["a", "b"], [["x"], ["y"]], [10, 30], rows, rows, [nan, nan])
    kept = json.loads(json.dumps(found.as_json(), allow_nan=False))
    again = SequenceResult.from_json(kept)
    np.testing.assert_array_equal(again.matrix, rows)
    assert again.summary() == found.summary()
    assert found.final_accuracy == pytest.approx(0.65)
    assert kept["average_accuracy"] == pytest.approx(0.6) and kept["forward_transfer"] is None
