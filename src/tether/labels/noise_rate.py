"""How many labels are wrong and which classes are taken for which, without a clean label.

Two questions are kept apart.

*Which* labels are wrong: sample i has a true class j with probability ``c_ij = softmax(s z_i)_j``,
where z are log-probabilities that were not fitted on the label of i, and s sharpens them (wrong
labels among those they were learnt from had blunted them). Its label is k with probability
``T_jk``. Sharpness s and transition matrix T are those under which the given labels are likeliest
(EM), and ``P(true = j | x_i, given k)`` is proportional to ``c_ij T_jk``. This ranks samples well,
but it takes hard samples for wrong labels where the classifier is weak.

*How many*: what a weak classifier cannot explain away. Labels that even the classes of the least
probability get (:func:`uniform_share`), and samples whose label contradicts the classifier
however sure it is (:func:`plateau`). The scores are then shifted so that they add up to that.
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
#: The plateau counts from the first distance to the uniform share on, in full from the second on;
_DOUBT = (0.08, 0.16)
#: and in full up to the first uniform share, not at all from the second on.
_EVEN = (0.06, 0.12)
_TINY = 1e-12


def softmax(logs: Array) -> Array:
    """Along the last axis."""
    powers = np.exp(logs - logs.max(-1, keepdims=True))
    shares: Array = powers / powers.sum(-1, keepdims=True)
    return shares


# -- which -----------------------------------------------------------------------------------------


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
        >>> bool(abs(np.diag(model.transition).mean() - 0.8) < 0.03)
        True
    """
    logs, given = some_of(logs, given, seed)
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
    return NoiseModel(tried[best][0], float(best), tried[best][1])


def some_of(logs: Array, given: Ints, seed: int) -> tuple[Array, Ints]:
    """All samples, or as many as are fitted at most."""
    if len(given) <= MOST_FITTED:
        return logs, given
    rows = np.random.default_rng(seed).permutation(len(given))[:MOST_FITTED]
    return logs[rows], given[rows]


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


def wrong(model: NoiseModel, logs: Array, given: Ints) -> Array:
    """Probability of each sample that its label is wrong, under the model as it was fitted."""
    kept = model.posterior(logs, given)[np.arange(len(given)), given]
    return np.asarray(np.clip(1.0 - kept, 0.0, 1.0))


def shifted(scores: Array, rate: float) -> Array:
    """Probabilities whose odds are all multiplied by one factor, so that their mean is ``rate``.

    Args:
        scores: in [0, 1].
        rate: above 0 and below 1 (moved inside where it is not).

    Example:
        >>> shifted(np.array([0.1, 0.5]), 0.5).round(3).tolist()
        [0.25, 0.75]
    """
    rate = float(np.clip(rate, _TINY, 1.0 - _TINY))
    inside = np.clip(scores, _TINY, 1.0 - _TINY)
    odds = np.log(inside) - np.log1p(-inside)
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = float((0.5 * (1.0 + np.tanh(0.5 * (odds + middle)))).mean()) > rate
        low, high = (low, middle) if above else (middle, high)
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * (odds + low))))


# -- how many --------------------------------------------------------------------------------------


def uniform_share(logs: Array, given: Ints, counts: Array | None = None) -> float:
    """Share of wrong labels if they were drawn evenly from all other classes.

    The given label is k with ``q_ik = (1 - r) softmax(s z_i)_k + r / K``; s and r are the
    likeliest. Hard samples do not count towards r: their labels are of classes that z finds likely.
    A classifier may have learnt the uniform share itself, so the floor f of all probabilities is
    taken: the lower quartile over the samples of ``K min_k q_ik``, which is at least r.

    Args:
        logs: log-probabilities z ``[n, K]``, of each sample without its own label.
        given: class indices ``[n]``.
        counts: how often each sample counts; once by default.

    Returns:
        ``f (K - 1) / K``.
    """
    classes, rows = int(logs.shape[1]), np.arange(len(given))
    weights = np.ones(len(given)) if counts is None else counts
    weights = weights / weights.sum()
    sharp = np.geomspace(0.25, 8.0, 31)
    own = np.stack([softmax(s * logs)[rows, given] for s in sharp])
    share = np.full((len(own), 1), 0.2)
    for _ in range(_ROUNDS):
        mixed = (1.0 - share) * own + share / classes
        fresh = (share / classes / mixed) @ weights[:, None]
        moved = np.abs(fresh - share).max()
        share = fresh
        if moved < _CLOSE:
            break
    likelihood = np.log((1.0 - share) * own + share / classes) @ weights
    best = int(likelihood.argmax())
    even = float(share[best, 0])
    least = float(np.quantile(softmax(sharp[best] * logs).min(1), 0.25))
    return (even + (1.0 - even) * classes * least) * (classes - 1) / classes


def plateau(logs: Array, given: Ints, counts: Array | None = None) -> float:
    """Share of labels that contradict the likeliest class however sure the classifier is.

    With m the distance of the two largest log-probabilities, the label is another one than the
    likeliest class with ``a + (1 - a) sigmoid(b - d m) (K - 1) / K``; a, b, d are the likeliest.

    Args:
        logs: log-probabilities ``[n, K]``, of each sample without its own label.
        given: class indices ``[n]``.
        counts: how often each sample counts; once by default.

    Returns:
        a.
    """
    classes = logs.shape[1]
    weights = np.ones(len(given)) if counts is None else counts
    best = np.partition(logs, -2, axis=1)
    margin, other = best[:, -1] - best[:, -2], logs.argmax(1) != given
    # samples of about the same margin together: the curve is smooth
    order = np.argsort(margin, kind="stable")
    groups = np.array_split(order, min(len(order), 60))
    m = np.array([margin[rows].mean() for rows in groups])
    against = np.array([(weights * other)[rows].sum() for rows in groups])
    whole = np.array([weights[rows].sum() for rows in groups])
    b, d = np.linspace(-4.0, 5.0, 19)[:, None, None], np.geomspace(0.1, 8.0, 16)[None, :, None]
    error = 0.5 * (1.0 + np.tanh(0.5 * (b - d * m))) * (classes - 1) / classes
    shares, likelihood = np.linspace(0.0, 0.8, 41), []
    for share in shares:
        q = np.clip(share + (1.0 - share) * error, 1e-9, 1.0 - 1e-9)
        likelihood.append((against * np.log(q) + (whole - against) * np.log1p(-q)).sum(-1).max())
    return float(shares[int(np.argmax(likelihood))])


def noise_rate(opinions: list[Array], given: Ints, counts: Array | None = None) -> float:
    """Share of wrong labels, as far as it can be told from samples that are merely hard.

    The uniform share; and where that is small and the plateau lies clearly above it, the plateau:
    wrong labels that always go to one or two particular classes leave no uniform share. Where there
    is a uniform share, it says more than the plateau, which hangs on where a curve ends.

    Args:
        opinions: log-probabilities ``[n, K]`` of each sample without its own label, by
            classifiers that could not learn that label; the last one is the best.
        given: class indices ``[n]``.
        counts: how often each sample counts; once by default.
    """
    even = float(np.mean([uniform_share(logs, given, counts) for logs in opinions]))
    gap = max(plateau(opinions[-1], given, counts) - even, 0.0)
    far = (gap - _DOUBT[0]) / (_DOUBT[1] - _DOUBT[0])
    small = (_EVEN[1] - even) / (_EVEN[1] - _EVEN[0])
    return even + gap * float(np.clip(far, 0.0, 1.0) * np.clip(small, 0.0, 1.0))


# -- the estimate ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class NoiseEstimate:
    """Noise rate and transition matrix, with what they may be as well.

    Attributes:
        rate: share of labels that are wrong.
        interval: of the rate, ``level`` of the bootstrap draws lie in it.
        upper: the rate if all that the classifiers contradict were wrong, hard samples included.
        transition: ``[K, K]``, from true classes (rows) to labels.
        low: lower bounds of the transition matrix.
        high: upper bounds.
        level: of the intervals.
    """

    rate: float
    interval: tuple[float, float]
    upper: float
    transition: Array
    low: Array
    high: Array
    level: float


def estimate_noise(
    model: NoiseModel, logs: Array, given: Ints, opinions: list[Array], *, draws: int = 20,
    level: float = 0.9, seed: int = 0,
) -> NoiseEstimate:  # fmt: skip
    """The noise in the labels, with bootstrap intervals.

    Args:
        model: from :func:`fit_noise`.
        logs: the log-probabilities that it was fitted on.
        given: the labels.
        opinions: as for :func:`noise_rate`.
        draws: of the bootstrap; each counts every sample a Poisson number of times.
        level: share of the draws inside the intervals.
        seed: of the draws.
    """
    upper = float(wrong(model, logs, given).mean())
    small = [some_of(each, given, seed)[0] for each in opinions]
    logs, given = some_of(logs, given, seed)
    rate = noise_rate(small, given)
    labels, beliefs = _Labels(given, logs.shape[1]), softmax(model.sharpness * logs)
    transition = _scaled(model.transition, beliefs, rate)
    rng = np.random.default_rng(seed)
    rates, matrices = [rate], [transition]
    for _ in range(draws):
        counts = rng.poisson(1.0, len(given)).astype(np.float64)
        rates.append(noise_rate(small, given, counts))
        drawn, _ = _em(beliefs, labels, model.transition, counts)
        matrices.append(_scaled(drawn, beliefs, rates[-1]))
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(rates, tails)
    below, above = np.quantile(matrices, tails, axis=0)
    interval = (min(float(low), rate), max(float(high), rate))
    return NoiseEstimate(
        rate, interval, upper, transition, np.minimum(below, transition),
        np.maximum(above, transition), level,
    )  # fmt: skip


def _scaled(transition: Array, beliefs: Array, rate: float) -> Array:
    """The matrix with as much beside its diagonal as belongs to a noise rate."""
    shares = beliefs.mean(0)
    now = float((shares * (1.0 - np.diag(transition))).sum())
    off = transition * (1.0 - np.eye(len(transition)))
    off = off * (rate / now if now > 0 else 0.0)
    off /= np.maximum(off.sum(1, keepdims=True), 1.0)
    return np.asarray(off + np.diag(1.0 - off.sum(1)))
