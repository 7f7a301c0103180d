"""How far a linear head's boundary is tilted away from the nearest-centroid classifier.

Adversarial examples lie close where the boundary is tilted along directions in which the data
hardly vary: accuracy does not suffer, distance does. All of this is in the metric of the features
that the head reads; scaling an axis changes it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tether.errors import ConfigError
from tether.measure.checks import ArrayLike, classes, matrix
from tether.measure.collapse import ClassMoments
from tether.measure.results import Record

Floats = NDArray[np.float64]

_TINY = 1e-12
_STRAIGHT = 1e-9  # sine of an angle too small to have a direction
_PAIRS = 4096  # pairs handled at once


def deviation_angle(
    head_weight: ArrayLike, mean_positive: ArrayLike, mean_negative: ArrayLike
) -> Tensor:
    """Angle between a linear boundary's normal and the line through the two class means.

    0 for the nearest-centroid classifier, towards 90 degrees as the boundary tilts until it
    nearly contains that line; beyond 90 the head has the means on the wrong sides.

    ``theta = arccos( w . (i - j) / (|w| |i - j|) )``

    Args:
        head_weight: w, the weight of the positive class less that of the negative one.
        mean_positive: i, mean features of the positive class.
        mean_negative: j, of the negative one.

    Shape:
        ``[..., d]`` each, to ``[...]`` float64: radians in [0, pi]. NaN where w or i - j is zero.

    Cost:
        O(d) a pair.

    References:
        Thomas Tanay, Lewis Griffin, "A Boundary Tilting Perspective on the Phenomenon of
        Adversarial Examples", 2016, arXiv:1608.07690.

    Example:
        >>> w, i, j = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]), torch.zeros(2)
        >>> round(torch.rad2deg(deviation_angle(w, i, j)).item(), 4)
        45.0
    """
    return torch.arccos(_cosine(head_weight, mean_positive, mean_negative))


def adversarial_strength(
    head_weight: ArrayLike, mean_positive: ArrayLike, mean_negative: ArrayLike
) -> Tensor:
    """How many times closer the boundary is than that of the nearest-centroid classifier.

    The mean distance of the two classes to the centroid boundary over that to this one:
    ``|i - j| / (w/|w| . (i - j)) = 1 / cos(theta)``, whatever the bias. 1 at best, infinite where
    the head does not part the means.

    Args:
        head_weight: w, the weight of the positive class less that of the negative one.
        mean_positive: i, mean features of the positive class.
        mean_negative: j, of the negative one.

    Shape:
        ``[..., d]`` each, to ``[...]`` float64 from 1 to infinity. NaN where w or i - j is zero.

    Cost:
        O(d) a pair.

    References:
        Thomas Tanay, Lewis Griffin, "A Boundary Tilting Perspective on the Phenomenon of
        Adversarial Examples", 2016, arXiv:1608.07690.

    Example:
        >>> w, i, j = torch.tensor([1.0, 3.0**0.5]), torch.tensor([1.0, 0.0]), torch.zeros(2)
        >>> round(adversarial_strength(w, i, j).item(), 4)  # 60 degrees
        2.0
    """
    cosine = _cosine(head_weight, mean_positive, mean_negative)
    infinite = torch.full_like(cosine, torch.inf)
    return torch.where(cosine <= _TINY, infinite, 1 / cosine)


def _cosine(weight: ArrayLike, positive: ArrayLike, negative: ArrayLike) -> Tensor:
    w, i, j = (torch.as_tensor(x).double() for x in (weight, positive, negative))
    apart = i - j
    sizes = w.norm(dim=-1) * apart.norm(dim=-1)
    cosine = (w * apart).sum(-1) / torch.where(sizes > 0, sizes, torch.nan)
    return cosine.clamp(-1.0, 1.0)


@dataclass(frozen=True, eq=False)
class BoundaryTilt(Record):
    """What :func:`boundary_tilt` returns; matrices over pairs of the classes present.

    Attributes:
        classes: the classes in the order of the matrices' rows, ``[K]``.
        missing: classes of the head without samples.
        angle: deviation angle of each pair in degrees ``[K, K]``; NaN on the diagonal and where
            two means are equal.
        strength: adversarial strength ``[K, K]``.
        class_strength: the same for class k against l with the head's bias: half the distance of
            the means over that of mean k to the boundary ``[K, K]``; infinite where mean k lies
            on the wrong side. NaN without a bias.
        tilt_variance: variance of the features along the tilt, over the mean variance of a
            direction, within classes ``[K, K]``: far below 1 with a large angle is the
            pathological tilt, along directions the data do not use. NaN where nothing is tilted.
        mean_angle: mean over pairs, degrees.
        max_angle: the largest.
        mean_strength: mean over pairs, of those that are finite.
        max_strength: the largest.
        head_accuracy: of the head on these samples, among the classes present; NaN without a bias.
        centroid_accuracy: of the nearest class mean on these samples.
    """

    classes: list[int]
    missing: list[int]
    angle: Floats
    strength: Floats
    class_strength: Floats
    tilt_variance: Floats
    mean_angle: float
    max_angle: float
    mean_strength: float
    max_strength: float
    head_accuracy: float
    centroid_accuracy: float


def boundary_tilt(
    features: ArrayLike,
    targets: ArrayLike,
    head_weight: ArrayLike,
    head_bias: ArrayLike | None = None,
) -> BoundaryTilt:
    """Angle, adversarial strength and kind of tilt of a linear head, for every pair of classes.

    Read the angle with the accuracy: a tilt that the centroid classifier's accuracy shows to be
    needed is legitimate (linear discriminant analysis is tilted); one along directions of little
    variance that gains nothing is over-fitting, and weight decay of the head undoes it.

    With ``c`` the unit normal of ``w_k - w_l``, ``z`` that through the means, ``c = cos(theta) z +
    sin(theta) t``: the tilt direction t, and ``tilt_variance = t^T S t / (tr S / d)`` with S the
    scatter within classes, each class weighing the same.

    Args:
        features: inputs of the head, evaluation mode.
        targets: class indices.
        head_weight: its weight; one row, or a vector, for a yes-or-no head (class 1 against 0).
        head_bias: its bias; None leaves out what depends on it. For a head without a bias pass
            zeros.

    Shape:
        n x d, n, K x d, K.

    Cost:
        O(n d + K^2 d min(n, d)) time, 4096 pairs at once.

    Raises:
        ConfigError: shapes that do not fit, fewer than two classes with samples, values that are
            not finite.

    References:
        Thomas Tanay, Lewis Griffin, "A Boundary Tilting Perspective on the Phenomenon of
        Adversarial Examples", 2016, arXiv:1608.07690.

    Example:
        >>> x = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
        >>> y = torch.tensor([1, 1, 0, 0])
        >>> found = boundary_tilt(x, y, torch.tensor([1.0, 1.0]), torch.zeros(1))
        >>> round(found.max_angle, 4), round(found.max_strength, 4)
        (45.0, 1.4142)
    """
    f = matrix(features)
    w, b = _head(head_weight, head_bias, f)
    y = classes(targets, f, num_classes=len(w))
    moments = ClassMoments(len(w), f.shape[1], f.device)
    moments.update(f, y)
    present = moments.counts > 0
    names: list[int] = torch.nonzero(present).flatten().tolist()
    if len(names) < 2:
        raise ConfigError(f"a boundary parts two classes, but these samples have {len(names)}")
    row = (torch.cumsum(present, 0) - 1)[y]
    means = moments.means[present]
    w, b = w[present], None if b is None else b[present]
    shares = (1 / moments.counts[present] / len(names))[row]
    deviations = (f - means[row]) * shares.sqrt()[:, None]
    if len(deviations) > f.shape[1]:  # the same scatter from as many rows as dimensions
        deviations = torch.linalg.qr(deviations, mode="r").R
    k = len(names)
    table = np.full((4, k, k), np.nan)
    for part in torch.split(torch.combinations(torch.arange(k, device=f.device)), _PAIRS):
        found = _measure(part[:, 0], part[:, 1], w, b, means, deviations).cpu().numpy()
        i, j = part.cpu().numpy().T
        table[:, i, j] = found[[0, 1, 2, 4]]
        table[:, j, i] = found[[0, 1, 3, 4]]
    angle, strength, own, variance = table
    upper = np.triu_indices(k, 1)
    return BoundaryTilt(
        names, moments.missing(), angle, strength, own, variance,
        _mean(angle[upper]), _largest(angle[upper]),
        _mean(strength[upper]), _largest(strength[upper]),
        float("nan") if b is None else _share(f @ w.T + b, row),
        _share(-torch.cdist(f, means), row),
    )  # fmt: skip


def _head(weight: ArrayLike, bias: ArrayLike | None, like: Tensor) -> tuple[Tensor, Tensor | None]:
    raw = torch.as_tensor(weight)
    w = matrix(raw[None] if raw.ndim == 1 else raw, "head weights").to(like.device)
    b = None if bias is None else torch.as_tensor(bias).detach().to(like.device).double().flatten()
    if w.shape[1] != like.shape[1]:
        raise ConfigError(
            f"the head reads {w.shape[1]} dimensions, the features have {like.shape[1]}: pass what "
            "the head's forward gets"
        )
    if b is not None and (len(b) != len(w) or not bool(torch.isfinite(b).all())):
        raise ConfigError(f"the head's bias must hold {len(w)} finite numbers")
    if len(w) == 1:  # one score for class 1: class 0 has none
        w = torch.cat([torch.zeros_like(w), w])
        b = None if b is None else torch.cat([torch.zeros_like(b), b])
    return w, b


def _measure(
    i: Tensor, j: Tensor, w: Tensor, b: Tensor | None, means: Tensor, deviations: Tensor
) -> Tensor:
    """Of pairs of classes: angle, strength, that of i and of j with the bias, variance of the tilt.

    Args:
        i: the first classes of the pairs.
        j: the second.
        w: weights of the head.
        b: its biases.
        means: of the classes.
        deviations: rows whose squares sum to the mean scatter within classes.
    """
    normal, gap = w[i] - w[j], means[i] - means[j]
    sizes, gaps = normal.norm(dim=1), gap.norm(dim=1)
    sound = (sizes > 0) & (gaps > 0)
    c = normal / torch.where(sound, sizes, torch.nan)[:, None]
    z = gap / torch.where(sound, gaps, torch.nan)[:, None]
    rows = [
        torch.rad2deg(deviation_angle(normal, means[i], means[j])),
        adversarial_strength(normal, means[i], means[j]),
    ]
    for index, sign in ((i, 1), (j, -1)):
        offset = torch.full_like(sizes, torch.nan) if b is None else (b[i] - b[j]) / sizes
        reach = sign * ((c * means[index]).sum(1) + offset)
        strength = torch.where(reach > _TINY * gaps, gaps / 2 / reach, torch.inf)
        rows.append(torch.where(reach.isnan(), torch.nan, strength))
    tilt = c - (c * z).sum(1, keepdim=True) * z
    length = tilt.norm(dim=1, keepdim=True)
    tilt = tilt / torch.where(length > _STRAIGHT, length, torch.nan)
    total = deviations.square().sum() / w.shape[1]
    along = (tilt @ deviations.T).square().sum(1)
    rows.append(along / torch.where(total > 0, total, torch.nan))
    return torch.stack(rows)


def _mean(values: Floats) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _largest(values: Floats) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.max()) if len(kept) else float("nan")


def _share(scores: Tensor, row: Tensor) -> float:
    return float((scores.argmax(1) == row).double().mean())
