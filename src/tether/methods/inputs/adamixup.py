"""AdaMixUp: mixup whose ratios are learnt, so that blends stay away from real samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor, nn

from tether.batch import Batch
from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.inputs.halves import halves
from tether.methods.inputs.mixing import Mix, mixed_targets
from tether.methods.inputs.policies import call_policy, interval_policy
from tether.methods.inputs.policy_formulas import (
    intrusion_loss,
    policy_interval,
    policy_pair,
    sample_ratio,
)
from tether.schedule import Schedule, ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context

INPUTS = ("official", "concat")


@register(
    "adamixup",
    kind="inputs",
    paper="arXiv:1809.02499",
    needs=("features", "class_labels"),
    cost="forward",
    losses=("cross_entropy",),
    stochastic=True,
    batch_statistics=True,
    mixes=True,
    search_space={
        "intrusion_weight": ("log", 0.1, 3.0),
        "policy_input": ("choice", *INPUTS),
        "policy_lr_scale": ("log", 0.1, 3.0),
    },
)
class AdaMixup(Method):
    """Mix pairs in shares that a policy network learns, away from the samples of other classes.

    A blend of two classes may look like a sample of a third; its mixed label is wrong then. The
    policy gives each pair an interval of shares, and learns from the task loss and from a second
    head that tells blends from real samples. Experimental: its use in fine-tuning is not shown.
    Helps where plain mixup underfits. Hurts small batches: each step is told the labels of only
    half of them. The second head also trains the features to show blending.

    Of a batch in random order, half are samples x_1 with labels, half are real samples x_u whose
    labels are not used; x_2 are random partners::

        (a, b, c) = softmax(policy(x_1, x_2)),  lam = a + b u,  u ~ Uniform(0, 1)
        x = lam x_1 + (1 - lam) x_2             with a graph into the policy
        task loss on x (targets lam y_1 + (1 - lam) y_2, lam without a graph) and on x_1
        penalty = mean CE of telling x from x_1 and x_u, on the features

    All three go through the model together: once, on one and a half times the rows. Rows with the
    label -100, and their partners, stay whole; a batch of one row is left as it is. In a bare loop
    iterate ``reg.batches(loader)``: it holds blends, x_1 and x_u.

    Args:
        intrusion_weight: of the penalty, >= 0, schedulable (default and paper 1).
        policy: ``"small_conv"`` (two convolutions; two layers where the model takes rows of
            numbers), or a module from what it sees of a pair to 3 logits.
        policy_input: ``"official"``, a noisy sum, or ``"concat"``, both side by side along the
            channels, without which the policy hardly knows the pair.
        policy_lr_scale: learning rate of the policy, as a multiple of the main one (default 1).

    Shape:
        Images ``[N, C, H, W]`` or rows of numbers; class indices ``[N]`` or probabilities
        ``[N, K]``.

    State:
        The policy and the second head with their optimisers, like the main one; not exported.

    Cost:
        The forward and backward of half a batch, and those of the policy.

    Raises:
        ValueError: an option out of range.
        TetherError: inputs that are no numbers, or that the policy cannot take.

    References:
        Hongyu Guo, Yongyi Mao, Richong Zhang, "MixUp as Locally Linear Out-Of-Manifold
        Regularization", AAAI 2019, arXiv:1809.02499.

    Example:
        >>> AdaMixup(policy_input="concat")
        AdaMixup(policy_input='concat')
    """

    def __init__(
        self,
        intrusion_weight: ScheduleLike = 1.0,
        policy: Union[str, nn.Module] = "small_conv",
        policy_input: str = "official",
        policy_lr_scale: float = 1.0,
    ) -> None:
        if isinstance(intrusion_weight, (int, float)) and not intrusion_weight >= 0:
            raise ValueError(f"intrusion_weight must be >= 0, got {intrusion_weight!r}")
        if policy != "small_conv" and not isinstance(policy, nn.Module):
            raise ValueError(f'policy must be "small_conv" or a module, got {policy!r}')
        if policy_input not in INPUTS:
            raise ValueError(
                f"policy_input must be one of {', '.join(INPUTS)}, got {policy_input!r}"
            )
        if not policy_lr_scale >= 0:
            raise ValueError(f"policy_lr_scale must be >= 0, got {policy_lr_scale!r}")
        self.intrusion_weight = intrusion_weight
        self.policy = policy
        self.policy_input = policy_input
        self.policy_lr_scale = policy_lr_scale

    def schedules(self) -> dict[str, Schedule]:
        """The engine multiplies the penalty by ``intrusion_weight``."""
        return {"weight": Schedule(self.intrusion_weight)}

    def setup(self, ctx: Context) -> None:
        """The policy, and the head that tells blends from real samples."""
        pair = 2 if self.policy_input == "concat" else 1
        policy = self.policy
        if not isinstance(policy, nn.Module):
            policy = interval_policy(ctx.model, self.info.name, inputs=pair)
        self.network = ctx.add_module("policy", policy)
        telling = nn.Sequential(
            nn.Linear(ctx.num_features, ctx.num_classes), nn.Linear(ctx.num_classes, 2)
        )
        self.telling = ctx.add_module("intrusion", telling)
        self._scaled: object = None
        self._interval: tuple[Tensor, Tensor] | None = None

    def transform_batch(self, batch: Batch) -> Batch:
        """Rows: blends, the samples x_1, the real samples x_u (which weigh nothing in the loss)."""
        half, ctx = len(batch.targets) // 2, self.ctx
        if half == 0:
            return batch
        draw: dict[str, Any] = {"generator": ctx.generator, "device": ctx.device}
        order = torch.randperm(len(batch.targets), **draw)[: 2 * half]
        partner = torch.randperm(2 * half, **draw)[:half]
        x = self._numbers(batch)
        first, second = (x[rows.to(x.device)] for rows in (order[:half], order[partner]))
        seen = policy_pair(first, second, self.policy_input, generator=ctx.generator)
        low, width = policy_interval(call_policy(self.network, seen.to(ctx.device), self.info.name))
        self._interval = (low.detach().mean(), width.detach().mean())
        lam = sample_ratio(low, width, generator=ctx.generator)

        return halves(batch, order, partner, lam)

    def _numbers(self, batch: Batch) -> Tensor:
        """The input that the policy sees."""
        for value in (*batch.args, *batch.kwargs.values()):
            if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
                return value
        raise TetherError(
            f"method {self.info.name!r} blends images or rows of numbers, and the batch has none: "
            "for texts use mixup"
        )

    def transform_targets(self, batch: Batch) -> Tensor:
        """Mixed targets; no graph leads through them to the policy."""
        mix: Mix | None = batch.extras.get("mix")
        if mix is None:
            return batch.targets
        classes = batch.logits.shape[1]
        return mixed_targets(batch.targets, *mix, num_classes=classes).to(batch.logits.dtype)

    def penalty(self, batch: Batch) -> Tensor:
        """How badly blends are told from real samples."""
        is_real = batch.extras.get("is_real")
        if is_real is None:
            return batch.logits.new_zeros(())
        return intrusion_loss(self.telling(batch.need_features()), is_real.to(batch.logits.device))

    def after_step(self) -> None:
        """Once: the policy's own learning rate, before its first update."""
        optimizer = self.ctx.optimizer_of("policy")
        if self._scaled is not optimizer:
            optimizer.defaults["lr"] = optimizer.defaults["lr"] * self.policy_lr_scale
            self._scaled = optimizer

    def measure(self) -> dict[str, Any]:
        """Mean ends of the last intervals; both near 0 or both near 1: nothing is mixed."""
        if self._interval is None:
            return {}
        low, width = (float(value) for value in self._interval)
        return {"low": low, "high": low + width}
