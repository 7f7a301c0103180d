"""Generalised Gaussian weights: shape and scale, drawing, reshaping, an eight-bit number."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

SHAPES = (0.1, 3.0)
_STEP = 0.01


def _log_ratio(shape: Tensor) -> Tensor:
    """Log of ``E x^2 / (E |x|)^2``, which falls in the shape."""
    one, two, three = (torch.lgamma(n / shape) for n in (1.0, 2.0, 3.0))
    return one + three - 2.0 * two


def shape_of_moments(moments: Tensor) -> Tensor:
    """Shape nu from ``[..., 3]``: count, sum of sizes and sum of squares; 1 where all are zero.

    Solves ``Gamma(1/nu) Gamma(3/nu) / Gamma(2/nu)^2 = N sum w^2 / (sum |w|)^2`` between the
    entries of a table, in [0.1, 3], on the device.
    """
    count, total, square = moments.double().unbind(-1)
    table = torch.arange(SHAPES[0], SHAPES[1] + _STEP / 2, _STEP, dtype=torch.float64,
                         device=moments.device)  # fmt: skip
    known = -_log_ratio(table)  # rises
    tiny = 1e-300
    wanted = -(count * square / total.square().clamp(min=tiny)).clamp(min=tiny).log()
    at = torch.searchsorted(known, wanted).clamp(1, len(known) - 1)
    below, above = known[at - 1], known[at]
    share = ((wanted - below) / (above - below)).clamp(0.0, 1.0)
    found = table[at - 1] + _STEP * share
    return torch.where(total > 0, found, 1.0)


def moments_of(tensor: Tensor) -> Tensor:
    """Count, sum of sizes, sum of squares: ``[3]`` float64."""
    wide = tensor.detach() if tensor.dtype == torch.float64 else tensor.detach().float()
    square = torch.linalg.vector_norm(wide, dtype=torch.float64).square()
    total = torch.linalg.vector_norm(wide, ord=1, dtype=torch.float64)
    return torch.stack([torch.full_like(square, wide.numel()), total, square])


def estimate_gg_shape(tensors: Iterable[Tensor]) -> tuple[float, float]:
    """Shape and scale of the generalised Gaussian with mean 0 that has the weights' moments.

    Density ``nu / (2 a Gamma(1/nu)) exp(-(|x| / a)^nu)``: 2 is a Gaussian, 1 Laplace's.

    Example:
        >>> torch.manual_seed(0)
        <torch...>
        >>> shape, scale = estimate_gg_shape([torch.randn(100_000)])
        >>> abs(shape - 2.0) < 0.05, abs(scale - 2.0**0.5) < 0.05
        (True, True)
    """
    moments = torch.stack([moments_of(t).cpu() for t in tensors]).sum(0)
    shape = float(shape_of_moments(moments))
    deviation = math.sqrt(float(moments[2] / moments[0].clamp(min=1.0)))
    return shape, deviation * math.exp(0.5 * (math.lgamma(1 / shape) - math.lgamma(3 / shape)))


@torch.no_grad()
def gg_normal_(
    tensor: Tensor, shape: float = 1.5, gain: float = 2.0, mode: str = "fan_in",
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Fill a kernel with generalised Gaussian numbers of variance ``gain / n``.

    Args:
        tensor: two dimensions or more.
        shape: nu, above 0; 2 is Kaiming's normal initialisation.
        gain: 2 for ReLU (default), 1 for a linear layer.
        mode: n is ``"fan_in"`` (default) or ``"fan_out"``.
        generator: random numbers.

    Example:
        >>> weight = gg_normal_(torch.empty(300, 200), shape=1.0)
        >>> abs(weight.var().item() - 0.01) < 0.001
        True
    """
    if not shape > 0 or mode not in ("fan_in", "fan_out"):
        raise ValueError(f'shape above 0, mode "fan_in" or "fan_out", got {shape!r}, {mode!r}')
    fan = tensor[0].numel() if mode == "fan_in" else tensor.numel() // tensor.shape[1]
    scale = math.sqrt(gain / fan) * math.exp(
        0.5 * (math.lgamma(1 / shape) - math.lgamma(3 / shape))
    )
    rates = torch.full(tensor.shape, 1.0 / shape, dtype=torch.float64)
    gamma = torch._standard_gamma(rates, generator=generator)
    signs = torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
    return tensor.copy_(signs * scale * gamma.pow(1.0 / shape))


@torch.no_grad()
def rf8_quantize(tensor: Tensor, gap: int = 4) -> Tensor:
    """Round to a power of two, plus a second one where it is at most ``gap`` exponents smaller.

    Example:
        >>> rf8_quantize(torch.tensor([0.0, 0.28, 0.75, -3.0]))
        tensor([ 0.0000,  0.2812,  0.7500, -3.0000])
    """

    def power(x: Tensor) -> tuple[Tensor, Tensor]:
        exponent = torch.where(x == 0, 0.0, x.abs().log2().round())
        return x.sign() * torch.exp2(exponent), exponent

    wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    first, high = power(wide)
    second, low = power(wide - first)
    near = (high - low <= gap) & (second != 0)
    return torch.where(near, first + second, first).to(tensor.dtype)


@torch.no_grad()
def deepshape_(
    model: nn.Module, shape_scale: float = 0.8, std_scale: float = 0.6, *, frac_bits: int = 13,
    min_count: int = 1000,
) -> None:  # fmt: skip
    """Reshape the kernels of a model so that they code shorter; the order of weights stays.

    Weights rounded to ``frac_bits`` binary places get new levels in order of rank, so that their
    histogram becomes a generalised Gaussian of ``shape_scale`` times the shape and ``std_scale``
    times the scale. Outside the levels that at most ``min_count`` weights share nothing changes.
    A little fine-tuning should follow.
    """
    kernels = [p for p in model.parameters() if p.ndim >= 2]
    flat = torch.cat([p.flatten() for p in kernels]).double()
    mean, unit = flat.mean(), 2.0**-frac_bits
    shape, scale = estimate_gg_shape([flat - mean])
    levels = ((flat - mean) / unit).round().long()
    values, counts = levels.abs().unique(return_counts=True)  # type: ignore[no-untyped-call]
    common = values[counts > min_count]
    if not len(common):
        return
    edge = int(common.max())
    inner = torch.nonzero(levels.abs() <= edge).flatten()
    grid = torch.arange(-edge, edge + 1, dtype=torch.float64, device=flat.device)
    upper = (grid + 0.5) * unit / (scale * std_scale)
    nu = shape * shape_scale
    inside = torch.special.gammainc(torch.full_like(upper, 1.0 / nu), upper.abs().pow(nu))
    cdf = 0.5 + 0.5 * upper.sign() * inside
    floor = 1.0 - cdf[-1]  # by symmetry what lies below the first level
    cdf = (cdf - floor) / (cdf[-1] - floor)
    order = flat[inner].argsort(stable=True)
    ranks = (torch.arange(len(inner), dtype=torch.float64, device=flat.device) + 0.5) / len(inner)
    flat[inner[order]] = mean + grid[torch.searchsorted(cdf, ranks).clamp(max=2 * edge)] * unit
    parts = torch.split(flat, [p.numel() for p in kernels])
    for param, part in zip(kernels, parts, strict=True):
        param.copy_(part.view_as(param))
