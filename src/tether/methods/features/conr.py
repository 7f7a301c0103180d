"""ConR (Keramati et al., 2024): features of rare labels kept apart from those of frequent ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.features.conr_losses import (
    DENSITIES,
    LONE,
    PUSHES,
    conr_loss,
    label_bins,
    label_density_weights,
)
from tether.methods.features.rows import check_choice
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context


@register(
    "conr",
    kind="features",
    paper="arXiv:2309.06651",
    needs=("features", "train_data"),
    cost="light",
    losses=("mse", "l1"),
    neutral={"weight": 0.0},
    batch_statistics=True,
    search_space={
        "weight": ("log", 0.03, 4.0), "temperature": ("log", 0.05, 0.5),
        "density": ("choice", *DENSITIES),
    },
)  # fmt: skip
class ConR(Method):
    """Keeps features of rare labels from collapsing into those of frequent ones, in regression.

    Where labels are skewed, samples of rare labels are predicted as if they had frequent ones,
    and their features follow. Pairs of like labels are pulled together; pairs that are *predicted*
    alike though their labels are far apart are pushed apart, the more, the farther and the rarer.

    Helps regression with few samples in a part of the range, judged there
    (:func:`tether.measure.shot_metrics`), where these are taken for frequent ones though the inputs
    tell them apart. Hurts where they are only too few to be learnt (our own trials: noisy inputs,
    rotated digits), with noisy labels (samples that are alike are pushed apart), and with small
    batches, which hold few pairs of either kind. Early predictions are all alike, so that nearly
    all pairs are pushed: let the weight rise, ``weight="warmup(1, 0.2)"``. Try the weights by
    density first, ``density="sqrt_inv"`` with weight 0: they are cheaper and often do more.

    With cosines ``s_ij = cos(f_i, f_j) / t``, labels y, predictions p (no graph) and weights v::

        K+_i = { j != i : |y_i - y_j| <= w }
        K-_i = { j : |y_i - y_j| > w and |p_i - p_j| <= w }
        L_i  = log( sum_{K+} exp(s_ij) + sum_{K-} v_i exp(e |y_i - y_j| + s_ij) ) - mean_{K+} s_ij
        penalty = mean_i v_i L_i            L_i = 0 without positives or without negatives

    The paper has two augmented views of each sample in a batch. Give the second one as
    ``reg.loss(..., views=[x])`` in a loop of your own, at the price of one more forward; without,
    positives are the other samples of like labels, and an anchor that has none is its own
    (``lone="self"``) or is left out.

    Args:
        weight: >= 0, schedulable (default 1; paper 4 for ages, 0.2 for depths).
        window: w, above 0, in units of the labels; None (default): a tenth of the standard
            deviation of the training labels. Paper: 1 year, 0.2.
        temperature: t, above 0 (default and paper 0.07).
        push: e, >= 0; None (default): one over the range of the training labels (paper: 0.01 a
            year).
        push_mode: ``"exp"`` (default), or ``"linear"``: ``v_i e |y_i - y_j|``, as for depths.
        density: v from the density of the training labels: ``"none"`` (default, 1),
            ``"sqrt_inv"``, ``"inverse"``; the task loss is weighed by them, too.
        bins: of the histogram of labels (default 50).
        smoothing: label-distribution smoothing of it, in bins; 0 (default): none, 2 is usual.
        lone: an anchor without a positive: ``"skip"`` (default) or ``"self"``.
        official_denominator: as the released code, which counts every sample that is no positive
            in the denominator once more (default False: the paper's formula).

    Shape:
        Features ``[N, d]``, labels and outputs ``[N]`` or ``[N, D]`` (mean distance over D).

    State:
        With ``density``: ``label_weights`` ``[bins]`` and ``label_range`` ``[2]``; replicated.

    Cost:
        O(N^2 (d + D)) a step; the labels of the training set are read once.

    Raises:
        ValueError: an option out of range.
        TetherError: training labels that are all alike; ``density`` for labels of several numbers.

    References:
        Mahsa Keramati, Lili Meng, R. David Evans, "ConR: Contrastive Regularizer for Deep
        Imbalanced Regression", ICLR 2024, arXiv:2309.06651. Yuzhe Yang, Kaiwen Zha, Ying-Cong Chen,
        Hao Wang, Dina Katabi, "Delving into Deep Imbalanced Regression", ICML 2021,
        arXiv:2102.09554 (label-distribution smoothing).

    Example:
        >>> ConR(weight=4, window=1.0, push=0.01)
        ConR(weight=4, window=1.0, push=0.01)
    """

    label_weights: Tensor
    label_range: Tensor

    def __init__(
        self, weight: ScheduleLike = 1.0, window: float | None = None, temperature: float = 0.07,
        push: float | None = None, push_mode: str = "exp", density: str = "none", bins: int = 50,
        smoothing: float = 0.0, lone: str = "skip", official_denominator: bool = False,
    ) -> None:  # fmt: skip
        check_choice("push_mode", push_mode, PUSHES)
        check_choice("density", density, DENSITIES)
        check_choice("lone", lone, LONE)
        for name, value, least in (("weight", weight, 0), ("push", push, 0), ("bins", bins, 2),
                                   ("smoothing", smoothing, 0)):  # fmt: skip
            if isinstance(value, (int, float)) and not value >= least:
                raise ValueError(f"{name} must be >= {least}, got {value!r}")
        for name, value in (("window", window), ("temperature", temperature)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")
        self.weight = weight
        self.window = window
        self.temperature = temperature
        self.push = push
        self.push_mode = push_mode
        self.density = density
        self.bins = bins
        self.smoothing = smoothing
        self.lone = lone
        self.official_denominator = official_denominator

    def setup(self, ctx: Context) -> None:
        """Read units and density off the training labels."""
        labels = ctx.training_targets().detach().double().cpu()
        low, high = float(labels.min()), float(labels.max())
        if not high > low:
            raise TetherError(f"method {ctx.name!r}: all training labels are {low:g}")
        self._window = 0.1 * float(labels.std()) if self.window is None else self.window
        self._push = 1.0 / (high - low) if self.push is None else self.push
        if self.density == "none":
            return
        if labels.numel() != len(labels):
            raise TetherError(
                f"method {ctx.name!r}: density={self.density!r} is for one number a sample, not "
                f'{tuple(labels.shape[1:])}; use density="none"'
            )
        weights = label_density_weights(labels, self.bins, mode=self.density, sigma=self.smoothing)
        self.add_state("label_weights", weights.to(ctx.device))
        self.add_state("label_range", torch.tensor([low, high], device=ctx.device))

    def _weights(self, targets: Tensor) -> Tensor | None:
        if self.density == "none":
            return None
        low, high = self.label_range.unbind()
        return self.label_weights[label_bins(targets.reshape(len(targets)), low, high, self.bins)]

    def weight_samples(self, batch: Batch) -> Tensor | None:
        """The density weights, mean 1 over the training set; None where all are 1."""
        return self._weights(batch.targets)

    def penalty(self, batch: Batch) -> Tensor:
        """The contrastive loss over the samples of the batch, and their second views."""
        features, outputs = batch.need_features(), batch.logits
        labels, weights = batch.targets, self._weights(batch.targets)
        for view in batch.extras.get("views") or ():
            args, kwargs = ((), view) if isinstance(view, dict) else ((view,), {})
            seen = self.ctx.forward(*args, **kwargs)
            if seen.features is not None:
                features = torch.cat([features, seen.features.to(features)])
                outputs = torch.cat([outputs, seen.logits.detach().to(outputs)])
                labels = torch.cat([labels, batch.targets])
        if weights is not None:
            weights = weights.repeat(len(labels) // len(weights))
        return conr_loss(
            features, labels, outputs.reshape(labels.shape), weights, window=self._window,
            temperature=self.temperature, push=self._push, push_mode=self.push_mode,
            lone=self.lone, official_denominator=self.official_denominator,
        )  # fmt: skip

    def measure(self) -> dict[str, Any]:
        """The window and the push in use, in units of the labels."""
        return {"window": self._window, "push": self._push}
