"""RandReg (after Zhong and Maki, 2020): regress the features to random vectors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.features.class_moments import ClassMoments
from tether.methods.features.random_regression import LOSSES, random_feature_regression
from tether.methods.features.rows import check_choice
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.engine.context import Context

__all__ = ["RandReg", "random_feature_regression"]


@register(
    "randreg",
    kind="features",
    paper="arXiv:1908.05997",
    needs=("features",),
    cost="light",
    neutral={"weight": 0.0},
    stochastic=True,
    pooling="mean",
    conflicts=("adarand", "feature_norm"),
    search_space={"weight": ("log", 1e-3, 10.0)},
)
class RandReg(Method):
    """Regresses every feature vector to fresh random noise, whatever its class.

    Helps with few labelled samples, without labels, source data or a frozen copy: the features
    cannot grow to fit the head, and noisy gradients perturb them. Hurts at large weights, where
    norm and spread of the features collapse (earlier than under ``feature_norm``, since the noise
    grows with the weight). N(0, I) is centred where the features after a ReLU cannot be.

    ``R = mean over rows and coordinates of (f_i - z_i)²``, ``z_i`` fresh in every step. This is
    the simplified form with a fixed weight; Zhong and Maki set the strength by the gradients of
    both objectives. ``balance="gradient"`` is our rule for that: R is multiplied by ``rho
    |dL/df| / |dR/df|`` (Frobenius norms at the head's input), a smoothed constant of the step.

    Args:
        weight: 0 and more, default 1.0; schedulable.
        distribution: of z: ``"pretrained"`` (default), normal with mean and deviation of every
            coordinate over the training set, read off the pretrained network; ``"normal"``;
            ``"uniform"``; ``"fixed"``, no noise (with mean 0 the same as ``feature_norm``).
        mean: of ``"normal"``; the value of ``"fixed"``; default 0.
        std: of ``"normal"``; factor on the deviations of ``"pretrained"``; default 1.
        low: of ``"uniform"``, default 0.
        high: of ``"uniform"``, default 1.
        balance: None (default), or ``"gradient"``; for losses known by name, not for tokens.
        rho: strength under balance, in (0, 1], default 0.5.
        ema: weight of the old strength under balance, in [0, 1), default 0.9.
        loss: ``"mse"`` (default) or ``"smooth_l1"``.

    Shape:
        Features ``[N, d]``; token features are averaged over valid tokens first.

    State:
        ``prior_mean``, ``prior_std`` ``[d]`` (``"pretrained"``); the smoothed strength (balance).

    Cost:
        O(N d) a step; one evaluation pass before training (``"pretrained"``); a call of the head
        and its backward to the features (balance).

    Raises:
        TetherError: no training data for ``"pretrained"``; balance with a loss of one's own.

    References:
        Yang Zhong, Atsuto Maki. Regularizing CNN Transfer Learning with Randomised Regression.
        CVPR 2020, arXiv:1908.05997. Simplified as in Shin'ya Yamaguchi et al., Adaptive Random
        Feature Regularization on Fine-tuning Deep Neural Networks, CVPR 2024, arXiv:2403.10097.

    Example:
        >>> RandReg(weight=0.1, distribution="normal")
        RandReg(weight=0.1, distribution='normal')
    """

    prior_mean: Tensor
    prior_std: Tensor
    strength: Tensor
    strength_weight: Tensor

    def __init__(
        self,
        weight: ScheduleLike = 1.0,
        distribution: str = "pretrained",
        mean: float = 0.0,
        std: float = 1.0,
        low: float = 0.0,
        high: float = 1.0,
        balance: str | None = None,
        rho: float = 0.5,
        ema: float = 0.9,
        loss: str = "mse",
    ) -> None:
        check_choice("distribution", distribution, ("pretrained", "normal", "uniform", "fixed"))
        check_choice("balance", balance, (None, "gradient"))
        check_choice("loss", loss, LOSSES)
        if mean != 0.0 and distribution in ("pretrained", "uniform"):
            raise ValueError(f"mean={mean} has no meaning for distribution={distribution!r}")
        if (low, high) != (0.0, 1.0) and distribution != "uniform":
            raise ValueError(f"low and high have no meaning for distribution={distribution!r}")
        if std < 0 or high < low or rho <= 0 or not 0.0 <= ema < 1.0:
            raise ValueError("need std >= 0, low <= high, rho > 0 and 0 <= ema < 1")
        self.weight, self.distribution = weight, distribution
        self.mean, self.std, self.low, self.high = mean, std, low, high
        self.balance, self.rho, self.ema, self.loss = balance, rho, ema, loss

    def setup(self, ctx: Context) -> None:
        """Ask for the statistics of the pretrained features, where they are wanted."""
        if self.balance and ctx.loss_kind == "token_cross_entropy":
            raise TetherError(
                f"{ctx.name!r}: balance='gradient' works on whole samples, not on tokens: leave "
                "balance=None and choose a weight"
            )
        for name in ("strength", "strength_weight") if self.balance else ():
            self.add_state(name, torch.zeros((), device=ctx.device))
        if self.distribution != "pretrained":
            return
        for name in ("prior_mean", "prior_std"):
            self.add_state(name, torch.zeros(ctx.num_features, device=ctx.device))
        moments = ClassMoments(1, ctx.num_features, ctx.device)

        def update(batch: Batch) -> None:
            rows = batch.need_features()
            counted = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
            moments.update(rows, counted if batch.mask is None else counted - (~batch.mask).long())

        def finish() -> None:
            whole = moments.merged(ctx.all_reduce)
            self.prior_mean.copy_(whole.mean[0])
            self.prior_std.copy_(whole.std()[0])

        ctx.statistics(update, finish)

    def penalty(self, batch: Batch) -> Tensor:
        """Distance to random vectors, times the balanced strength if asked for."""
        mean: Tensor | float = self.mean
        std: Tensor | float = 0.0 if self.distribution == "fixed" else self.std
        if self.distribution == "pretrained":
            mean, std = self.prior_mean, self.prior_std * self.std
        elif self.distribution == "uniform":
            mean, std = 0.5 * (self.low + self.high), (self.high - self.low) / math.sqrt(12.0)
        features = batch.need_features()
        penalty = random_feature_regression(
            features,
            mean,
            std,
            distribution="uniform" if self.distribution == "uniform" else "normal",
            loss=self.loss,
            mask=batch.mask,
            generator=self.ctx.generator,
        )
        if self.balance and features.requires_grad:
            return penalty * self._strength(batch, penalty)
        return penalty

    def _strength(self, batch: Batch, penalty: Tensor) -> Tensor:
        features = batch.need_features()
        # through the head again: under autocast the features given here are a copy that the
        # logits do not hang on
        rows = features.detach().requires_grad_()
        logits = self.ctx.head(rows).reshape(batch.logits.shape)
        task = self.ctx.task_loss(logits, batch.targets)
        grads = (*self.ctx.grad(task, (rows,)), *self.ctx.grad(penalty, (features,)))
        squares = torch.stack([grad.square().sum() for grad in grads])
        task_norm, own_norm = self.ctx.all_reduce(squares).sqrt().unbind()
        now = self.rho * task_norm / (own_norm + 1e-12)
        strength = self.ema * self.strength + (1.0 - self.ema) * now
        share = self.ema * self.strength_weight + (1.0 - self.ema)

        def write() -> None:
            self.strength, self.strength_weight = strength, share

        self.ctx.defer(write)
        return strength / share

    def measure(self) -> dict[str, Any]:
        """The present factor on the penalty, under balance."""
        if not self.balance:
            return {}
        return {"strength": float(self.strength / self.strength_weight.clamp(min=1e-12))}
