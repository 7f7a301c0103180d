"""Policy noise mask: images under random masks that a policy learns to place."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Union

import torch
from torch import Tensor, nn

from tether.batch import Batch
from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.inputs.noise_masks import (
    beta_mask,
    concentrations,
    official_score,
    reinforce_losses,
)
from tether.methods.inputs.policies import POLICIES, call_policy, mask_policy
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context

OBJECTIVES = ("reinforce", "official")
#: Share of the old value in the running parameters, and in the running loss.
SLOW, BASELINE = 0.99, 0.9


@register(
    "policy_noise_mask",
    kind="inputs",
    paper="arXiv:2406.14568",
    cost="forward",
    losses=("cross_entropy", "binary_cross_entropy"),
    example={"grid": 4, "blur_kernel": 3, "policy": "small_conv"},
    stochastic=True,
    search_space={
        "policy_lr": ("log", 1e-4, 1e-2),
        "weight": ("log", 0.1, 10.0),
        "blur_kernel": ("choice", 1, 7, 13),
    },
)
class PolicyNoiseMask(Method):
    """Multiply each image by a random mask, and let a policy learn masks under which loss is low.

    Meant as a first stage on images of mixed origin, where a network would go by cues of the
    camera: 10 to 20 % of the steps under masks, then a stage without (``stages`` of ``tether
    tune``), which also brings the batch norms back to whole images. Experimental. Hurts beside
    strong augmentation, and without the second stage. The estimate of the policy's gradient is
    noisy; in the long run its masks may all go to 1, which is no mask (see ``measure``).

    With G x G cells, a(x) and b(x) the policy's outputs, and running means a', b' of them::

        m ~ Beta(exp(0.9 a' + 0.1 a(x)), exp(0.9 b' + 0.1 b(x)))   a cell, without a graph
        x <- x * blur(enlarge(m))
        penalty = mean_i (loss_i - baseline) mean_cells log p(m_i)       "reinforce"
        penalty = (mean_i log sum_cells p(m_i) - 1) loss                 "official"

    ``baseline`` is a running mean of the loss. The second form with weight 1 is the published
    one, ``loss * mean_i log sum_cells p(m_i)``, which also multiplies the network's own gradient
    by about log(G * G).

    Args:
        weight: of the penalty, >= 0, schedulable; 0 leaves the policy as it is (default 1).
        grid: G, cells along a side (default and paper 64).
        blur_kernel: pixels of the blur, odd; 1 for none (default and paper 13).
        blur_sigma: its deviation in pixels, above 0 (default and paper 6).
        objective: ``"reinforce"`` or ``"official"``.
        policy: ``"resnet10t"`` (of timm, from random numbers; as in the paper), ``"small_conv"``
            (two convolutions), or a module from images to ``[N, 2 G * G]``.
        policy_lr: learning rate of the policy's Adam, above 0 (default 0.001).

    Shape:
        Images ``[N, C, H, W]``; class indices ``[N]`` or probabilities, 0/1 matrices ``[N, K]``.

    State:
        The policy and its optimiser; ``base_alpha`` and ``base_beta`` ``[1, G * G]``; ``baseline``.

    Cost:
        Forward and backward of the policy: a fourth of a ResNet-50's for ``"resnet10t"``, little
        for ``"small_conv"``.

    Raises:
        ValueError: an option out of range.
        TetherError: the inputs are no images, or their channels cannot be told.

    References:
        Mehmet Can Yavuz, Yang Yang, "Policy Gradient-Driven Noise Mask", 2024, arXiv:2406.14568.

    Example:
        >>> PolicyNoiseMask(grid=16, policy="small_conv")
        PolicyNoiseMask(grid=16, policy='small_conv')
    """

    base_alpha: Tensor
    base_beta: Tensor
    baseline: Tensor

    def __init__(
        self,
        weight: ScheduleLike = 1.0,
        grid: int = 64,
        blur_kernel: int = 13,
        blur_sigma: float = 6.0,
        objective: str = "reinforce",
        policy: Union[str, nn.Module] = "resnet10t",
        policy_lr: float = 1e-3,
    ) -> None:
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if grid < 1 or int(grid) != grid:
            raise ValueError(f"grid must be a whole number above 0, got {grid!r}")
        if blur_kernel < 1 or blur_kernel % 2 != 1:
            raise ValueError(f"blur_kernel must be odd and above 0, got {blur_kernel!r}")
        for name, value in (("blur_sigma", blur_sigma), ("policy_lr", policy_lr)):
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
        if not isinstance(policy, nn.Module) and policy not in POLICIES:
            raise ValueError(f"policy must be a module or one of {', '.join(POLICIES)}: {policy!r}")
        self.weight = weight
        self.grid = grid
        self.blur_kernel = blur_kernel
        self.blur_sigma = blur_sigma
        self.objective = objective
        self.policy = policy
        self.policy_lr = policy_lr

    def setup(self, ctx: Context) -> None:
        """The policy, the running parameters of the cells, and the running loss."""
        cells = self.grid**2
        policy = self.policy
        if not isinstance(policy, nn.Module):
            policy = mask_policy(policy, ctx.model, self.info.name, cells)
        adam = partial(torch.optim.Adam, lr=self.policy_lr, fused=True)
        self.network = ctx.add_module("policy", policy, adam)
        for name in ("base_alpha", "base_beta"):
            self.add_state(name, torch.rand(1, cells).to(ctx.device))
        self.add_state("baseline", torch.full((), -1.0, device=ctx.device))  # -1: not known yet

    def transform_batch(self, batch: Batch) -> Batch:
        """Images under their masks; the log densities go on to the loss."""
        named: dict[Any, Any] = {**dict(enumerate(batch.args)), **batch.kwargs}
        images = [n for n, x in named.items() if isinstance(x, Tensor) and x.ndim == 4]
        if not images or not named[images[0]].is_floating_point():
            raise TetherError(f"method {self.info.name!r} masks images [N, C, H, W]: none came")
        x = named[images[0]]
        seen = x.detach().to(self.ctx.device, torch.float32)
        a, b = call_policy(self.network, seen, self.info.name).float().chunk(2, dim=1)
        alpha, beta = concentrations(self.base_alpha, a), concentrations(self.base_beta, b)
        mask, log_prob = beta_mask(
            alpha, beta, (x.shape[2], x.shape[3]), blur_kernel=self.blur_kernel,
            blur_sigma=self.blur_sigma, generator=self.ctx.generator,
        )  # fmt: skip
        named[images[0]] = x * mask.to(x)
        kwargs = {name: named[name] for name in batch.kwargs}
        args = tuple(named[at] for at in range(len(batch.args)))
        extras = {**batch.extras, "noise_mask": (log_prob, torch.cat([a, b], 1).detach().mean(0))}
        return replace(batch, args=args, kwargs=kwargs, extras=extras)

    def penalty(self, batch: Batch) -> Tensor:
        """What moves the policy; the running parameters move by the way."""
        log_prob, means = batch.extras["noise_mask"]
        if len(log_prob) != len(batch.logits):
            raise TetherError(
                f"{len(log_prob)} images were masked and there are {len(batch.logits)} rows of "
                "logits: give the model and reg.loss each batch of reg.batches(loader) whole"
            )
        losses = self.ctx.sample_losses(batch.logits, batch.targets)
        mean = batch.masked_mean(losses)
        noted = self.ctx.all_reduce(torch.cat([means, mean.detach().reshape(1)]), "mean")
        known = self.baseline >= 0.0
        before = torch.where(known, self.baseline, noted[-1])

        def write() -> None:
            for base, now in zip(
                (self.base_alpha, self.base_beta), noted[:-1].chunk(2), strict=True
            ):
                base.mul_(SLOW).add_(now, alpha=1.0 - SLOW)
            self.baseline.copy_(BASELINE * before + (1.0 - BASELINE) * noted[-1])

        self.ctx.defer(write)
        if self.objective == "official":
            return (official_score(log_prob) - 1.0) * mean
        return batch.masked_mean(reinforce_losses(losses, before, log_prob))

    def mean_mask(self) -> Tensor:
        """Mean of the cells under the running parameters alone, ``[G, G]``."""
        alpha, beta = self.base_alpha.exp(), self.base_beta.exp()
        return (alpha / (alpha + beta)).view(self.grid, self.grid)

    def measure(self) -> dict[str, Any]:
        """Mean of the masks and their spread over the cells; a mean near 1 is no mask."""
        mask = self.mean_mask()
        return {"mask": float(mask.mean()), "spread": float(mask.std(correction=0))}
