"""What became of the features: their size, spread, classes, rank, and drift.

All measures take features of a fixed subset in evaluation mode (about 2000 samples are enough)
and work in float64. Those that return a tensor return a 0-dim one and may be differentiated.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FeatureLike = Tensor | npt.NDArray[Any]

_CLOSEST = 1e-12  # distance given to duplicates, whose logarithm would be minus infinity


def _as_features(features: FeatureLike, name: str = "features", least: int = 1) -> Tensor:
    values = torch.as_tensor(features)
    if values.ndim != 2:
        raise ValueError(
            f"{name} must be samples x dimensions, not shape {tuple(values.shape)}: pool or flatten"
        )
    if len(values) < least:
        raise ValueError(f"{name} hold {len(values)} samples, but at least {least} are needed")
    return values.double()


def _as_targets(targets: FeatureLike, n: int, device: torch.device) -> Tensor:
    values = torch.as_tensor(targets, device=device)
    if values.ndim != 1 or values.is_floating_point():
        raise ValueError("targets must be class indices, one a sample")
    if len(values) != n:
        raise ValueError(f"lengths differ: features have {n}, targets have {len(values)}")
    return values.long()


def feature_norms(features: FeatureLike) -> dict[str, float]:
    """Sizes of the features: mean, median, percentiles, and the size of their mean.

    ``norm_of_mean = |mean_i f_i|`` is what some released code logs as the feature norm. It is the
    smaller, the more diverse the features are: do not compare it with ``mean = mean_i |f_i|``.

    Args:
        features: one row a sample.

    Shape:
        n x d.

    Returns:
        ``mean``, ``median``, ``p5``, ``p95`` of the Euclidean norms, and ``norm_of_mean``.

    Raises:
        ValueError: features without two dimensions, or without samples.

    Example:
        >>> norms = feature_norms(torch.tensor([[3.0, 4.0], [-3.0, -4.0]]))
        >>> norms["mean"], norms["norm_of_mean"]
        (5.0, 0.0)
    """
    f = _as_features(features).detach()
    norms = f.norm(dim=1)
    # torch.quantile refuses more than 2^24 numbers
    p5, median, p95 = np.quantile(norms.cpu().numpy(), (0.05, 0.5, 0.95)).tolist()
    mean, of_mean = torch.stack([norms.mean(), f.mean(0).norm()]).tolist()
    return {"mean": mean, "median": median, "p5": p5, "p95": p95, "norm_of_mean": of_mean}


def _log_unit_ball(d: int) -> float:
    return d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)


def feature_entropy(features: FeatureLike) -> Tensor:
    """Differential entropy of the features in nats, by the mean over all neighbours.

    High entropy means that the features still spread out; it falls when they collapse, and also
    when they merely shrink (by ``d log c`` for a factor c), so read it with the norm. The
    estimate averages the k-nearest-neighbour estimators over all k: smooth, and biased upwards
    (by about 9 nats for normal features of 32 dimensions, 174 for 512), so compare features of
    equal width only.

    ``H = 1 + log c_d + d / (n (n - 1)) sum_{i != j} log |f_i - f_j|`` with c_d the volume of the
    unit ball in d dimensions. Duplicates count as 1e-12 apart.

    Args:
        features: one row a sample.

    Shape:
        n x d with n >= 2, to a 0-dim float64 tensor.

    Cost:
        O(n^2 d) time, n^2 / 2 numbers.

    Raises:
        ValueError: features without two dimensions, or fewer than two samples.

    References:
        Lev Faivishevsky, Jacob Goldberger, "ICA based on a Smooth Estimation of the Differential
        Entropy", NIPS 2008.
        Shin'ya Yamaguchi, Sekitoshi Kanai, Kazuki Adachi, Daiki Chijiwa, "Adaptive Random Feature
        Regularization on Fine-tuning Deep Neural Networks", 2024, arXiv:2403.10097.

    Example:
        >>> x = torch.randn(800, 1, generator=torch.Generator().manual_seed(0))
        >>> abs(feature_entropy(x).item() - 1.419) < 0.15
        True
    """
    f = _as_features(features, least=2)
    d = f.shape[1]
    return 1.0 + _log_unit_ball(d) + d * _mean_log_distance(f)


def _mean_log_distance(f: Tensor) -> Tensor:
    return torch.log(torch.pdist(f).clamp_min(_CLOSEST)).mean()


def mutual_information(features: FeatureLike, targets: FeatureLike) -> Tensor:
    """Mutual information of features and classes in nats: what the features tell of the class.

    ``I = H(F) - sum_k p_k H(F_k)``, both by :func:`feature_entropy`, whose constant cancels. Its
    bias does not, so compare values of one data set; do not read them as bits of knowledge (they
    may exceed the entropy of the classes).

    Args:
        features: one row a sample.
        targets: class indices.

    Shape:
        n x d and n, to a 0-dim float64 tensor.

    Cost:
        O(n^2 d) time, n^2 / 2 numbers.

    Raises:
        ValueError: shapes that do not fit, or a class with a single sample.

    References:
        Shin'ya Yamaguchi, Sekitoshi Kanai, Kazuki Adachi, Daiki Chijiwa, "Adaptive Random Feature
        Regularization on Fine-tuning Deep Neural Networks", 2024, arXiv:2403.10097.

    Example:
        >>> x = torch.tensor([[0.0], [0.1], [5.0], [5.2]])
        >>> mutual_information(x, torch.tensor([0, 0, 1, 1])).item() > 1.0
        True
    """
    f = _as_features(features, least=2)
    y = _as_targets(targets, len(f), f.device)
    classes, counts = torch.unique(y, return_counts=True)
    if int(counts.min()) < 2:
        lonely = int(classes[counts.argmin()])
        raise ValueError(f"class {lonely} has one sample: its entropy needs two, leave it out")
    within = torch.stack([_mean_log_distance(f[y == k]) for k in classes.tolist()])
    expected = torch.dot(counts.double() / len(f), within)
    return f.shape[1] * (_mean_log_distance(f) - expected)


def class_separation(features: FeatureLike, targets: FeatureLike) -> Tensor:
    """How tightly classes point in directions of their own: R^2 of the cosine distance.

    1 when every class has collapsed to a direction of its own, about 0 when classes are mixed.
    High separation is good for the task at hand and often bad for transferring further.

    ``R2 = 1 - within / overall``, the mean cosine distance over ordered pairs of one class, and
    over pairs of all classes, classes weighing the same. From sums s_k of unit vectors:
    ``within = mean_k (1 - |s_k|^2 / n_k^2)``, ``overall = 1 - |sum_k s_k / n_k|^2 / K^2``.
    A pair of a sample with itself is included, so small classes look up to ``1 / n_k`` tighter.

    Args:
        features: one row a sample.
        targets: class indices; classes without samples are skipped.

    Shape:
        n x d and n, to a 0-dim float64 tensor. 0 when all features point the same way.

    Cost:
        O(n d).

    Raises:
        ValueError: shapes that do not fit.

    References:
        Simon Kornblith, Ting Chen, Honglak Lee, Mohammad Norouzi, "Why Do Better Loss Functions
        Lead to Less Transferable Features?", 2021, arXiv:2010.16402.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
        >>> class_separation(x, torch.tensor([0, 0, 1, 1])).item()
        1.0
    """
    f = _as_features(features)
    y = _as_targets(targets, len(f), f.device)
    classes, place = torch.unique(y, return_inverse=True)
    units = f / f.norm(dim=1, keepdim=True).clamp_min(_CLOSEST)
    sums = units.new_zeros(len(classes), f.shape[1]).index_add(0, place, units)
    means = sums / torch.bincount(place, minlength=len(classes)).double()[:, None]
    within = (1.0 - means.square().sum(1)).mean()
    overall = 1.0 - means.mean(0).square().sum()
    apart = overall > 1e-12
    return torch.where(apart, 1.0 - within / torch.where(apart, overall, 1.0), 0.0)


def effective_rank(features: FeatureLike, *, center: bool = False) -> Tensor:
    """Number of directions the features use: exp of the entropy of their singular values.

    Between 1 (all features on one line) and min(n, d) (all directions equally strong).

    ``exp(-sum_i p_i log p_i)`` with ``p_i = s_i / sum_j s_j``.

    Args:
        features: one row a sample.
        center: subtract the mean first. The definition does not.

    Shape:
        n x d, to a 0-dim float64 tensor. 0 when all features are zero.

    Cost:
        One singular value decomposition, O(n d min(n, d)).

    Raises:
        ValueError: features without two dimensions, or without samples.

    References:
        Olivier Roy, Martin Vetterli, "The Effective Rank: a Measure of Effective Dimensionality",
        EUSIPCO 2007.

    Example:
        >>> round(effective_rank(torch.eye(5)).item(), 6)
        5.0
    """
    f = _as_features(features)
    return _rank_of(torch.linalg.svdvals(f - f.mean(0) if center else f))


def _rank_of(singular: Tensor) -> Tensor:
    total = singular.sum()
    p = singular / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, torch.exp(-torch.xlogy(p, p).sum()), 0.0)


def linear_cka(features: FeatureLike, reference: FeatureLike) -> Tensor:
    """Similarity of two sets of features of the same samples, blind to rotation and scale.

    1 when one is a rotated, shifted and scaled copy of the other; compare fine-tuned features
    with the pretrained ones to see how far they drifted. High even for random features when n is
    not much larger than the dimensions.

    ``|Fc^T Gc|_F^2 / (|Fc^T Fc|_F |Gc^T Gc|_F)`` with centred columns.

    Args:
        features: one row a sample.
        reference: other features of the same samples, in the same order.

    Shape:
        n x d and n x e, to a 0-dim float64 tensor in [0, 1]. NaN when either is constant.

    Cost:
        O(n d e), or O(n^2 (d + e)) when there are fewer samples than dimensions.

    Raises:
        ValueError: shapes that do not fit.

    References:
        Simon Kornblith, Mohammad Norouzi, Honglak Lee, Geoffrey Hinton, "Similarity of Neural
        Network Representations Revisited", 2019, arXiv:1905.00414.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0]])
        >>> round(linear_cka(x, 3 * x.flip(1) + 1).item(), 6)
        1.0
    """
    f, g = _as_features(features), _as_features(reference, "reference features")
    if len(f) != len(g):
        raise ValueError(f"lengths differ: features have {len(f)}, the reference has {len(g)}")
    f, g = f - f.mean(0), g - g.mean(0)
    if len(f) < min(f.shape[1], g.shape[1]):
        gram_f, gram_g = f @ f.T, g @ g.T
        shared = (gram_f * gram_g).sum()
    else:
        gram_f, gram_g = f.T @ f, g.T @ g
        shared = (f.T @ g).square().sum()
    return torch.div(shared, gram_f.norm() * gram_g.norm())


def head_gradient_norm(logits: FeatureLike, features: FeatureLike, targets: FeatureLike) -> Tensor:
    """Size of the cross-entropy gradient of the last layer's weight, without a backward pass.

    For one sample it is ``|p - y| |f|``: features that shrink starve the head of gradient.

    ``|(P - Y)^T F|_F / n`` with ``P = softmax(logits)``, Y one-hot or soft targets.

    Args:
        logits: outputs of the last linear layer.
        features: its inputs.
        targets: class indices, or soft targets.

    Shape:
        n x K, n x d, and n or n x K; to a 0-dim float64 tensor.

    Cost:
        O(n K d).

    Raises:
        ValueError: shapes that do not fit.

    References:
        Shin'ya Yamaguchi, Sekitoshi Kanai, Kazuki Adachi, Daiki Chijiwa, "Adaptive Random Feature
        Regularization on Fine-tuning Deep Neural Networks", 2024, arXiv:2403.10097.

    Example:
        >>> zeros, ones = torch.zeros(1, 2), torch.ones(1, 2)
        >>> round(head_gradient_norm(zeros, ones, torch.tensor([0])).item(), 6)
        1.0
    """
    f, z = _as_features(features), _as_features(logits, "logits")
    if len(f) != len(z):
        raise ValueError(f"lengths differ: features have {len(f)}, logits have {len(z)}")
    goal = torch.as_tensor(targets, device=f.device)
    if goal.ndim == 2:
        if goal.shape != z.shape:
            raise ValueError(
                f"soft targets must have shape {tuple(z.shape)}, not {tuple(goal.shape)}"
            )
        soft = goal.double()
    else:
        index = _as_targets(goal, len(f), f.device)
        if int(index.min()) < 0 or int(index.max()) >= z.shape[1]:
            raise ValueError(f"targets must lie in [0, {z.shape[1]}), the columns of the logits")
        soft = torch.nn.functional.one_hot(index, z.shape[1]).double()
    gradient = (torch.softmax(z, dim=1) - soft).T @ f
    size: Tensor = gradient.norm() / len(f)
    return size


def feature_report(
    features: FeatureLike,
    targets: FeatureLike,
    reference_features: FeatureLike | None = None,
    *,
    logits: FeatureLike | None = None,
) -> dict[str, float]:
    """All feature measures at once, as plain numbers.

    Args:
        features: features of a fixed subset, evaluation mode; about 2000 samples are enough.
        targets: class indices.
        reference_features: features of the same samples by the pretrained network.
        logits: outputs of the head, for its gradient norm.

    Shape:
        n x d, n, n x e, n x K.

    Returns:
        ``norm_mean``, ``norm_median``, ``norm_p5``, ``norm_p95``, ``norm_of_mean``, ``entropy``,
        ``mutual_information`` (NaN when a class has a single sample), ``class_separation``,
        ``effective_rank``, ``smallest_singular_value``; ``linear_cka`` with a reference,
        ``head_gradient_norm`` with logits.

    Cost:
        O(n^2 d) time, n^2 / 2 numbers.

    Raises:
        ValueError: shapes that do not fit, or fewer than two samples.

    Example:
        >>> x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        >>> report = feature_report(x, torch.arange(60) % 3, reference_features=x)
        >>> round(report["linear_cka"], 6), 3 < report["effective_rank"] <= 4
        (1.0, True)
    """
    f = _as_features(features, least=2).detach()
    y = _as_targets(targets, len(f), f.device)
    norms = feature_norms(f)
    report = {("norm_" + k if k != "norm_of_mean" else k): v for k, v in norms.items()}
    singular = torch.linalg.svdvals(f)
    paired = int(torch.unique(y, return_counts=True)[1].min()) > 1
    values = {
        "entropy": feature_entropy(f),
        "mutual_information": mutual_information(f, y) if paired else f.new_tensor(math.nan),
        "class_separation": class_separation(f, y),
        "effective_rank": _rank_of(singular),
        "smallest_singular_value": singular[-1],
    }
    if reference_features is not None:
        reference = torch.as_tensor(reference_features).detach().to(f.device)
        values["linear_cka"] = linear_cka(f, reference)
    if logits is not None:
        outputs = torch.as_tensor(logits).detach().to(f.device)
        values["head_gradient_norm"] = head_gradient_norm(outputs, f, y)
    numbers = torch.stack(list(values.values())).tolist()
    return report | dict(zip(values, numbers, strict=True))
