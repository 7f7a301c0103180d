"""Numbers of a sequence of tasks, from the matrix of accuracies after each task on each task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]


def average_accuracy(matrix: ArrayLike) -> float:
    """Mean over the tasks of the accuracy at the end: of the last row.

    Args:
        matrix: ``[N, N]``: row i, after task i; column n, on the test data of task n.

    Example:
        >>> average_accuracy([[0.9, float("nan")], [0.5, 0.7]])
        0.6
    """
    return float(np.mean(_square(matrix)[-1]))


def forgetting(matrix: ArrayLike) -> float:
    """How far the tasks before the last have fallen from their best, on average.

    ``1/(N-1) sum_{n<N} (max_{n<=i<N} R_{i,n} - R_{N,n})``; 0 for one task. Below 0 where tasks have
    gained since.

    Example:
        >>> forgetting([[0.9, float("nan")], [0.5, 0.7]])
        0.4
    """
    r = _square(matrix)
    falls = [np.max(r[n:-1, n]) - r[-1, n] for n in range(len(r) - 1)]
    return round(float(np.mean(falls)), 12) if falls else 0.0


def local_forgetting(matrix: ArrayLike) -> float:
    """How far the tasks before the last have fallen since they were learnt, on average.

    ``1/(N-1) sum_{n<N} (R_{n,n} - R_{N,n})``, usually of accuracies with the task known; minus the
    backward transfer.

    Example:
        >>> local_forgetting([[0.9, float("nan")], [0.5, 0.7]])
        0.4
    """
    r = _square(matrix)
    falls = [r[n, n] - r[-1, n] for n in range(len(r) - 1)]
    return round(float(np.mean(falls)), 12) if falls else 0.0


def global_forgetting(matrix: ArrayLike, classes: Sequence[int]) -> float:
    """Loss of accuracy over all rows, tasks weighted by their share of the classes seen so far.

    ``1/(N-1) sum_{i=2..N} sum_{n<i} |T_n| / |T_1..i| (R_{n,n} - R_{i,n})``: accuracies among all
    classes seen, without the task being known.

    Args:
        matrix: as for :func:`average_accuracy`.
        classes: number of classes of each task.

    Example:
        >>> global_forgetting([[0.9, float("nan")], [0.5, 0.7]], [2, 2])
        0.2
    """
    r, counts = _square(matrix), np.asarray(classes, dtype=np.float64)
    total = 0.0
    for i in range(1, len(r)):
        for n in range(i):
            total += counts[n] / counts[: i + 1].sum() * (r[n, n] - r[i, n])
    return round(float(total / max(len(r) - 1, 1)), 12)


def forward_transfer(matrix: ArrayLike, start: ArrayLike) -> float | None:
    """What the tasks before bring a task that was not trained on yet.

    ``1/(N-1) sum_{n>1} (R_{n-1,n} - b_n)``; None where a number of it was not measured, as for
    classes that the head had no outputs for.

    Args:
        matrix: as for :func:`average_accuracy`; usually of accuracies with the task known.
        start: accuracy ``b_n`` on every task before the first one.

    Example:
        >>> forward_transfer([[0.9, 0.6], [0.5, 0.7]], [0.5, 0.5])
        0.1
    """
    r, b = _square(matrix), np.asarray(start, dtype=np.float64)
    gains = [r[n - 1, n] - b[n] for n in range(1, len(r))]
    if not gains or not np.isfinite(gains).all():
        return None
    return round(float(np.mean(gains)), 12)


def _square(matrix: ArrayLike) -> Matrix:
    r = np.asarray(matrix, dtype=np.float64)
    if r.ndim != 2 or r.shape[0] != r.shape[1] or not len(r):
        raise ValueError(
            f"a matrix of accuracies has a row and a column for each task, not {r.shape}"
        )
    return r
