"""Reading a run's history: samples that are forgotten, and the end of early learning.

Both take a matrix of epochs x training samples, recorded in evaluation mode under a fixed
transform, once an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike as Arrays
from numpy.typing import NDArray
from torch import Tensor

from tether.errors import ConfigError
from tether.measure.results import Record

Floats = NDArray[np.float64]

MEMORY = 0.5  # weight of earlier epochs in the running mean of a sample's loss
_NEAR = 2  # epochs around the turning point among which the checkpoint is chosen


def _history(values: Any, name: str) -> NDArray[Any]:
    try:
        rows = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} cannot be read as epochs x samples: {error}") from None
    if rows.ndim != 2 or 0 in rows.shape or rows.dtype.kind not in "biuf":
        raise ConfigError(
            f"{name} must be a matrix of numbers, epochs x samples, not of shape {rows.shape}"
        )
    return rows


@dataclass(frozen=True, eq=False)
class ForgettingEvents(Record):
    """What :func:`forgetting_events` returns; one entry a sample.

    Attributes:
        counts: times a sample went from right to wrong, int64 ``[N]``.
        learned: first epoch it was right, from 0; -1: never, int64 ``[N]``.
        never_learned: samples that never were right ``[N]``.
        unforgettable: samples learned and never forgotten ``[N]``.
        epochs: how many were seen.
    """

    counts: NDArray[np.int64]
    learned: NDArray[np.int64]
    never_learned: NDArray[np.bool_]
    unforgettable: NDArray[np.bool_]
    epochs: int


def forgetting_events(correct: Arrays | Tensor) -> ForgettingEvents:
    """How often each training sample was unlearned: right in one epoch, wrong in the next.

    Unforgettable samples can often be left out without loss; those forgotten most or never
    learned are the hard ones, and among them the wrong labels. With few epochs most samples are
    never forgotten: read the ranks, not the counts.

    ``counts_i = sum_e [c_ei = 1 and c_(e+1)i = 0]``

    Args:
        correct: whether the prediction was the given label, 0 or 1.

    Shape:
        E x N; a single epoch has no events.

    Cost:
        O(E N).

    Raises:
        ConfigError: not a matrix of 0 and 1.

    References:
        Mariya Toneva, Alessandro Sordoni, Remi Tachet des Combes, Adam Trischler, Yoshua Bengio,
        Geoffrey J. Gordon, "An Empirical Study of Example Forgetting during Deep Neural Network
        Learning", 2018, arXiv:1812.05159.

    Example:
        >>> found = forgetting_events([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
        >>> found.counts.tolist(), found.learned.tolist(), found.unforgettable.tolist()
        ([1, 0, 0], [0, 1, -1], [False, True, False])
    """
    rows = _history(correct, "correct")
    if not np.isin(rows, (0, 1)).all():
        raise ConfigError("correct must hold 0 and 1 only: compare predictions with the labels")
    right = rows.astype(bool)
    counts = (right[:-1] & ~right[1:]).sum(0, dtype=np.int64)
    ever: NDArray[np.bool_] = np.any(right, axis=0)
    learned = np.where(ever, right.argmax(0), -1).astype(np.int64)
    return ForgettingEvents(counts, learned, ~ever, ever & (counts == 0), len(rows))


def prediction_changes(predictions: Arrays | Tensor) -> Floats:
    """Share of training samples predicted otherwise than one epoch before.

    It falls while the network learns what samples have in common, and rises again when it begins
    to fit wrong labels one by one: its first low is another sign of the turning point.

    ``changes_e = mean_i [p_ei != p_(e-1)i]``, NaN for the first epoch.

    Args:
        predictions: predicted classes of all training samples, one row an epoch.

    Shape:
        E x N to E.

    Raises:
        ConfigError: not a matrix.

    References:
        Suqin Yuan, Lei Feng, Tongliang Liu, "Early Stopping Against Label Noise Without
        Validation Data", 2025, arXiv:2502.07551.

    Example:
        >>> prediction_changes([[0, 1], [0, 2], [1, 1]]).tolist()
        [nan, 0.5, 1.0]
    """
    rows = _history(predictions, "predictions")
    changes: Floats = np.full(len(rows), np.nan)
    changes[1:] = (rows[1:] != rows[:-1]).mean(1)
    return changes


def two_group_share(values: Arrays | Tensor) -> float:
    """How clearly numbers fall into two groups: the share of their variance between the groups.

    The best split of the sorted numbers in two (Otsu's threshold). 1: two points; 0.75 for a
    uniform and 0.64 for a normal distribution; NaN when all numbers are equal.

    ``max_t  p (1 - p) (mean_high - mean_low)^2 / var`` with p the share of numbers up to t.

    Args:
        values: n finite numbers.

    Cost:
        O(n log n).

    Raises:
        ConfigError: no numbers, or some that are not finite.

    References:
        Nobuyuki Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979.

    Example:
        >>> two_group_share([0.0, 0.0, 3.0, 3.0, 3.0])
        1.0
    """
    raw = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    numbers: Floats = np.sort(np.asarray(raw, dtype=np.float64).ravel())
    if not len(numbers) or not np.isfinite(numbers).all():
        raise ConfigError("a split in two groups needs finite numbers, and at least one")
    numbers -= numbers.mean()
    variance = float((numbers**2).mean())
    n = len(numbers)
    if not variance > 1e-300:
        return float("nan")
    low = np.arange(1, n) / n
    sums = np.cumsum(numbers)[:-1] / n  # centred: the upper group's sum is minus this
    return float(min((sums**2 / (low * (1 - low))).max() / variance, 1.0))


@dataclass(frozen=True, eq=False)
class TurningPoint(Record):
    """What :func:`turning_point` returns; epochs count from 0, rows of the history.

    Attributes:
        epoch: the estimated peak, from the training losses alone.
        checkpoint: the epoch within two of it whose own separation is largest: the one to keep.
        reached: whether later epochs confirm it; False where the curve had not been falling for
            ``patience`` epochs at the end of the history.
        separation: the curve it was read off, smoothed ``[E]``.
        validation_epoch: peak of the smoothed validation accuracy; None without one.
    """

    epoch: int
    checkpoint: int
    reached: bool
    separation: Floats
    validation_epoch: int | None


def turning_point(
    losses: Arrays | Tensor,
    validation: Arrays | Tensor | None = None,
    *,
    smooth: int = 3,
    patience: int = 10,
) -> TurningPoint:
    """The epoch at which early learning ends and wrong labels begin to be memorised.

    An estimate of where the accuracy on clean data peaks, without clean labels: keep the
    checkpoint from there, or start correcting labels before. While the network learns the rule,
    the losses of right and wrong labels drift apart; when it memorises, the high ones come down
    and the two groups merge. The estimate is the peak of how clearly the losses of the training
    samples, given labels, fall into two groups.

    Each sample's loss is averaged over epochs with weight 1/2 on the past, which evens out the
    last batches before an epoch's end; ``separation_e`` is :func:`two_group_share` of these
    means, smoothed by a centred moving average. The estimate is its first maximum that
    ``patience`` further epochs do not surpass: much later, when nearly everything is memorised,
    the few samples left over would make two groups again.

    It is rough where accuracy has a broad plateau, and means nothing on clean labels (there it
    marks where the fit of the easy samples ends). A validation accuracy, even against noisy
    labels, peaks at the same place when there are enough samples; its peak is told beside.

    Args:
        losses: loss of each training sample with its given label, after each epoch, in
            evaluation mode.
        validation: accuracy on held-out samples after each epoch; their labels may be as noisy.
        smooth: width of the moving average in epochs, odd, from 1.
        patience: epochs, from 1.

    Shape:
        ``losses``: E x N; ``validation``: E.

    Cost:
        O(E N log N), and one pass over the training samples for every epoch.

    Raises:
        ConfigError: no matrix, losses not finite, options out of range, another number of epochs.

    References:
        Sheng Liu, Jonathan Niles-Weed, Narges Razavian, Carlos Fernandez-Granda, "Early-Learning
        Regularization Prevents Memorization of Noisy Labels", 2020, arXiv:2007.00151 (early
        learning and memorisation).
        Nobuyuki Otsu, "A Threshold Selection Method from Gray-Level Histograms", 1979 (the
        separation). Their use together as an estimate is ours.

    Example:
        >>> right, wrong = [2.0, 1.0, 0.5, 0.3, 0.1], [2.1, 2.5, 3.0, 1.0, 0.2]
        >>> spread = np.linspace(-0.2, 0.2, 5)
        >>> rows = [[*(r + spread), *(w + spread)] for r, w in zip(right, wrong, strict=True)]
        >>> turning_point(rows, smooth=1).epoch
        2
    """
    rows = _history(losses, "losses").astype(np.float64)
    if not np.isfinite(rows).all():
        epoch = int(np.argwhere(~np.isfinite(rows))[0, 0])
        raise ConfigError(f"losses of epoch {epoch} are infinite or not numbers: cut there")
    if smooth < 1 or smooth % 2 == 0 or patience < 1:
        raise ConfigError(
            f"smooth must be odd and patience at least 1, not {smooth} and {patience}"
        )
    running, shares = rows[0], np.empty(len(rows))
    for epoch, row in enumerate(rows):
        running = MEMORY * running + (1 - MEMORY) * row
        shares[epoch] = two_group_share(running)
    shares = np.nan_to_num(shares, nan=0.0)
    curve = _smoothed(shares, smooth)
    epoch, reached = _first_peak(curve, patience)
    first = max(0, epoch - _NEAR)
    checkpoint = first + int(shares[first : epoch + _NEAR + 1].argmax())
    peak = None if validation is None else _validation_peak(validation, len(rows), smooth)
    return TurningPoint(epoch, checkpoint, reached, curve, peak)


def _validation_peak(validation: Arrays | Tensor, epochs: int, smooth: int) -> int:
    raw = torch.as_tensor(validation).detach().cpu().numpy()
    values = np.asarray(raw, dtype=np.float64)
    if values.shape != (epochs,) or not np.isfinite(values).all():
        raise ConfigError(f"validation must hold {epochs} finite numbers, one an epoch")
    return int(_smoothed(values, smooth).argmax())


def _smoothed(values: Floats, width: int) -> Floats:
    """Centred moving average; shorter at the ends."""
    half = width // 2
    parts = [values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))]
    return np.array(parts)


def _first_peak(curve: Floats, patience: int) -> tuple[int, bool]:
    best = 0
    for epoch, value in enumerate(curve):
        if value > curve[best]:
            best = epoch
        elif epoch - best >= patience:
            return best, True
    return best, False
