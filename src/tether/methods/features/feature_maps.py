"""Feature maps in any layout, and how far they lie from those of the pretrained weights."""

from __future__ import annotations

from torch import Tensor


def channel_dim(maps: Tensor, channels_first: bool = False) -> int:
    """Which dimension of maps counts the channels: of images in either layout, tokens, or rows."""
    if maps.ndim < 4:
        return 1 if channels_first else maps.ndim - 1
    shape = maps.shape  # square maps tell
    last = maps.ndim == 4 and shape[1] == shape[2] != shape[3]
    return 3 if last and not channels_first else 1


def by_channel(maps: Tensor, channels_first: bool = False) -> Tensor:
    """Feature maps as ``[N, P, C]``, with P positions.

    Example:
        >>> import torch
        >>> by_channel(torch.zeros(2, 5, 3, 3)).shape, by_channel(torch.zeros(2, 7, 5)).shape
        (torch.Size([2, 9, 5]), torch.Size([2, 7, 5]))
    """
    moved = maps.movedim(channel_dim(maps, channels_first), -1)
    return moved.reshape(len(maps), -1, moved.shape[-1])


def feature_map_distances(
    maps: Tensor, start: Tensor, weights: Tensor | None = None, *, channels_first: bool = False
) -> Tensor:
    """Half the weighted squared distance of each sample's maps, ``[N, ...] -> [N]``.

    ``sum_c C v_c |F_c - F0_c|² / (2 P)``, with C channels and P positions.

    Args:
        maps: ``[N, C, H, W]``, ``[N, T, C]`` or ``[N, C]``.
        start: of the pretrained weights, of the same shape, without a graph.
        weights: v, ``[C]``, of sum 1; None: 1 / C each.
        channels_first: channels are dimension 1 whatever the shape looks like.

    Example:
        >>> import torch
        >>> maps = torch.tensor([[1.0, 3.0]])
        >>> feature_map_distances(maps, torch.zeros(1, 2))
        tensor([5.])
        >>> feature_map_distances(maps, torch.zeros(1, 2), torch.tensor([1.0, 0.0]))
        tensor([1.])
    """
    squares = by_channel((maps - start.detach()).square(), channels_first)
    means = squares.mean(1)  # [N, C]
    if weights is not None:
        means = means * (weights * means.shape[1]).to(means.dtype)
    return 0.5 * means.sum(1)
