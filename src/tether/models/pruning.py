"""Channels taken out of a network for good, through the package torch-pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tether.errors import ConfigError
from tether.methods.weights.prune_masks import NORMS, inner_norms
from tether.optional import require
from tether.words import nearest

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Removed:
    """What a network lost.

    Attributes:
        channels: how many were removed at the norm layers that were named.
        flops: multiplications and additions of one input, before and after.
        parameters: before and after.
    """

    channels: int
    flops: tuple[float, float]
    parameters: tuple[int, int]

    @property
    def flops_share(self) -> float:
        """Share of the operations that is gone."""
        return 1.0 - self.flops[1] / self.flops[0]


@torch.no_grad()
def absorb_pruned_bias_(
    model: nn.Module, masks: Mapping[str, Tensor], activation: Activation = torch.relu
) -> nn.Module:
    """Hand what pruned channels still emit, ``activation(beta)``, on to the layer that reads them.

    A channel whose scale is 0 is a constant. It goes into the next kernel's bias, which is made
    where there is none; exact but for the borders of convolutions that pad with zeros. Scales of
    the masked channels are set to 0. Norm layers that more than one kernel reads are left alone.

    Args:
        model: changed in place.
        masks: norm layer -> bool ``[C]``, True = pruned.
        activation: what follows a norm layer that has no activation of its own.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1))
        >>> _ = nn.init.ones_(net[1].bias)
        >>> masks = {"1": torch.tensor([True, False, False])}
        >>> before = net[3].bias.item()
        >>> _ = absorb_pruned_bias_(net, masks)
        >>> abs(net[3].bias.item() - before - net[3].weight[0, 0].item()) < 1e-6
        True
    """
    modules: dict[str, Any] = dict(model.named_modules())
    for names, _, kernel in inner_norms(model):
        name = names[-1]
        if name not in masks:
            continue
        mask, norm = masks[name].bool().to(kernel.weight.device), modules[name]
        norm.weight[mask] = 0.0
        emitted = getattr(norm, "act", activation)(norm.bias)
        constant = torch.where(mask, emitted, 0.0)
        weights = kernel.weight.flatten(2).sum(2) if kernel.weight.ndim > 2 else kernel.weight
        added = weights @ constant
        if kernel.bias is None:
            kernel.bias = nn.Parameter(added)
        else:
            kernel.bias += added
        norm.bias[mask] = 0.0
    return model


def to_pruning_groups(
    model: nn.Module, masks: Mapping[str, Tensor], example_inputs: Any
) -> list[Any]:
    """The groups of torch-pruning that remove the masked channels; call ``prune()`` of each.

    Norm layers that are tied (by an addition, or a depthwise convolution) share a group, which
    the first of them makes: give them one mask.

    Args:
        model: in evaluation mode.
        masks: norm layer -> bool ``[C]``, True = remove.
        example_inputs: one input of the model, or a tuple of them.

    Raises:
        ConfigError: torch-pruning is not installed, or a layer is unknown or would be emptied.
    """
    pruner = require("torch_pruning", "pruning", "removing channels")
    modules = dict(model.named_modules())
    for name in masks:
        if not isinstance(modules.get(name), NORMS):
            near = nearest(name, [n for n, m in modules.items() if isinstance(m, NORMS)])
            raise ConfigError(f"masks name the norm layer {name!r}, which is none{near}")
    graph = pruner.DependencyGraph().build_dependency(model, example_inputs=example_inputs)
    groups: list[Any] = []
    done: set[str] = set()
    for name, mask in masks.items():
        places = torch.nonzero(mask).flatten().tolist()
        if name in done or not places:
            continue
        group = graph.get_pruning_group(
            modules[name], pruner.prune_batchnorm_out_channels, idxs=places
        )
        if not graph.check_pruning_group(group):
            raise ConfigError(f"the mask of {name!r} would leave a layer without channels")
        done |= {n for n, m in modules.items() if any(dep.target.module is m for dep, _ in group)}
        groups.append(group)
    return groups


def remove_channels(
    model: nn.Module, masks: Mapping[str, Tensor], example_inputs: Any, *,
    absorb: bool = True, activation: Activation = torch.relu,
) -> Removed:  # fmt: skip
    """Remove masked channels from the network, in place.

    The smaller network no longer fits its class: keep it whole, with its widths. Make a new
    optimiser afterwards.

    Args:
        model: changed in place.
        masks: norm layer -> bool ``[C]``, True = remove; ``MaskSparsity.masks()``.
        example_inputs: one input of the model, or a tuple of them.
        absorb: hand the constants of the removed channels on, see :func:`absorb_pruned_bias_`.
        activation: for that.

    Raises:
        ConfigError: as :func:`to_pruning_groups`.
    """
    pruner = require("torch_pruning", "pruning", "removing channels")
    training = model.training
    model.eval()
    groups = to_pruning_groups(model, masks, example_inputs)
    before = pruner.utils.count_ops_and_params(model, example_inputs)
    if absorb:
        absorb_pruned_bias_(model, masks, activation)
    for group in groups:
        group.prune()
    after = pruner.utils.count_ops_and_params(model, example_inputs)
    model.train(training)
    return Removed(
        int(sum(int(mask.sum()) for mask in masks.values())),
        (float(before[0]), float(after[0])),
        (int(before[1]), int(after[1])),
    )
