"""What flows through one training step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Batch:
    """One batch on its way from the model's output to the loss.

    The engine fills it; the moments of a method read it. Floating tensors that methods see
    (``logits``, ``features``, ``sample_losses``) are float32 or wider, also under autocast.

    Attributes:
        logits: the model's output, ``[N, K]`` for classes, ``[N, T, K]`` for tokens, ``[N]`` or
            ``[N, D]`` for regression.
        targets: what the loss is computed on: class indices ``[N]``, class probabilities
            ``[N, K]``, a 0/1 matrix ``[N, K]`` for multi-label, numbers for regression, token
            indices ``[N, T]`` with -100 for positions that do not count. ``transform_targets``
            replaces it.
        labels: the targets as they were given to ``loss``, never replaced.
        index: rows of the samples in the training set, int64 ``[N]``, or None where unknown.
        features: input of the head, ``[N, d]``; None unless a method asked for features.
        sample_losses: one loss a sample, ``[N]``; filled when a method weighs samples.
        weights: product of the sample weights so far, ``[N]``, mean 1 when nothing is weighed.
        mask: bool ``[N]``, False for rows that do not count (label -100); None when all count.
        args: positional arguments of the model's call, where they are known.
        kwargs: keyword arguments of the model's call, where they are known.
        taps: outputs of the layers that the method asked for with ``ctx.tap``, by name.
        extras: further keyword arguments given to ``loss``.
    """

    logits: Tensor
    targets: Tensor
    labels: Tensor
    index: Tensor | None = None
    features: Tensor | None = None
    sample_losses: Tensor | None = None
    weights: Tensor | None = None
    mask: Tensor | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    taps: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Any] = field(default_factory=dict)

    def need_features(self) -> Tensor:
        """The features, or an error where the method's record lacks ``needs=("features",)``."""
        if self.features is None:
            raise RuntimeError('features were not tapped: declare needs=("features",)')
        return self.features

    def need_index(self) -> Tensor:
        """The rows, or an error where the method's record lacks ``needs=("index",)``."""
        if self.index is None:
            raise RuntimeError('rows are unknown: declare needs=("index",)')
        return self.index

    def masked_mean(self, values: Tensor) -> Tensor:
        """Mean of per-sample ``values`` ``[N]`` over the rows that count (0 when none does)."""
        if self.mask is None:
            return values.mean()
        keep = self.mask.to(values.dtype)
        return torch.where(self.mask, values, 0.0).sum() / keep.sum().clamp(min=1.0)
