"""When wrong labels begin to be memorised, and so when correcting them should have begun."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tether.errors import ConfigError
from tether.tuning.metrics import LESS

#: Most epochs by which a later one must not surpass the turning point; fewer in a short run.
PATIENCE = 10


@dataclass(frozen=True)
class StartEpochs:
    """First epochs of the parts of ``regsl``, counted from 1.

    Attributes:
        turning: the epoch at which early learning ends.
        reweighting: of the confidence reweighting.
        correction: of the label correction.
        source: what the turning point was read off: ``"losses"`` or ``"validation"``.
    """

    turning: int
    reweighting: int
    correction: int
    source: str


def start_epochs(
    history: Sequence[Mapping[str, Any]], metric: str, losses: NDArray[Any] | None = None
) -> StartEpochs:
    """Start epochs from an unconstrained run.

    The turning point is read off the losses of the training samples
    (:func:`tether.measure.turning_point`) where they were recorded, and later epochs confirm it;
    else it is the best epoch on the validation split. Reweighting starts half-way to it, the
    correction at it.

    Args:
        history: rows of ``metrics.jsonl``.
        metric: which validation metric chose the best epoch.
        losses: of the training samples, epochs x samples; NaN where one was not seen.

    Example:
        >>> rows = [{"validation_accuracy": v} for v in (0.5, 0.7, 0.8, 0.82, 0.8)]
        >>> start_epochs(rows, "accuracy")
        StartEpochs(turning=4, reweighting=2, correction=4, source='validation')
    """
    values = [row[f"validation_{metric}"] for row in history]
    told = [value if value is not None else float("nan") for value in values]
    best = np.nanargmin(told) if metric in LESS else np.nanargmax(told)
    turning, source = int(best) + 1, "validation"
    found = None if losses is None else _from_losses(losses)
    if found is not None:
        turning, source = found, "losses"
    reweighting = max(1, ceil(turning / 2))
    return StartEpochs(turning, reweighting, max(turning, reweighting + 1), source)


def _from_losses(losses: NDArray[Any]) -> int | None:
    """The turning point, None where the end of the run doesn't confirm one."""
    from tether.measure import turning_point

    seen = losses[:, np.isfinite(losses).all(0)]
    if not seen.size:
        return None
    found = turning_point(seen, patience=max(1, min(PATIENCE, len(seen) // 4)))
    return found.epoch + 1 if found.reached else None


def recorded_losses(run: Path) -> NDArray[Any] | None:
    """Losses of the training samples in every epoch of a run; None where none were recorded."""
    from tether.labels.record import FOLDER, read_record

    try:
        return read_record(run / FOLDER).column("loss")
    except ConfigError:
        return None
