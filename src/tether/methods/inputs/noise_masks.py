"""Masks of random cells, their log densities, and how a policy learns from the loss under them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.methods.inputs.mixing import sample_beta

#: Samples stay this far from 0 and 1, and parameters of the Beta distribution within these ends.
EDGE, SMALLEST, LARGEST = 1e-4, 1e-2, 1e2


def beta_log_density(values: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Log density of Beta(alpha, beta), elementwise.

    Example:
        >>> one = torch.ones(2)
        >>> beta_log_density(torch.tensor([0.1, 0.9]), one, one).abs()
        tensor([0., 0.])
    """
    norm = torch.lgamma(alpha + beta) - torch.lgamma(alpha) - torch.lgamma(beta)
    return (alpha - 1.0) * values.log() + (beta - 1.0) * torch.log1p(-values) + norm


def gaussian_blur(images: Tensor, kernel: int, sigma: float) -> Tensor:
    """Blur ``[N, 1, H, W]`` by a Gaussian of ``kernel`` pixels; the edge is continued outwards.

    Args:
        images: one channel.
        kernel: odd number of pixels; below 2 nothing is done.
        sigma: deviation in pixels, above 0.
    """
    if kernel < 2:
        return images
    at = torch.arange(kernel, device=images.device, dtype=images.dtype) - (kernel - 1) / 2
    curve = torch.exp(-0.5 * (at / sigma).square())
    curve = curve / curve.sum()
    edge = kernel // 2
    padded = F.pad(images, (edge, edge, edge, edge), mode="replicate")
    return F.conv2d(F.conv2d(padded, curve.view(1, 1, -1, 1)), curve.view(1, 1, 1, -1))


def beta_mask(
    alpha: Tensor, beta: Tensor, size: tuple[int, int], *, blur_kernel: int = 13,
    blur_sigma: float = 6.0, generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Masks of independent Beta cells, enlarged and blurred, and the log density of each cell.

    No gradient leads through the mask; one leads from the densities to ``alpha`` and ``beta``.

    Args:
        alpha: positive, ``[N, G * G]``.
        beta: positive, ``[N, G * G]``.
        size: height and width of the images.
        blur_kernel: odd number of pixels; below 2 no blur.
        blur_sigma: its deviation in pixels.
        generator: of random numbers.

    Returns:
        Masks ``[N, 1, H, W]`` in (0, 1), log densities ``[N, G * G]``.

    Example:
        >>> mask, log_prob = beta_mask(torch.full((2, 16), 2.0), torch.full((2, 16), 2.0), (8, 8))
        >>> mask.shape, log_prob.shape, bool(((mask > 0) & (mask < 1)).all())
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 16]), True)
    """
    cells = sample_beta(alpha.detach(), beta.detach(), generator).clamp(EDGE, 1.0 - EDGE)
    grid = round(cells.shape[1] ** 0.5)
    mask = cells.view(-1, 1, grid, grid)
    if (grid, grid) != tuple(size):
        mask = F.interpolate(mask, size=size, mode="nearest")
    return gaussian_blur(mask, blur_kernel, blur_sigma), beta_log_density(cells, alpha, beta)


def concentrations(base: Tensor, given: Tensor) -> Tensor:
    """Parameters of the cells, ``exp(0.9 base + 0.1 given)``, within [0.01, 100].

    Example:
        >>> concentrations(torch.zeros(1, 2), torch.tensor([[0.0, 10.0]]))
        tensor([[1.0000, 2.7183]])
    """
    return (0.9 * base + 0.1 * given).exp().clamp(SMALLEST, LARGEST)


def reinforce_losses(losses: Tensor, baseline: Tensor, log_prob: Tensor) -> Tensor:
    """``(loss_i - baseline) mean_cells log p_i``, no graph through the losses: ``[N]``."""
    return (losses - baseline).detach() * log_prob.mean(dim=1)


def official_score(log_prob: Tensor) -> Tensor:
    """Mean over rows of ``log sum_cells p``, which the published code multiplies the loss by."""
    return log_prob.logsumexp(dim=1).mean()
