"""What is known of each training sample of a run: what trained it, and what its neighbours say.

Every opinion is about a sample without its own label, or from before the network could learn it
by heart: probabilities of a linear classifier out of fold and votes of the nearest samples, both
on the features that the run began with and on those it ended with, and the mean of the
probabilities that the training forwards gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tether.labels.folds import out_of_fold
from tether.labels.neighbours import Neighbours, nearest, unit_rows, votes
from tether.labels.record import Record

#: Neighbours that vote.
VOTERS = 20
#: Share of a uniform distribution in the training forwards' mean, so that none is zero.
_FLOOR = 1e-3
Array = NDArray[np.float64]


@dataclass
class Signals:
    """Opinions about the labels of the training samples.

    Attributes:
        given: class indices int64 ``[n]``, or 0/1 ``[n, K]``.
        classes: K.
        opinions: name -> log-probabilities ``[n, K]``; with several labels a sample, logits.
        near: nearest samples by the features that the run ended with, or None.
        units: those features as unit vectors ``[n, d]``, or None.
        record: what training said, or None.
    """

    given: NDArray[np.int64]
    classes: int
    opinions: dict[str, Array] = field(default_factory=dict)
    near: Neighbours | None = None
    units: Tensor | None = None
    record: Record | None = None

    @property
    def several(self) -> bool:
        """Whether a sample may have several labels."""
        return self.given.ndim == 2

    def together(self) -> Array:
        """Logarithms of the mean probability over all opinions; with several labels, logits."""
        return mean_of(list(self.opinions.values()), self.several)

    def unlearnt(self) -> list[Array]:
        """Opinions that training could not bend towards the labels, their mean last.

        They tell the noise rate: a network that has learnt wrong labels by heart agrees with them.
        """
        names = [name for name in self.opinions if "pretrained" in name]
        chosen = [self.opinions[name] for name in names or self.opinions]
        first = chosen[:1] if len(chosen) > 1 else []
        return [*first, mean_of(chosen, self.several)]


def mean_of(opinions: list[Array], several: bool) -> Array:
    """The mean of probabilities that are given as logarithms, or as logits."""
    if several:
        shares = np.mean([0.5 * (1.0 + np.tanh(0.5 * z)) for z in opinions], axis=0)
        return _logits(np.clip(shares, 1e-6, 1 - 1e-6), several=True)
    return np.asarray(np.log(np.mean([np.exp(log_shares(z)) for z in opinions], axis=0)))


def log_shares(logs: Array) -> Array:
    """Logarithms that are normalised along the last axis."""
    top = logs.max(-1, keepdims=True)
    return np.asarray(logs - top - np.log(np.exp(logs - top).sum(-1, keepdims=True)))


def gather(
    given: NDArray[Any], classes: int, features: Mapping[str, NDArray[Any]],
    record: Record | None = None, *, folds: int = 5, seed: int = 0,
) -> Signals:  # fmt: skip
    """The signals of training samples.

    Args:
        given: class indices ``[n]``, or 0/1 ``[n, K]``.
        classes: K.
        features: name (``"pretrained"``, ``"tuned"``) -> ``[n, d]``; neighbours are kept from
            the last one.
        record: of the run's training.
        folds: of the linear classifiers.
        seed: of folds and draws.
    """
    signals = Signals(given.astype(np.int64), classes, record=record)
    for name, rows in features.items():
        found = out_of_fold(rows, signals.given, classes, folds=folds, seed=seed)
        signals.opinions[f"classifier on {name} features"] = found.astype(np.float64)
        signals.units = unit_rows(rows)
        signals.near = nearest(signals.units, VOTERS, seed=seed)
        shares = votes(signals.near, signals.given, classes)
        signals.opinions[f"neighbours by {name} features"] = _logits(shares, signals.several)
    if record is not None and record.means is not None:
        signals.opinions["training"] = _training(record, signals.several)
    return signals


def _logits(shares: Array, several: bool) -> Array:
    return np.log(shares) - np.log1p(-shares) if several else np.log(shares)


def _training(record: Record, several: bool) -> Array:
    """The record's means, where a sample that was never seen has no opinion."""
    assert record.means is not None
    means = np.asarray(record.means, dtype=np.float64)
    classes = means.shape[1]
    if several:
        seen = np.isfinite(record.column("loss")).sum(0)[:, None] / max(len(record.epochs), 1)
        means = np.where(seen > 0, means / np.maximum(seen, 1e-9), 0.5)
        return _logits(np.clip(means, _FLOOR, 1 - _FLOOR), several=True)
    whole = means.sum(1, keepdims=True)
    shares = np.where(whole > 0, means / np.maximum(whole, 1e-9), 1.0 / classes)
    return np.asarray(np.log((1 - _FLOOR) * shares + _FLOOR / classes))
