"""How good a regression is where its training labels are many, medium and few."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tether.errors import ConfigError
from tether.measure.checks import ArrayLike
from tether.measure.results import Record


@dataclass(frozen=True)
class ShotRegion(Record):
    """Errors in one region of the labels.

    Attributes:
        samples: test samples in it.
        mae: mean absolute error; NaN without samples.
        gmean: geometric mean of the absolute errors; NaN without samples.
    """

    samples: int
    mae: float
    gmean: float


@dataclass(frozen=True)
class ShotMetrics(Record):
    """What :func:`shot_metrics` returns.

    Attributes:
        all: every test sample.
        many: labels of more than ``many`` training samples.
        medium: those in between.
        few: labels of fewer than ``few`` training samples, none among them.
        balanced_mae: mean over the bins of labels of the error in each.
    """

    all: ShotRegion
    many: ShotRegion
    medium: ShotRegion
    few: ShotRegion
    balanced_mae: float


def shot_metrics(
    predictions: ArrayLike, targets: ArrayLike, train_targets: ArrayLike, *,
    resolution: float | None = None, many: int = 100, few: int = 20,
) -> ShotMetrics:  # fmt: skip
    """Errors of a regression by how many training samples have a like label.

    The mean error over test samples that are distributed like the training samples hides what
    happens to rare labels. Labels are counted in bins of one resolution.

    ``gmean = exp(mean_i log |error_i|)``: small when most errors are small, whatever a few are.

    Args:
        predictions: of the test samples.
        targets: their labels.
        train_targets: labels of the training samples.
        resolution: width of a bin, above 0; None: a fiftieth of the range of the training labels.
            The papers count years one by one.
        many: more training samples than this in a bin: many-shot (the papers: 100).
        few: fewer than this: few-shot (the papers: 20).

    Shape:
        n, n and m numbers.

    Cost:
        O(n + m).

    Raises:
        ConfigError: lengths that differ, values not finite, thresholds out of order.

    References:
        Yuzhe Yang, Kaiwen Zha, Ying-Cong Chen, Hao Wang, Dina Katabi, "Delving into Deep Imbalanced
        Regression", ICML 2021, arXiv:2102.09554.

    Example:
        >>> found = shot_metrics([0.0, 5.0], [1.0, 9.0], [1.0] * 30 + [9.0], resolution=1, many=25)
        >>> found.many.mae, found.few.mae, found.all.mae, found.balanced_mae
        (1.0, 4.0, 2.5, 2.5)
    """
    guess, true, train = (
        _numbers(values, name)
        for values, name in ((predictions, "predictions"), (targets, "targets"),
                             (train_targets, "training targets"))
    )  # fmt: skip
    if len(guess) != len(true):
        raise ConfigError(f"lengths differ: {len(guess)} predictions, {len(true)} targets")
    if not 0 <= few <= many + 1:
        raise ConfigError(f"few must lie between 0 and many, not few={few} and many={many}")
    low = float(train.min())
    width = resolution if resolution is not None else (float(train.max()) - low) / 50
    if not (math.isfinite(width) and width > 0):
        raise ConfigError(f"resolution must be above 0, got {width}; give the width of a bin")
    place = ((true - low) / width).floor().long()
    bins, counts = torch.unique(((train - low) / width).floor().long(), return_counts=True)
    at = torch.searchsorted(bins, place).clamp(max=len(bins) - 1)
    seen = torch.where(bins[at] == place, counts[at], 0)
    error = (guess - true).abs()
    each = [error[place == one].mean() for one in torch.unique(place)]
    middle = (seen >= few) & (seen <= many)
    return ShotMetrics(
        _region(error), _region(error[seen > many]), _region(error[middle]),
        _region(error[seen < few]), float(torch.stack(each).mean()),
    )  # fmt: skip


def _numbers(values: ArrayLike, name: str) -> torch.Tensor:
    found = torch.as_tensor(values).detach().cpu().double().flatten()
    if not len(found) or not bool(torch.isfinite(found).all()):
        raise ConfigError(f"{name} must be finite numbers, at least one")
    return found


def _region(error: torch.Tensor) -> ShotRegion:
    if not len(error):
        return ShotRegion(0, math.nan, math.nan)
    return ShotRegion(
        len(error), float(error.mean()), float(error.clamp(min=1e-12).log().mean().exp())
    )
