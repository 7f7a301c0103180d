"""Out-of-fold probabilities of a linear classifier on features that stand still."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

#: Samples that a fold's classifier is fitted on, at most.
MOST_FITTED = 20_000
#: Directions of the features that are kept, those of the largest spread.
MOST_DIRECTIONS = 256
#: Decays that are tried; the labels held out choose.
DECAYS = (1e-3, 1e-2, 1e-1)
_STEPS = 40


def deal(labels: NDArray[np.integer], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each sample: of every class each fold gets as many, give or take one.

    Args:
        labels: class indices ``[n]``, or 0/1 ``[n, K]`` (dealt without regard to them).
        folds: how many, from 2 on.
        seed: which sample goes where.

    Example:
        >>> sorted(deal(np.array([0, 0, 1, 1]), 2, seed=0).tolist())
        [0, 0, 1, 1]
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    if labels.ndim == 1:
        order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def directions(features: NDArray[np.floating], most: int = MOST_DIRECTIONS) -> Tensor:
    """Features along the directions of their largest spread, with a mean square of 1 in all.

    Args:
        features: ``[n, d]``.
        most: how many directions.
    """
    x = torch.as_tensor(np.asarray(features, dtype=np.float32))
    x = x - x.mean(0)
    if x.shape[1] > most:
        some = x if len(x) <= MOST_FITTED else x[:: len(x) // MOST_FITTED + 1]
        _, vectors = torch.linalg.eigh((some.T @ some).double())
        x = x @ vectors[:, -most:].flip(1).float()
    return x / x.square().mean().sqrt().clamp_min(1e-12)


def fit_linear(
    x: Tensor, labels: Tensor, classes: int, decay: float, start: Tensor | None = None
) -> Tensor:
    """Weights ``[d + 1, K]`` (bias last) with the least mean loss plus ``decay |W|^2 / 2``.

    Args:
        x: ``[n, d]``.
        labels: class indices, or 0/1 ``[n, K]`` (then one logistic loss a label).
        classes: K.
        decay: above 0; the bias is free.
        start: weights to start from.
    """
    w = torch.zeros(x.shape[1] + 1, classes) if start is None else start.clone()
    w.requires_grad_(True)
    optimizer = torch.optim.LBFGS([w], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = x @ w[:-1] + w[-1]
        if labels.ndim == 2:
            loss = F.binary_cross_entropy_with_logits(logits, labels) * classes
        else:
            loss = F.cross_entropy(logits, labels)
        loss = loss + 0.5 * decay * w[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return w.detach()


def out_of_fold(
    features: NDArray[np.floating], labels: NDArray[np.integer], classes: int, *, folds: int = 5,
    seed: int = 0, decays: Sequence[float] = DECAYS,
) -> NDArray[np.float32]:  # fmt: skip
    """Log-probabilities ``[n, K]`` of each sample by a classifier that was not fitted on it.

    Of the decays the one is taken whose held-out labels are likeliest: wrong labels among them
    make all decays look worse alike.

    Args:
        features: ``[n, d]``.
        labels: class indices ``[n]``, or 0/1 ``[n, K]``: then logits, one a label.
        classes: K.
        folds: how many, from 2 on.
        seed: which sample is in which fold.
        decays: weight decays to try.

    Cost:
        ``folds x decays`` fits of at most 20 000 samples in 256 dimensions.
    """
    x = directions(features)
    several = labels.ndim == 2
    y = torch.as_tensor(labels.astype(np.float32 if several else np.int64))
    fold = deal(labels, folds, seed)
    tried = [torch.zeros(len(x), classes) for _ in decays]
    with torch.random.fork_rng(devices=()):
        for number in range(folds):
            rest, held = np.flatnonzero(fold != number), torch.as_tensor(fold == number)
            if len(rest) > MOST_FITTED:
                rest = np.random.default_rng(seed + number).permutation(rest)[:MOST_FITTED]
            inside = torch.as_tensor(rest)
            w: Tensor | None = None
            # from the strongest decay on: each is a good start for the next
            for place in np.argsort(decays)[::-1]:
                w = fit_linear(x[inside], y[inside], classes, decays[place], w)
                tried[place][held] = x[held] @ w[:-1] + w[-1]
    if several:
        losses = [F.binary_cross_entropy_with_logits(z, y).item() for z in tried]
        return np.asarray(tried[int(np.argmin(losses))].numpy(), dtype=np.float32)
    losses = [F.cross_entropy(z, y).item() for z in tried]
    best = tried[int(np.argmin(losses))].log_softmax(1)
    return np.asarray(best.numpy(), dtype=np.float32)
