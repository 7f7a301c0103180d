"""One calibrated score a sample: the probability that its label is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tether.labels.noise_rate import NoiseEstimate, estimate_noise, fit_noise, shifted

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
#: A label of several is suggested otherwise from this probability on that it is wrong.
_LIKELY = 0.5


@dataclass(frozen=True)
class Scores:
    """Scores of the samples, and the noise they add up to.

    Attributes:
        wrong: probability that the label is wrong (of several: that any is), ``[n]``.
        suggested: the likeliest other class ``[n]``; of several labels, 0/1 ``[n, K]`` with those
            turned over that are probably wrong, at least the worst one.
        confidence: probability that the suggestion is right ``[n]``.
        noise: the estimate, of each label where there are several a sample (else of one).
        label_wrong: ``[n, K]`` where there are several: probability that each is wrong.
    """

    wrong: Array
    suggested: Ints
    confidence: Array
    noise: list[NoiseEstimate]
    label_wrong: Array | None = None


def score_classes(
    logs: Array, given: Ints, opinions: Sequence[Array] | None = None, *, seed: int = 0,
    draws: int = 20,
) -> Scores:  # fmt: skip
    """Score samples with one label each.

    Args:
        logs: log-probabilities of the classes ``[n, K]``, of each sample without its own label:
            what ranks.
        given: class indices ``[n]``; a negative one is no label, and scores 0.
        opinions: such log-probabilities by classifiers that could not learn the label at all: what
            the noise rate is told by; by default ``logs``.
        seed: of the bootstrap.
        draws: of the bootstrap.

    Example:
        >>> true = np.arange(300) % 3
        >>> given = np.where(np.arange(300) < 30, (true + 1) % 3, true)
        >>> scores = score_classes(np.log(np.eye(3)[true] * 0.9 + 0.1 / 3), given, draws=2)
        >>> bool(scores.wrong[:30].min() > scores.wrong[30:].max())
        True
    """
    there = given >= 0
    told = [each[there] for each in (opinions or [logs])]
    model = fit_noise(logs[there], given[there], seed=seed)
    noise = estimate_noise(model, logs[there], given[there], told, seed=seed, draws=draws)
    beliefs = model.posterior(logs, np.maximum(given, 0))
    rows = np.arange(len(given))
    own = np.clip(beliefs[rows, np.maximum(given, 0)], 0.0, 1.0)
    wrong = np.zeros(len(given))
    wrong[there] = shifted(1.0 - own[there], noise.rate)
    beliefs[rows, np.maximum(given, 0)] = -1.0
    suggested = beliefs.argmax(1)
    # of what is wrong, the share that belongs to the suggested class
    among = beliefs[rows, suggested] / np.maximum(1.0 - own, 1e-12)
    return Scores(wrong, suggested, wrong * np.clip(among, 0.0, 1.0), [noise])


def score_labels(
    logits: Array, given: Ints, opinions: Sequence[Array] | None = None, *, seed: int = 0,
    draws: int = 20,
) -> Scores:  # fmt: skip
    """Score samples with several labels each, every label on its own.

    Args:
        logits: of each label ``[n, K]``, without what the sample itself was given.
        given: 0/1 ``[n, K]``.
        opinions: as for :func:`score_classes`, logits.
        seed: of the bootstrap.
        draws: of the bootstrap.
    """
    parts, noise = np.zeros(logits.shape), []
    for label in range(logits.shape[1]):
        one = score_classes(
            no_or_yes(logits[:, label]), given[:, label],
            [no_or_yes(each[:, label]) for each in (opinions or [logits])],
            seed=seed, draws=draws,
        )  # fmt: skip
        parts[:, label] = one.wrong
        noise += one.noise
    turned = parts >= _LIKELY
    turned[np.arange(len(given)), parts.argmax(1)] = True
    suggested = np.where(turned, 1 - given, given)
    confidence = np.where(turned, parts, 1.0 - parts).prod(1)
    return Scores(1.0 - (1.0 - parts).prod(1), suggested, confidence, noise, parts)


def no_or_yes(logits: Array) -> Array:
    """Log-probabilities ``[n, 2]`` that a label is not there, and that it is."""
    return np.stack([-np.logaddexp(0.0, logits), -np.logaddexp(0.0, -logits)], 1)
