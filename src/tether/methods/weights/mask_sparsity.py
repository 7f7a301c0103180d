"""MaskSparsity: press on the channels that will be pruned, and on no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.catalogue import register
from tether.method import Method
from tether.methods.weights.many import local_part
from tether.methods.weights.prune_layers import chosen_layers, given_masks, whole_scales
from tether.methods.weights.prune_masks import gamma_prune_mask
from tether.methods.weights.start_penalty import start_pull
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context

MODES = ("grad", "prox", "smooth_l1")


@register(
    "mask_sparsity",
    kind="weights",
    paper="arXiv:2201.06776",
    cost="light",
    losses=("cross_entropy", "binary_cross_entropy", "mse", "l1"),
    neutral={"weight": 0.0, "include": ["*"]},
    example={"weight": 0.1, "ratio": 0.5, "include": ["*"]},
    search_space={"weight": ("log", 1e-4, 1e-1), "ratio": ("uniform", 0.2, 0.7)},
)
class MaskSparsity(Method):
    """Shrink the batch-norm scales of the channels that will be removed; leave the others alone.

    Pressing on every channel squeezes those that stay, too. Here it is settled at the start which
    ones go, from the trained scales, so that removing them at the end costs next to nothing.
    Helps to compress a trained network while it is adapted. Hurts nothing but the channels that
    it names; without enough steps their scales stay above 0, and removing them is a jolt. Do not
    pull the same scales back to their start. Channels are removed afterwards with
    ``tether.models.pruning.remove_channels``, which hands them to torch-pruning
    (``pip install "tether[pruning]"``); fine-tune the smaller network a little.

    Before each update, for the masked channels alone::

        grad:      g += weight sign(gamma)            (gamma hovers around 0)
        smooth_l1: g += weight gamma where |gamma| < lr weight, as ``grad`` elsewhere
        prox:      gamma <- sign(gamma) max(|gamma| - lr weight, 0) after the update: exactly 0

    Args:
        weight: lambda, >= 0, schedulable (default and paper 5e-4, for 100 epochs of ImageNet;
            with few steps 0.01 to 0.1).
        mode: ``"grad"`` (default and paper), ``"prox"`` (recommended), ``"smooth_l1"``.
        threshold: remove where ``|gamma|`` is at most this (default 0.01, where nothing else is
            given), after a phase that pressed on all channels.
        ratio: remove this share of every layer, in (0, 1).
        energy: remove what holds at most this share of ``sum gamma^2`` (paper's code: 1e-4).
        min_channels: of a layer that stay in any case (default 1).
        prune_mask: instead, the channels by name of the layer, True = remove: a dict, or a
            safetensors file.
        include: wildcards of norm layers; default: those between two layers of one block, which
            no shortcut passes (``"*"``: all).

    State:
        ``mask``: bool, all channels of the covered layers.

    Cost:
        A few operations a norm layer.

    Raises:
        ValueError: an option out of range, more than one rule.
        TetherError: no layer to prune, a mask that does not fit.

    References:
        N.-F. Jiang, X. Zhao, C.-Y. Zhao, Y.-Q. An, M. Tang, J.-Q. Wang, "Pruning-aware Sparse
        Regularization for Network Pruning", 2022, arXiv:2201.06776.

    Example:
        >>> MaskSparsity(0.02, "prox", ratio=0.5)
        MaskSparsity(weight=0.02, mode='prox', ratio=0.5)
    """

    mask: Tensor

    def __init__(
        self,
        weight: ScheduleLike = 5e-4,
        mode: str = "grad",
        threshold: float | None = None,
        ratio: float | None = None,
        energy: float | None = None,
        min_channels: int = 1,
        prune_mask: Mapping[str, Any] | str | Path | None = None,
        include: Sequence[str] | str | None = None,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is not one of {', '.join(MODES)}")
        if sum(v is not None for v in (threshold, ratio, energy, prune_mask)) > 1:
            raise ValueError("give one of threshold, ratio, energy and prune_mask")
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        for name, value in (("ratio", ratio), ("energy", energy)):
            if value is not None and not 0.0 < value < 1.0:
                raise ValueError(f"{name} must lie in (0, 1), got {value!r}")
        if (threshold is not None and not threshold >= 0) or min_channels < 1:
            raise ValueError("threshold must be >= 0 and min_channels at least 1")
        self.weight = weight
        self.mode = mode
        self.threshold = threshold
        self.ratio = ratio
        self.energy = energy
        self.min_channels = min_channels
        self.prune_mask = prune_mask
        self.include = include

    def setup(self, ctx: Context) -> None:
        """Choose the layers and settle which of their channels go."""
        self._layers, tied = chosen_layers(
            ctx, self.include, everything=self.prune_mask is not None
        )
        if self.prune_mask is not None:
            masks = given_masks(self.prune_mask, self._layers, ctx.name)
        else:
            masks = gamma_prune_mask(
                whole_scales(self._layers), threshold=self.threshold, ratio=self.ratio,
                energy=self.energy, coupled=tied, min_channels=self.min_channels,
            )  # fmt: skip
        self.add_state("mask", torch.cat(list(masks.values())).to(ctx.device))

    def acts_on(self) -> Iterable[nn.Parameter]:
        """The scales of the covered layers."""
        return list(self._layers.values())

    def masks(self) -> dict[str, Tensor]:
        """Channels to remove, by layer; what ``remove_channels`` takes."""
        sizes = [len(gamma) for gamma in self._layers.values()]
        parts = torch.split(self.mask.bool(), sizes)
        return dict(zip(self._layers, parts, strict=True))

    def _pressed(self) -> Iterable[tuple[nn.Parameter, Tensor, Tensor]]:
        """(parameter, its local scales, their mask) where there is a gradient."""
        for (_, mask), param in zip(self.masks().items(), self._layers.values(), strict=True):
            if param.grad is not None:
                (gamma,) = self.ctx.local([param])
                yield param, gamma, local_part(mask, param).to(gamma.dtype)

    def edit_gradients(self) -> None:
        """Add the slope of the price on the masked scales."""
        weight, scale = self.value("weight"), self.ctx.grad_scale
        if weight == 0.0 or self.mode == "prox":
            return
        for param, gamma, mask in self._pressed():
            slope = gamma.sign()
            if self.mode == "smooth_l1":
                slope = torch.where(gamma.abs() < self.ctx.lr(param) * weight, gamma, slope)
            slope = weight * slope * mask
            (grad,) = self.ctx.local([param.grad]) if param.grad is not None else (slope,)
            grad.add_(slope if scale is None else slope * scale.to(slope.dtype))

    def after_step(self) -> None:
        """Soft-threshold the masked scales, in the mode ``prox``."""
        weight, step_mask = self.value("weight"), self.ctx.step_mask
        if weight == 0.0 or self.mode != "prox":
            return
        for param, gamma, mask in self._pressed():
            step = self.ctx.lr(param) * weight * mask
            step = step if step_mask is None else step * step_mask.to(step.dtype)
            gamma.mul_(1.0 - start_pull(gamma, step, form="l1_sp"))

    def measure(self) -> dict[str, Any]:
        """Share of the channels that go, the largest of their scales, the mean of the others."""
        scales = whole_scales(self._layers).values()
        size, mask = torch.cat([gamma.detach().abs() for gamma in scales]), self.mask.bool()
        return {
            "masked_share": float(mask.float().mean()),
            "largest_masked": float(size[mask].max()) if bool(mask.any()) else 0.0,
            "mean_kept": float(size[~mask].mean()),
        }
