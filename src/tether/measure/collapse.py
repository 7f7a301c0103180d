"""Neural collapse: how far the features of a class have shrunk to its mean, and the means to a
simplex.

Late in training, features collapse: each class to its mean (NC1), the means to an equiangular
frame (NC2), the head's weights to the means (NC3), its decision to the nearest mean (NC4).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tether.errors import ConfigError
from tether.measure.checks import ArrayLike, classes, matrix, same_length

_CHUNK = 1 << 16  # rows handled at once
_EQUAL = 1e-24  # squared distance of means, relative to their size, that is rounding only


class ClassMoments:
    """Counts, means and spread of each class, gathered batch by batch in float64.

    The order of the batches does not matter, and moments of several processes merge. Nothing is
    subtracted that is large, so that nearly collapsed features keep their digits.

    ``mean_k = sum_i h_ki / n_k``, ``spread_k = sum_i |h_ki - mean_k|^2``

    Args:
        num_classes: K, at least 1.
        width: d, the features' dimensions, at least 1.
        device: where the sums live; batches are moved there.

    Attributes:
        counts: samples of each class ``[K]``.
        means: mean features ``[K, d]``; 0 for a class without samples.
        spread: sum of squared distances to the mean ``[K]``.

    Cost:
        O(B d) for a batch of B.

    Raises:
        ConfigError: no class, no dimension.

    References:
        Tony F. Chan, Gene H. Golub, Randall J. LeVeque, "Updating Formulae and a Pairwise
        Algorithm for Computing Sample Variances", 1979.

    Example:
        >>> moments = ClassMoments(2, 1)
        >>> moments.update(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]))
        >>> moments.means.tolist(), moments.spread.tolist(), moments.missing()
        ([[2.0], [5.0]], [2.0, 0.0], [])
    """

    def __init__(self, num_classes: int, width: int, device: torch.device | str = "cpu") -> None:
        if num_classes < 1 or width < 1:
            raise ConfigError(
                f"moments need at least one class and one dimension, not {num_classes} and {width}"
            )
        self.counts = torch.zeros(num_classes, dtype=torch.float64, device=device)
        self.means = torch.zeros(num_classes, width, dtype=torch.float64, device=device)
        self.spread = torch.zeros(num_classes, dtype=torch.float64, device=device)

    def update(self, features: ArrayLike, targets: ArrayLike) -> None:
        """Take in a batch.

        Args:
            features: B x d, finite.
            targets: class indices below K ``[B]``.

        Raises:
            ConfigError: shapes that do not fit, classes out of range, values not finite.
        """
        f = matrix(features).to(self.means.device)
        k, d = self.means.shape
        if f.shape[1] != d:
            raise ConfigError(f"features have {f.shape[1]} dimensions, those before had {d}")
        y = classes(targets, f, num_classes=k)
        batch = ClassMoments(k, d, self.means.device)
        batch.counts = torch.bincount(y, minlength=k).double()
        # means of deviations from a first guess: large common offsets cost no digits
        first = f.new_zeros(k, d).index_copy(0, y.flip(0), f.flip(0))
        off = f - first[y]
        sums = f.new_zeros(k, d).index_add(0, y, off)
        batch.means = first + sums / batch.counts.clamp_min(1)[:, None]
        rest = (f - batch.means[y]).square().sum(1)
        batch.spread = f.new_zeros(k).index_add(0, y, rest)
        self.merge(batch)

    def merge(self, other: ClassMoments) -> None:
        """Take in what another instance has seen.

        Args:
            other: moments of the same classes and dimensions.

        Raises:
            ConfigError: other classes or dimensions.
        """
        if other.means.shape != self.means.shape:
            raise ConfigError(
                f"moments of {tuple(other.means.shape)} do not merge with those of "
                f"{tuple(self.means.shape)} (classes x dimensions)"
            )
        device = self.means.device
        counts = other.counts.to(device)
        total = self.counts + counts
        share = counts / total.clamp_min(1)
        step = other.means.to(device) - self.means
        self.spread = self.spread + other.spread.to(device)
        self.spread = self.spread + self.counts * share * step.square().sum(1)
        self.means = self.means + share[:, None] * step
        self.counts = total

    def missing(self) -> list[int]:
        """Classes without samples."""
        absent: list[int] = torch.nonzero(self.counts == 0).flatten().tolist()
        return absent


def simplex_deviation(vectors: ArrayLike) -> dict[str, float]:
    """How far vectors are from a simplex equiangular tight frame: all as long, all as far apart.

    With K vectors v_k: ``norm = std_k |v_k| / mean_k |v_k|`` (population);
    ``angle = mean_{k != l} |cos(v_k, v_l) + 1 / (K - 1)|``;
    ``angle_spread = std_{k != l} cos(v_k, v_l)``;
    ``frame = | G / |G|_F - E / |E|_F |_F`` with ``G_kl = v_k . v_l`` and ``E = I - 11^T / K``.
    All are 0 for such a frame, and blind to rotation and scale.

    Args:
        vectors: K x d, such as class means less the mean of all, or rows of the head's weight.

    Returns:
        The four numbers. NaN with a single vector, and where a vector is zero. With ``K > d + 1``
        no such frame exists, and ``angle`` and ``frame`` cannot reach 0.

    Cost:
        O(K^2 d).

    Raises:
        ConfigError: not a matrix, or values that are not finite.

    References:
        Vardan Papyan, X. Y. Han, David L. Donoho, "Prevalence of Neural Collapse during the
        terminal phase of deep learning training", 2020, arXiv:2008.08186.

    Example:
        >>> triangle = torch.eye(3) - 1 / 3
        >>> max(simplex_deviation(triangle).values()) < 1e-6
        True
    """
    v = matrix(vectors, "vectors")
    k = len(v)
    norms = v.norm(dim=1)
    if k < 2 or not float(norms.min()) > 1e-12 * float(norms.max()):
        return dict.fromkeys(("norm", "angle", "angle_spread", "frame"), math.nan)
    units = v / norms[:, None]
    pairs = torch.triu_indices(k, k, offset=1, device=v.device)
    cosines = (units @ units.T)[pairs[0], pairs[1]]
    scaled = v / norms.max()
    gram = scaled @ scaled.T
    ideal = torch.eye(k, dtype=v.dtype, device=v.device) - 1 / k
    return {
        "norm": float(norms.std(correction=0) / norms.mean()),
        "angle": float((cosines + 1 / (k - 1)).abs().mean()),
        "angle_spread": float(cosines.std(correction=0)),
        "frame": float((gram / gram.norm() - ideal / ideal.norm()).norm()),
    }


def self_duality(head_weight: ArrayLike, centred_means: ArrayLike) -> float:
    """Distance of the head's weights from the class means, both scaled to norm one (NC3).

    ``| W / |W|_F - M / |M|_F |_F``, between 0 (the same up to scale) and 2 (opposite).

    Args:
        head_weight: weight of the last linear layer, K x d.
        centred_means: class means less their mean, K x d.

    Returns:
        The distance; NaN where either is zero.

    Raises:
        ConfigError: shapes that differ, or values that are not finite.

    References:
        Vardan Papyan, X. Y. Han, David L. Donoho, "Prevalence of Neural Collapse during the
        terminal phase of deep learning training", 2020, arXiv:2008.08186.

    Example:
        >>> round(self_duality(3 * torch.eye(2), torch.eye(2)), 6)
        0.0
    """
    w, m = matrix(head_weight, "head weights"), matrix(centred_means, "class means")
    if w.shape != m.shape:
        raise ConfigError(
            f"the head's weight has shape {tuple(w.shape)}, the class means {tuple(m.shape)}: "
            "pass the weight of the layer that reads these features, one row a class"
        )
    if not (float(w.norm()) > 0 and float(m.norm()) > 0):
        return math.nan
    return float((w / w.norm() - m.to(w.device) / m.norm().to(w.device)).norm())


def nearest_mean(features: ArrayLike, means: ArrayLike) -> Tensor:
    """Index of the nearest row of ``means`` by Euclidean distance, for each sample.

    Args:
        features: n x d.
        means: K x d.

    Shape:
        n, int64; of equally near means the first.

    Cost:
        O(n d K), in chunks of 65536 rows.

    Raises:
        ConfigError: shapes that do not fit, or values that are not finite.

    Example:
        >>> nearest_mean(torch.tensor([[0.1], [0.9]]), torch.tensor([[0.0], [1.0]])).tolist()
        [0, 1]
    """
    f, m = matrix(features), matrix(means, "means")
    if f.shape[1] != m.shape[1]:
        raise ConfigError(f"features have {f.shape[1]} dimensions, means have {m.shape[1]}")
    parts = [
        torch.cdist(part, m, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        for part in torch.split(f, _CHUNK)
    ]
    return torch.cat(parts)


def neural_collapse(
    features: ArrayLike,
    targets: ArrayLike,
    head_weight: ArrayLike | None = None,
    logits: ArrayLike | None = None,
    *,
    num_classes: int | None = None,
    weighting: str = "class",
    rcond: float = 1e-6,
) -> dict[str, Any]:
    """How far the features of a network have collapsed: NC1 to NC4.

    Everything is 0 at full collapse. Small values are no goal for transfer: collapse throws away
    what differs within a class. Compare the fine-tuned network with the pretrained one, on the
    same fixed samples in evaluation mode.

    With class means m_k, the mean of all m, the scatter within classes
    ``SW = mean_k (1/n_k) sum_i (h_ki - m_k)(h_ki - m_k)^T`` and between them
    ``SB = mean_k (m_k - m)(m_k - m)^T``:

    - ``nc1 = tr(SW pinv(SB)) / K`` (Papyan et al.); blind to any invertible linear map;
    - ``nc1_trace = tr(SW) / tr(SB)`` (Tirer et al.): cheap, the one in their theory;
    - ``nc1_cdnv = mean_{k != l} (v_k + v_l) / (2 |m_k - m_l|^2)`` with ``v_k`` the mean squared
      distance of a class to its mean (Galanti et al.);
    - ``nc2_norm``, ``nc2_angle``, ``nc2_angle_spread``, ``nc2_frame``: :func:`simplex_deviation`
      of ``m_k - m``;
    - ``nc3``: :func:`self_duality` of the head's weight and ``m_k - m``;
    - ``nc4``: share of samples where the largest logit is not that of the nearest class mean.

    Args:
        features: inputs of the last linear layer.
        targets: class indices.
        head_weight: its weight, one row a class; needed for ``nc3``.
        logits: its outputs; needed for ``nc4``. Classes without samples are left out of both.
        num_classes: K where no head and no logits tell it; the largest target plus one by
            default. Only what is reported as missing depends on it.
        weighting: ``"class"``: classes weigh the same in m, SW, SB; ``"sample"``: by their number
            of samples. Equal where classes are equally large.
        rcond: eigenvalues of SB below this share of the largest count as zero.

    Shape:
        ``features``: n x d; ``targets``: n; ``head_weight``: K x d; ``logits``: n x K.

    Returns:
        The numbers above, ``num_classes`` (with samples), and ``missing``, the list of classes
        without samples. NaN: what was not asked for (``nc3``, ``nc4``), everything between
        classes with fewer than two classes or equal means. A class of one sample has no spread
        and pulls NC1 down.

    Cost:
        O(n d K): SW is seen through the span of the class means, never as d x d.

    Raises:
        ConfigError: shapes that do not fit, values that are not finite, an unknown weighting.

    References:
        Vardan Papyan, X. Y. Han, David L. Donoho, "Prevalence of Neural Collapse during the
        terminal phase of deep learning training", 2020, arXiv:2008.08186.
        Tom Tirer, Haoxiang Huang, Jonathan Niles-Weed, "Perturbation Analysis of Neural
        Collapse", 2022, arXiv:2210.16658.
        Tomer Galanti, András György, Marcus Hutter, "On the Role of Neural Collapse in Transfer
        Learning", 2021, arXiv:2112.15121.

    Example:
        >>> corners = torch.eye(3).repeat(4, 1)
        >>> found = neural_collapse(corners, torch.arange(12) % 3, head_weight=torch.eye(3) - 1 / 3)
        >>> found["nc1"], round(found["nc2_angle"], 6), round(found["nc3"], 6), found["missing"]
        (0.0, 0.0, 0.0, [])
    """
    if weighting not in ("class", "sample"):
        raise ConfigError(f"weighting must be 'class' or 'sample', not {weighting!r}")
    f = matrix(features)
    head = None if head_weight is None else matrix(head_weight, "head weights").to(f.device)
    scores = None if logits is None else matrix(logits, "logits").to(f.device)
    y = classes(targets, f)
    k = _class_count(num_classes, head, scores, int(y.max()) + 1)
    y = classes(y, f, num_classes=k)
    moments = ClassMoments(k, f.shape[1], f.device)
    for part, index in zip(torch.split(f, _CHUNK), torch.split(y, _CHUNK), strict=True):
        moments.update(part, index)
    present = moments.counts > 0
    frame, shares = _frame(moments, weighting)
    row = torch.cumsum(present, 0) - 1  # class -> its row among those present
    found: dict[str, Any] = dict(_variability(f, row[y], moments, frame, shares, rcond))
    found |= {f"nc2_{name}": value for name, value in simplex_deviation(frame).items()}
    found["nc3"] = math.nan if head is None else self_duality(head[present], frame)
    found["nc4"] = math.nan
    if scores is not None:
        same_length(features=f, logits=scores)
        said = scores[:, present].argmax(1)
        found["nc4"] = float((said != nearest_mean(f, moments.means[present])).double().mean())
    return found | {"num_classes": int(present.sum()), "missing": moments.missing()}


def _class_count(asked: int | None, head: Tensor | None, scores: Tensor | None, seen: int) -> int:
    told = {
        "num_classes": asked,
        "rows of the head": None if head is None else len(head),
        "columns of the logits": None if scores is None else scores.shape[1],
    }
    known = {name: count for name, count in told.items() if count is not None}
    if len(set(known.values())) > 1:
        numbers = ", ".join(f"{name}: {count}" for name, count in known.items())
        raise ConfigError(f"the number of classes is not clear ({numbers}): they must agree")
    return next(iter(known.values()), seen)


def _frame(moments: ClassMoments, weighting: str) -> tuple[Tensor, Tensor]:
    """Centred means of the classes present, zero where they are equal; weights of the classes."""
    present = moments.counts > 0
    counts, means = moments.counts[present], moments.means[present]
    shares = (
        counts / counts.sum() if weighting == "sample" else torch.full_like(counts, 1 / len(counts))
    )
    centred = means - (shares[:, None] * means).sum(0)
    size = means.square().sum(1).max()
    if not bool(centred.square().sum(1).max() > _EQUAL * size):
        centred = torch.zeros_like(centred)
    return centred, shares


def _variability(
    features: Tensor,
    row: Tensor,
    moments: ClassMoments,
    frame: Tensor,
    shares: Tensor,
    rcond: float,
) -> dict[str, float]:
    """The variants of NC1: scatter within classes against scatter between them."""
    present = moments.counts > 0
    counts, means = moments.counts[present], moments.means[present]
    spread = moments.spread[present] / counts
    between = (shares * frame.square().sum(1)).sum()
    if len(counts) < 2 or not float(between) > 0:
        return dict.fromkeys(("nc1", "nc1_trace", "nc1_cdnv"), math.nan)
    # SB = R^T R with rows sqrt(share_k) (m_k - m): its eigenvectors are R's right ones
    _, singular, basis = torch.linalg.svd(shares.sqrt()[:, None] * frame, full_matrices=False)
    kept = singular.square() > rcond * singular[0].square()
    whiten = basis[kept].T / singular[kept]
    weights = (shares / counts)[row]
    total = features.new_zeros(())
    for part, index, weight in zip(
        torch.split(features, _CHUNK),
        torch.split(row, _CHUNK),
        torch.split(weights, _CHUNK),
        strict=True,
    ):
        total = total + (weight * ((part - means[index]) @ whiten).square().sum(1)).sum()
    a, b = torch.triu_indices(len(counts), len(counts), offset=1, device=features.device)
    apart = (means[a] - means[b]).square().sum(1)
    return {
        "nc1": float(total / len(counts)),
        "nc1_trace": float((shares * spread).sum() / between),
        "nc1_cdnv": float(((spread[a] + spread[b]) / (2 * apart)).mean()),
    }
