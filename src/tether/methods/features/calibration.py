"""Pretrained features, turned and shifted to where those in training lie: for DR-Tune."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def procrustes_rotation(source: Tensor, target: Tensor, *, keep: Tensor | None = None) -> Tensor:
    """The proper rotation R that brings centred rows of ``source`` nearest to ``target``.

    Least ``sum |R (p_i - mean p) - (q_i - mean q)|²``; its determinant is 1, reflections excluded.

    Args:
        source: rows p ``[n, d]``.
        target: rows q ``[n, d]``.
        keep: bool ``[n]``, False for rows that do not count.

    Returns:
        ``[d, d]``; a row p becomes ``(p - mean p) R^T``.

    Example:
        >>> p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
        >>> procrustes_rotation(p, p @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]])).round().abs()
        tensor([[0., 1.],
                [1., 0.]])
    """
    wide = torch.promote_types(source.dtype, torch.float32)
    p, q = (rows.to(wide) - _mean(rows.to(wide), keep) for rows in (source, target))
    if keep is not None:
        p = p * keep[:, None]
    u, _, vh = torch.linalg.svd(p.T @ q)
    signs = torch.ones_like(vh[0])
    signs[-1] = torch.linalg.slogdet(vh.T @ u.T).sign
    rotation: Tensor = (vh.T * signs) @ u.T
    return rotation


def semantic_calibration(
    pretrained: Tensor,
    current: Tensor,
    targets: Tensor,
    head_weight: Tensor,
    *,
    rotate: bool = True,
    rotation: Tensor | None = None,
    scale: Tensor | float = 1.0,
    keep: Tensor | None = None,
) -> Tensor:
    """Pretrained features as the network in training might have them, ``[n, d]`` of one length.

    Rows of unit length are rotated from the pretrained cloud to the present one; then those of
    each class are shifted so that their mean is the class's centre now, in which rows that the
    head is surer of weigh more; then brought to unit length, times ``scale``.

    Args:
        pretrained: features of some samples by the pretrained network ``[n, d]``.
        current: features of the same samples by the network in training ``[n, d]``.
        targets: classes ``[n]``.
        head_weight: weights of the head ``[K, d]``.
        rotate: with the rotation; False: with the shift alone.
        rotation: one that is known; None: that of these rows.
        scale: length of the rows.
        keep: bool ``[n]``, False for rows that do not count.

    Example:
        >>> p = torch.eye(2)
        >>> semantic_calibration(p, p, torch.tensor([0, 1]), p, scale=2.0)
        tensor([[2., 0.],
                [0., 2.]])
    """
    p, q = normalize(pretrained, dim=1), normalize(current, dim=1)
    if rotate:
        if rotation is None:
            rotation = procrustes_rotation(p, q, keep=keep)
        p = (p - _mean(p, keep)) @ rotation.T + _mean(q, keep)
    classes = targets.clamp(min=0)
    count, width = head_weight.shape
    sure = (q * normalize(head_weight, dim=1)[classes]).sum(1).exp()  # cosines: no overflow
    one = torch.ones_like(sure)
    if keep is not None:
        sure, one = sure * keep, one * keep
    rows = torch.stack([sure, one], 1)
    sums = rows.new_zeros(count, 2).index_add_(0, classes, rows).clamp(min=1e-12)
    empty = p.new_zeros(count, width)
    centres = empty.index_add(0, classes, q * sure[:, None]) / sums[:, :1]
    means = empty.index_add(0, classes, p * one[:, None]) / sums[:, 1:]
    return normalize(p + (centres - means)[classes], dim=1) * scale


def _mean(rows: Tensor, keep: Tensor | None) -> Tensor:
    if keep is None:
        return rows.mean(0)
    return (rows * keep[:, None]).sum(0) / keep.sum().clamp(min=1)
