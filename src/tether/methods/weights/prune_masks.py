"""Which channels are to go: masks from the scales of norm layers, and which layers are tied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
ENERGY_FLOOR = 1e-3


def gamma_prune_mask(
    scales: Mapping[str, Tensor], *, threshold: float | None = None, ratio: float | None = None,
    energy: float | None = None, coupled: Sequence[Sequence[str]] = (), min_channels: int = 1,
) -> dict[str, Tensor]:  # fmt: skip
    """Channels to be removed, by the size of their scale; True = remove.

    Args:
        scales: layer -> gamma ``[C]``.
        threshold: remove where ``|gamma|`` is at most this (0.01 where nothing is given).
        ratio: remove this share of every layer, the smallest.
        energy: remove the smallest ones that hold at most this share of ``sum gamma^2``; a layer
            whose largest gamma is below 1e-3 goes as a whole.
        coupled: layers whose channels are the same ones: they get one mask, by a vote.
        min_channels: the largest are kept in any case.

    Example:
        >>> gamma_prune_mask({"bn": torch.tensor([0.5, -0.001, 0.2])})["bn"]
        tensor([False,  True, False])
    """
    given = [v for v in (threshold, ratio, energy) if v is not None]
    if len(given) > 1:
        raise ValueError("give one of threshold, ratio and energy")
    masks = {}
    for name, gamma in scales.items():
        size = gamma.detach().abs().float()
        if ratio is not None:
            order = size.argsort(stable=True)
            mask = torch.zeros_like(size, dtype=torch.bool)
            mask[order[: int(ratio * len(size))]] = True
        elif energy is not None:
            mask = size <= _energy_threshold(size, energy)
        else:
            mask = size <= (0.01 if threshold is None else threshold)
        masks[name] = _keep_largest(mask, size, min_channels)
    for names in coupled:
        masks.update(vote_coupled_masks({name: masks[name] for name in names}))
    return masks


def _energy_threshold(size: Tensor, share: float) -> float:
    ordered = size.sort().values
    if float(ordered[-1]) < ENERGY_FLOOR:
        return 1.0
    total = ordered.square().cumsum(0) / ordered.square().sum()
    first = int((total <= share).sum())
    # between what may go and what stays
    return 0.0 if first == 0 else 0.5 * float(ordered[first - 1] + ordered[first])


def _keep_largest(mask: Tensor, size: Tensor, count: int) -> Tensor:
    kept = mask.clone()
    kept[size.argsort(stable=True)[-count:]] = False
    return kept


def vote_coupled_masks(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One mask for layers whose channels are tied: those that most of them want to remove.

    With the largest number of votes under which as many channels go as the layer that wants the
    fewest asked for.

    Example:
        >>> a, b = torch.tensor([True, True, False]), torch.tensor([True, False, False])
        >>> vote_coupled_masks({"a": a, "b": b})["a"]
        tensor([ True, False, False])
    """
    stacked = torch.stack([mask.bool() for mask in masks.values()])
    votes, fewest = stacked.sum(0), int(stacked.sum(1).min())
    for needed in range(len(stacked), 0, -1):
        chosen = votes >= needed
        if int(chosen.sum()) >= fewest:
            break
    return {name: chosen.clone() for name in masks}


def inner_norms(model: nn.Module) -> Iterator[tuple[tuple[str, ...], str, Any]]:
    """Norm layers between two kernels of one module, whose channels nothing else sees.

    Yields (names of the norm layers, name of the kernel that reads them, it). A depthwise
    convolution in between ties the norms before and after it.
    """
    for prefix, parent in model.named_modules():
        tied: list[str] = []
        made = False  # whether a kernel before them makes the channels
        for name, child in parent.named_children():
            path = f"{prefix}.{name}" if prefix else name
            if isinstance(child, NORMS) and child.weight is not None:
                tied = [*tied, path] if made else []
            elif isinstance(child, (nn.modules.conv._ConvNd, nn.Linear)):
                depthwise = getattr(child, "groups", 1)
                if depthwise > 1 and depthwise == getattr(child, "in_channels", 0):
                    continue
                if tied and depthwise == 1:
                    yield tuple(tied), path, child
                tied, made = [], depthwise == 1
            elif any(True for _ in child.parameters()):
                tied, made = [], False


def norm_layers(model: nn.Module) -> dict[str, Any]:
    """Every batch or group norm with a scale, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, NORMS) and module.weight is not None
    }
