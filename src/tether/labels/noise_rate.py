"""How many labels are wrong and which classes are taken for which, without a clean label.

The model: sample i has a true class j with probability ``c_ij = softmax(s z_i)_j``, where z are
log-probabilities that were not fitted on the label of i, and s sharpens them (wrong labels among
those they were learnt from had blunted them). Its label is k with probability ``T_jk``. Sharpness
s and transition matrix T are those under which the given labels are likeliest (EM). What follows
is calibrated: ``P(true = j | x_i, given k)`` is proportional to ``c_ij T_jk``.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Sharpnesses that are tried, before those between the best ones.
SHARPNESS = tuple(np.geomspace(0.25, 8.0, 11))
#: Samples that the fit looks at, at most.
MOST_FITTED = 20_000
_ROUNDS, _CLOSE = 200, 1e-5
#: Times that a class was seen with each label before the data are looked at, in all.
_PRIOR = 1.0


@dataclass(frozen=True)
class NoiseModel:
    """What was fitted.

    Attributes:
        transition: ``T_jk``, the probability of label k for the true class j; rows sum to one.
        sharpness: s.
        likelihood: mean log-likelihood of the given labels.
    """

    transition: Array
    sharpness: float
    likelihood: float

    def posterior(self, logs: Array, given: Ints) -> Array:
        """``P(true = j | x, given)`` of samples ``[n, K]``.

        Args:
            logs: log-probabilities z ``[n, K]``.
            given: class indices ``[n]``.
        """
        joint = softmax(self.sharpness * logs) * self.transition[:, given].T
        joint /= joint.sum(1, keepdims=True)
        return joint


def softmax(logs: Array) -> Array:
    """Along the last axis."""
    powers = np.exp(logs - logs.max(-1, keepdims=True))
    shares: Array = powers / powers.sum(-1, keepdims=True)
    return shares


def fit_noise(logs: Array, given: Ints, *, seed: int = 0) -> NoiseModel:
    """The likeliest sharpness and transition matrix.

    Args:
        logs: log-probabilities of the classes ``[n, K]``, of each sample without its own label.
        given: class indices ``[n]``.
        seed: which samples are looked at where there are more than 20 000.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> true = rng.integers(0, 3, 600)
        >>> given = np.where(rng.random(600) < 0.2, (true + 1) % 3, true)
        >>> model = fit_noise(np.log(np.eye(3)[true] * 0.9 + 0.1 / 3), given)
        >>> abs(np.diag(model.transition).mean() - 0.8) < 0.03
        True
    """
    if len(given) > MOST_FITTED:
        some = np.random.default_rng(seed).permutation(len(given))[:MOST_FITTED]
        logs, given = logs[some], given[some]
    labels = _Labels(given, logs.shape[1])
    tried = {s: _em(softmax(s * logs), labels) for s in SHARPNESS}
    for _ in range(2):  # then between the best one and those beside it
        known = sorted(tried)
        at = known.index(max(tried, key=lambda s: tried[s][1]))
        near = known[max(at - 1, 0) : at + 2]
        for low, high in pairwise(near):
            s = float(np.sqrt(low * high))
            tried[s] = _em(softmax(s * logs), labels, tried[known[at]][0])
    best = max(tried, key=lambda s: tried[s][1])
    return NoiseModel(*tried[best][:1], float(best), tried[best][1])


class _Labels:
    """Given labels in order, to sum what belongs to each."""

    def __init__(self, given: Ints, classes: int) -> None:
        self.given, self.classes = given, classes
        self.order = np.argsort(given, kind="stable")
        self.there, self.starts = np.unique(given[self.order], return_index=True)

    def sums(self, rows: Array) -> Array:
        """``[j, k]``: the sum of ``rows[:, j]`` over samples with label k."""
        found = np.zeros((self.classes, self.classes))
        found[:, self.there] = np.add.reduceat(rows[self.order], self.starts, axis=0).T
        return found


def _em(
    beliefs: Array, labels: _Labels, start: Array | None = None, counts: Array | None = None
) -> tuple[Array, float]:
    """Transition matrix and mean log-likelihood; ``counts`` says how often each sample counts."""
    k = labels.classes
    transition = 0.8 * np.eye(k) + 0.2 / k if start is None else start
    weights = np.ones(len(beliefs)) if counts is None else counts
    likelihood = 0.0
    for _ in range(_ROUNDS):
        joint = beliefs * transition[:, labels.given].T
        whole = joint.sum(1)
        likelihood = float((weights * np.log(np.maximum(whole, 1e-300))).sum() / weights.sum())
        joint *= (weights / np.maximum(whole, 1e-300))[:, None]
        found = labels.sums(joint) + _PRIOR / k
        found /= found.sum(1, keepdims=True)
        moved = np.abs(found - transition).max()
        transition = found
        if moved < _CLOSE:
            break
    return transition, likelihood


@dataclass(frozen=True)
class NoiseEstimate:
    """Noise rate and transition matrix, with what they may be as well.

    Attributes:
        rate: share of labels that are wrong.
        interval: of the rate, ``level`` of bootstrap draws lie in it.
        transition: ``[K, K]``, from true classes (rows) to labels.
        low: lower bounds of the transition matrix.
        high: upper bounds.
        level: of the intervals.
    """

    rate: float
    interval: tuple[float, float]
    transition: Array
    low: Array
    high: Array
    level: float


def estimate_noise(
    model: NoiseModel, logs: Array, given: Ints, *, draws: int = 40, level: float = 0.9,
    seed: int = 0,
) -> NoiseEstimate:  # fmt: skip
    """The noise that a fitted model sees, with bootstrap intervals.

    Args:
        model: from :func:`fit_noise`.
        logs: the log-probabilities that it was fitted on.
        given: the labels.
        draws: of the bootstrap; each counts every sample a Poisson number of times and fits the
            matrix again, under the same sharpness.
        level: share of the draws inside the intervals.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    rate = float(wrong(model, logs, given).mean())
    if len(given) > MOST_FITTED:
        some = rng.permutation(len(given))[:MOST_FITTED]
        logs, given = logs[some], given[some]
    labels, beliefs = _Labels(given, logs.shape[1]), softmax(model.sharpness * logs)
    rates, matrices = [], []
    for _ in range(draws):
        counts = rng.poisson(1.0, len(given)).astype(np.float64)
        drawn, likelihood = _em(beliefs, labels, model.transition, counts)
        scores = wrong(NoiseModel(drawn, model.sharpness, likelihood), logs, given)
        rates.append(float((counts * scores).sum() / counts.sum()))
        matrices.append(drawn)
    tails = [(1 - level) / 2, (1 + level) / 2]
    # the draws scatter around their own mean: moved to where the estimate lies
    low, high = np.quantile(rates, tails) - np.mean(rates) + rate
    below, above = np.quantile(matrices, tails, axis=0)
    return NoiseEstimate(
        rate, (max(0.0, float(low)), min(1.0, float(high))), model.transition, below, above, level
    )


def wrong(model: NoiseModel, logs: Array, given: Ints) -> Array:
    """Probability of each sample that its label is wrong."""
    kept = model.posterior(logs, given)[np.arange(len(given)), given]
    return np.asarray(np.clip(1.0 - kept, 0.0, 1.0))
