"""AdaRand (Yamaguchi et al., 2024): features drawn to random vectors of moving class priors."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.features.adarand_losses import (
    DISTANCES,
    UPDATES,
    adarand_feature_loss,
    adarand_prior_gradient,
    adarand_prior_loss,
)
from tether.methods.features.class_membership import Membership, add_class_sums
from tether.methods.features.class_moments import ClassMoments
from tether.methods.features.class_prior import ClassPrior, prior_adam
from tether.methods.features.random_regression import NOISES, REDUCTIONS
from tether.methods.features.rows import check_choice
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context

__all__ = ["AdaRand", "adarand_feature_loss", "adarand_prior_gradient", "adarand_prior_loss"]

SCHEDULES = ("cosine", "constant")


@register(
    "adarand",
    kind="features",
    paper="arXiv:2403.10097",
    needs=("features", "class_labels", "train_data"),
    cost="light",
    neutral={"weight": 0.0},
    stochastic=True,
    losses=("cross_entropy", "binary_cross_entropy", "mse", "l1", "custom"),
    conflicts=("randreg", "feature_norm"),
    search_space={"weight": ("log", 1e-2, 10.0), "alpha": ("uniform", 0.1, 0.9)},
)
class AdaRand(Method):
    """Draws each feature to a random vector from its class's Gaussian; the Gaussians move along.

    Helps with few labelled samples: features keep the scale and spread that pretraining gave them,
    and do not collapse as under a penalty on their norm. Hurts with wrong labels (correct them as
    well), cosine heads, and strong weight decay, which want another feature scale.

    ``R = mean of (f_i - z_i)²``, ``z_i ~ N(mu_y, sigma_y²)`` fresh in every step. mu and sigma
    begin as mean and deviation of each class's pretrained features. After each update, with the
    class means m of its batch, ``r_k <- alpha r_k + (1 - alpha) m_k``, and Adam moves mu down
    :func:`adarand_prior_loss`: towards r, apart from each other. Lengths of mu are not pulled.

    Soft labels: a class is drawn by its weight, and means are weighted. Several labels a sample
    (binary cross-entropy): the prior is the even mixture of its classes' Gaussians, so that each
    pulls alike in expectation and their spread is kept; the sample counts in the mean of each; one
    without classes is not drawn. Regression: classes are quantile bins of the target;
    ``update="intra"`` leaves neighbouring bins close.

    Args:
        weight: 0 and more, default 1.0 as in the paper; schedulable.
        alpha: weight of the old running mean, in [0, 1], default 0.5 as in the paper.
        lr: of the prior, default 1e-2 as in the released code.
        lr_schedule: ``"cosine"`` (default: ``lr cos(7 pi t / 16)``, t to 1) or ``"constant"``.
        distance: ``"cosine_squared"`` (default, the released code; lr and alpha belong to it) or
            ``"cosine"`` (the paper's text).
        reduction: ``"mean"`` (default, the released code), or ``"sum"`` over coordinates (the
            paper's text; a weight w of it is ``d w`` of the mean).
        distribution: ``"normal"`` (default), ``"laplace"``, or ``"uniform"`` between the least and
            largest feature of the class.
        sigma_scale: factor on sigma, default 1; 0 leaves the pull to mu alone.
        update: ``"both"`` (default), ``"intra"`` (only follow) or ``"inter"`` (only apart).
        fixed: leave the prior as it began, a RandReg by class.
        num_bins: bins of a regression target, default 10.

    Shape:
        Features ``[N, d]``; targets ``[N]``, ``[N, K]``, or numbers ``[N]``.

    State:
        ``prior`` (mu, sigma, running and first means, each ``[K, d]``) and its Adam; ``sums`` and
        ``counts`` of the running update. The prior is equal on all ranks.

    Cost:
        O(N d + K d min(K, d)) a step, O(N d + K d) with ``"cosine"``; 7 K d numbers are kept. No
        class is left out, however many there are. One evaluation pass before training.

    Raises:
        TetherError: a class without training samples, several regression outputs, no horizon.

    References:
        Shin'ya Yamaguchi, Sekitoshi Kanai, Kazuki Adachi, Daiki Chijiwa. Adaptive Random Feature
        Regularization on Fine-tuning Deep Neural Networks. CVPR 2024, arXiv:2403.10097.

    Example:
        >>> AdaRand(distance="cosine", lr_schedule="constant")
        AdaRand(lr_schedule='constant', distance='cosine')
    """

    pooled = ("sums", "counts")
    sums: Tensor
    counts: Tensor

    def __init__(
        self,
        weight: ScheduleLike = 1.0,
        alpha: float = 0.5,
        lr: float = 1e-2,
        lr_schedule: str = "cosine",
        distance: str = "cosine_squared",
        reduction: str = "mean",
        distribution: str = "normal",
        sigma_scale: float = 1.0,
        update: str = "both",
        fixed: bool = False,
        num_bins: int = 10,
    ) -> None:
        check_choice("lr_schedule", lr_schedule, SCHEDULES)
        check_choice("distance", distance, DISTANCES)
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("distribution", distribution, NOISES)
        check_choice("update", update, UPDATES)
        if not 0.0 <= alpha <= 1.0 or lr <= 0 or sigma_scale < 0 or num_bins < 1:
            raise ValueError("need 0 <= alpha <= 1, lr > 0, sigma_scale >= 0 and num_bins >= 1")
        self.weight, self.alpha, self.lr, self.lr_schedule = weight, alpha, lr, lr_schedule
        self.distance, self.reduction, self.distribution = distance, reduction, distribution
        self.sigma_scale, self.update, self.fixed = sigma_scale, update, fixed
        self.num_bins = num_bins

    def setup(self, ctx: Context) -> None:
        """Make the prior, and ask for the statistics that it begins with."""
        if self.lr_schedule == "cosine" and not self.fixed and not ctx.has_horizon:
            raise TetherError(
                f"{ctx.name!r}: the schedule of the prior's lr needs the length of training: "
                "attach(..., epochs=...) or total_steps=..., or AdaRand(lr_schedule='constant')"
            )
        self.membership = Membership(ctx, self.num_bins)
        count, width = self.membership.num_classes, ctx.num_features
        self.prior = ClassPrior(count, width, ctx.device)
        adam = None if self.fixed else partial(prior_adam, lr=self.lr)
        ctx.add_module("prior", self.prior, adam, reduce=False)  # equal on all ranks already
        self.add_state("sums", torch.zeros(count, width, device=ctx.device), sync="none")
        self.add_state("counts", torch.zeros(count, device=ctx.device), sync="none")
        self.feature_norm = torch.zeros((), device=ctx.device)  # a diagnostic: not saved
        moments = ClassMoments(count, width, ctx.device, extremes=self.distribution == "uniform")

        def update(batch: Batch) -> None:
            moments.update(batch.need_features(), self.membership.of(batch))

        ctx.statistics(update, lambda: self.prior.begin(moments.merged(ctx.all_reduce), ctx.name))

    def penalty(self, batch: Batch) -> Tensor:
        """Distance to vectors drawn from the priors as the last update left them."""
        features, classes = batch.need_features(), self.membership.of(batch)

        seen = features.detach()
        if not self.fixed:
            self.ctx.defer_to_backward(
                lambda: add_class_sums(self.sums, self.counts, seen, classes)
            )

        def note() -> None:
            self.feature_norm = batch.masked_mean(seen.norm(dim=1))

        self.ctx.defer(note)
        return adarand_feature_loss(
            features,
            self.prior.mu,
            self.prior.sigma,
            classes,
            sigma_scale=self.sigma_scale,
            distribution=self.distribution,
            reduction=self.reduction,
            generator=self.ctx.generator,
        )

    def after_step(self) -> None:
        """Let the running means follow the features of this update, and give mu its gradient."""
        if self.fixed:
            return
        ctx, prior = self.ctx, self.prior
        sums, counts = ctx.all_reduce(self.sums), ctx.all_reduce(self.counts)
        prior.follow(sums, counts, self.alpha, ctx.step_mask)
        prior.set_gradient(self.distance, self.update)
        if self.lr_schedule == "cosine":
            factor = math.cos(math.pi * 7 / 16 * ctx.progress)
            for group in ctx.optimizer_of("prior").param_groups:
                group["lr"] = self.lr * factor
        sums.zero_()
        counts.zero_()

    def measure(self) -> dict[str, Any]:
        """Feature norm of the last batch; how far the prior went, how it points, how long it is."""
        return {"feature_norm": float(self.feature_norm), **self.prior.numbers()}
