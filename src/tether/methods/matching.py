"""How far features and predictions lie from those of a teacher: one formula for every method."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

METRICS = ("l2", "l1", "smooth_l1", "cosine")
COORDINATES = ("mean", "sum")


def feature_distances(
    features: Tensor, targets: Tensor, *, metric: str = "l2", coordinates: str = "mean"
) -> Tensor:
    """Distance of each row of features from its target, ``[N, ...] -> [N]``.

    Args:
        features: ``[N, ...]``; what follows the first dimension is one row.
        targets: of the same shape, without a graph.
        metric: ``"l2"`` (squared differences), ``"l1"``, ``"smooth_l1"``, or ``"cosine"``
            (1 - cosine over the last dimension, averaged over those between).
        coordinates: ``"mean"`` or ``"sum"`` over the coordinates of a row; cosine has none.

    Raises:
        ValueError: an unknown choice, or shapes that differ.

    Example:
        >>> import torch
        >>> f, t = torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)
        >>> feature_distances(f, t), feature_distances(f, t, coordinates="sum")
        (tensor([5.]), tensor([10.]))
    """
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r} is not one of {', '.join(METRICS)}")
    if coordinates not in COORDINATES:
        raise ValueError(f"coordinates={coordinates!r} is not one of {', '.join(COORDINATES)}")
    if features.shape != targets.shape:
        raise ValueError(
            f"features of shape {tuple(features.shape)} and targets of shape "
            f"{tuple(targets.shape)} cannot be compared"
        )
    targets = targets.detach()
    if metric == "cosine":
        found = 1.0 - F.cosine_similarity(features, targets, dim=-1)
        return found.flatten(1).mean(1) if found.ndim > 1 else found
    differences = {
        "l2": lambda: (features - targets).square(),
        "l1": lambda: (features - targets).abs(),
        "smooth_l1": lambda: F.smooth_l1_loss(features, targets, reduction="none"),
    }[metric]().flatten(1)
    return differences.sum(1) if coordinates == "sum" else differences.mean(1)


def distillation_losses(
    logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Cross-entropy of softened predictions with a teacher's softened ones, ``[N, K] -> [N]``.

    ``-sum_k q_k log p_k`` with ``p = softmax(z / T)`` and ``q = softmax(z_teacher / T)``; its
    gradient is that of the Kullback-Leibler divergence, which lies the teacher's entropy lower.

    Args:
        logits: ``[..., K]``.
        teacher_logits: of the same shape, without a graph.
        temperature: T, above 0.

    Example:
        >>> import torch
        >>> distillation_losses(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([0.6931])
    """
    probs = (teacher_logits.detach() / temperature).softmax(-1)
    return soft_cross_entropy(logits / temperature, probs)


def distillation_divergence(
    logits: Tensor, teacher_logits: Tensor, *, temperature: float = 3.0
) -> Tensor:
    """Divergence of softened predictions from a teacher's, ``[N, K] -> [N]``; 0 where equal.

    ``KL(softmax(u / T) || softmax(z / T))``, without a factor of T squared.

    Args:
        logits: z, ``[N, K]``.
        teacher_logits: u, of the same shape, without a graph.
        temperature: T, above 0.

    Example:
        >>> import torch
        >>> z = torch.tensor([[2.0, 0.0]])
        >>> distillation_divergence(z, z)
        tensor([0.])
    """
    teacher = teacher_logits.detach()
    own = distillation_losses(logits, teacher, temperature=temperature)
    return own - distillation_losses(teacher, teacher, temperature=temperature)


def soft_cross_entropy(logits: Tensor, probs: Tensor) -> Tensor:
    """Cross-entropy with class probabilities, ``-sum_k q_k log p_k``: ``[..., K] -> [...]``."""
    return -(probs * logits.log_softmax(-1)).sum(-1)
