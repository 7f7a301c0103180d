"""Hide parts of inputs at random, and what it costs to predict them badly."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_mask(allowed: Tensor, ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """A share of the allowed places of each row, at least one, bool ``[N, T]``.

    Args:
        allowed: bool ``[N, T]``.
        ratio: share, in (0, 1).
        generator: of the random numbers.
    """
    scores = torch.rand(allowed.shape, generator=generator, device=allowed.device)
    scores = torch.where(allowed, scores, 2.0)
    wanted = (allowed.sum(1, keepdim=True) * ratio).round().clamp(min=1)
    places = scores.argsort(1).argsort(1)
    return (places < wanted) & allowed


def patches_of(images: Tensor, patch: int) -> Tensor:
    """Square patches in reading order, ``[N, C, H, W] -> [N, T, C * patch * patch]``.

    Sides that are no multiple of ``patch`` are filled with zeros.
    """
    high, wide = (-images.shape[-2]) % patch, (-images.shape[-1]) % patch
    padded = F.pad(images, (0, wide, 0, high)) if high or wide else images
    return F.unfold(padded, patch, stride=patch).transpose(1, 2)


def hide_patches(images: Tensor, mask: Tensor, patch: int) -> Tensor:
    """Images whose masked patches ``[N, T]`` are zero, the mean colour of normalised images."""
    height, width = images.shape[-2:]
    rows, columns = -(-height // patch), -(-width // patch)
    grid = mask.view(-1, 1, rows, columns).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return images.masked_fill(grid[..., :height, :width], 0.0)


def masked_patch_losses(
    predicted: Tensor, images: Tensor, mask: Tensor, patch: int, *, normalize: bool = False
) -> Tensor:
    """Mean squared error over the pixels of the masked patches, ``[N]``.

    Args:
        predicted: ``[N, T, C * patch * patch]``.
        images: ``[N, C, H, W]``.
        mask: bool ``[N, T]``.
        patch: side of a patch.
        normalize: compare with patches brought to mean 0 and deviation 1, each by itself.
    """
    real = patches_of(torch.ones_like(images[:1]), patch)
    targets = patches_of(images, patch)
    if normalize:
        spread = targets.var(-1, keepdim=True, unbiased=False)
        targets = (targets - targets.mean(-1, keepdim=True)) / (spread + 1e-6).sqrt()
    weight = real * mask.unsqueeze(-1)
    squares = (predicted - targets).square() * weight
    return squares.sum((1, 2)) / weight.sum((1, 2)).clamp(min=1.0)


def masked_word_losses(logits: Tensor, words: Tensor, counts: Tensor) -> Tensor:
    """Mean cross-entropy over the masked words of a row, ``[N]``; 0 where there is none.

    Args:
        logits: at the places looked at ``[N, k, V]``.
        words: the words that were there ``[N, k]``.
        counts: bool ``[N, k]``, False for places that were not masked.
    """
    each = F.cross_entropy(logits.flatten(0, 1), words.flatten(), reduction="none")
    weight = counts.to(each.dtype)
    return (each.view(words.shape) * weight).sum(1) / weight.sum(1).clamp(min=1.0)


def masked_number_losses(predicted: Tensor, rows: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the masked numbers of a row, ``[N, d] -> [N]``."""
    weight = mask.to(predicted.dtype)
    return ((predicted - rows).square() * weight).sum(1) / weight.sum(1).clamp(min=1.0)
