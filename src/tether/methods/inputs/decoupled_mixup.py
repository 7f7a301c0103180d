"""Decoupled mixup: each of the two mixed classes must beat all others, not its partner."""

from __future__ import annotations

from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.methods.inputs.decoupled_losses import (
    MODES,
    decoupled_losses,
    rescaled_binary_targets,
)
from tether.methods.inputs.pair_mixing import MIXES, PairMixing, check_alpha
from tether.methods.targets.rows import class_indices
from tether.schedule import Schedule, ScheduleLike


@register(
    "decoupled_mixup",
    kind="inputs",
    paper="arXiv:2203.10761",
    needs=("class_labels",),
    cost="light",
    losses=("cross_entropy", "binary_cross_entropy"),
    neutral={"alpha": 0.0},
    example={"alpha": 1.0},
    stochastic=True,
    mixes=True,
    search_space={
        "weight": ("log", 0.01, 0.5),
        "alpha": ("log", 0.05, 2.0),
        "mode": ("choice", *MODES),
    },
)
class DecoupledMixup(PairMixing):
    """Mixup or CutMix whose loss also asks each mixed class to beat all classes but the other.

    Mixup's own loss keeps the network unsure even where one of the two classes is plain to see;
    the further term makes it sure of the pair without letting the two push each other down.
    Helps mixing by boxes most. Hurts calibration with a large weight, which undoes what mixup
    gives; where mixup hurts, this does too.

    With a, b the classes of a row, z its logits, and r(l) = (l / t)^xi below t, else 1::

        phi(a|b) = exp z_a / sum_(c != b) exp z_c
        loss = mixup's cross-entropy
               - weight mean_i [ r(lam) log phi(a|b) + r(1 - lam) log phi(b|a) ]

    Rows of one class, and rows that are nearly whole (a share below 0.001), have no further term.
    For multi-label data there is no further term, either: the targets are
    ``min(1, r(lam) y_a + r(1 - lam) y_b)`` in place of the mixed ones, and ``weight`` does nothing.
    Inputs are mixed as by :class:`~tether.Mixup` and :class:`~tether.CutMix`.

    Args:
        weight: eta, >= 0, schedulable (default 0.1; published settings 0.01 to 0.5).
        mix: ``"mixup"`` or ``"cutmix"``.
        alpha: of the Beta distribution, >= 0, schedulable; 0 mixes nothing (default 0.2; paper
            0.2 on CIFAR-100, 1 on ImageNet).
        xi: power of the shares, >= 0 (default 0, both classes alike; published settings 0 to 1).
        threshold: t, in (0, 1] (default and paper 1).
        mode: ``"both"`` classes, or only the one with ``"less"`` or ``"more"`` than half.

    Shape:
        logits ``[N, K]``; class indices ``[N]`` or probabilities ``[N, K]`` (the largest one
        counts in the further term), 0/1 matrices ``[N, K]``.

    State:
        None.

    Cost:
        That of the mixing, and two passes over the logits.

    Raises:
        ValueError: an option out of range.
        TetherError: the inputs cannot be mixed; several losses of one batch.

    References:
        Zicheng Liu, Siyuan Li, Ge Wang, Cheng Tan, Lirong Wu, Stan Z. Li, "Harnessing Hard Mixed
        Samples with Decoupled Regularizer", NeurIPS 2023, arXiv:2203.10761.

    Example:
        >>> DecoupledMixup(mix="cutmix", mode="less")
        DecoupledMixup(mix='cutmix', mode='less')
    """

    def __init__(
        self,
        weight: ScheduleLike = 0.1,
        mix: str = "mixup",
        alpha: ScheduleLike = 0.2,
        xi: float = 0.0,
        threshold: float = 1.0,
        mode: str = "both",
    ) -> None:
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if mix not in MIXES:
            raise ValueError(f"mix must be one of {', '.join(MIXES)}, got {mix!r}")
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if not xi >= 0:
            raise ValueError(f"xi must be >= 0, got {xi!r}")
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {threshold!r}")
        check_alpha(alpha)
        self.weight = weight
        self.mix = mix
        self.alpha = alpha
        self.xi = xi
        self.threshold = threshold
        self.mode = mode

    def schedules(self) -> dict[str, Schedule]:
        """``weight`` and ``alpha`` may follow the progress of training."""
        return {"weight": Schedule(self.weight), **super().schedules()}

    def transform_targets(self, batch: Batch) -> Tensor:
        """Mixed targets; for a sigmoid a class, rescaled ones."""
        mix = self.mix_of(batch)
        if mix is None or self.ctx.loss_kind != "binary_cross_entropy":
            return super().transform_targets(batch)
        return rescaled_binary_targets(
            batch.targets, mix.permutation, mix.lam, xi=self.xi, threshold=self.threshold
        )

    def penalty(self, batch: Batch) -> Tensor:
        """The decoupled term of the rows that count."""
        mix = self.mix_of(batch)
        if mix is None or self.ctx.loss_kind != "cross_entropy":
            return batch.logits.new_zeros(())
        classes = class_indices(batch.labels)
        losses = decoupled_losses(
            batch.logits, classes, classes[mix.permutation], mix.lam,
            xi=self.xi, threshold=self.threshold, mode=self.mode,
        )  # fmt: skip
        return batch.masked_mean(losses)
