"""Projections onto a ball round the starting point, shared by the constraints."""

from __future__ import annotations

import torch
from torch import Tensor

NORMS = ("fro", "mars")
METHODS = ("radial", "euclidean")


def check_norm(norm: str, method: str) -> None:
    """Refuse unknown names of a norm or of a way to project."""
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is not one of {', '.join(NORMS)}")
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {', '.join(METHODS)}")


def mars_norm(param: Tensor) -> Tensor:
    """Maximum absolute row sum: the operator norm from l_inf to l_inf; a row is an output unit.

    Example:
        >>> mars_norm(torch.tensor([[1.0, -2.0], [0.5, 0.5]])).item()
        3.0
    """
    return row_sums(param).amax()


def pull_back(distance: Tensor, radius: float | Tensor) -> Tensor:
    """Share of the way back to the centre that brings ``distance`` down to ``radius``.

    ``1 - min(1, r / d)``: exactly 0 inside the ball, 1 for ``r = 0``, never NaN at ``d = 0``.
    """
    tiny = torch.finfo(distance.dtype).tiny
    return 1.0 - (radius / distance.clamp(min=tiny)).clamp(max=1.0)


def project_frobenius(param: Tensor, center: Tensor, radius: float | Tensor) -> Tensor:
    """Nearest point to ``param`` in the Frobenius ball round ``center``.

    ``W0 + T min(1, r / |T|_F)`` with ``T = W - W0``; a point inside comes back bit for bit.

    Example:
        >>> project_frobenius(torch.tensor([3.0, 4.0]), torch.zeros(2), 1.0)
        tensor([0.6000, 0.8000])
    """
    return _pulled(param, center, pull_back(length(param - center), radius))


def project_mars(
    param: Tensor, center: Tensor, radius: float | Tensor, method: str = "radial"
) -> Tensor:
    """Bring every row of ``param - center`` into the l1 ball of ``radius``.

    ``"radial"`` scales a row that is too long, as Gouk et al. do; ``"euclidean"`` goes to the
    nearest point of the ball by soft thresholding. Rows inside come back bit for bit.

    Args:
        param: weights ``[out, ...]``.
        center: centre of the ball, of the same shape.
        radius: a number, or one a row ``[out]``.
        method: ``"radial"`` or ``"euclidean"``.

    Example:
        >>> project_mars(torch.tensor([[3.0, 1.0]]), torch.zeros(1, 2), 2.0)
        tensor([[1.5000, 0.5000]])
        >>> project_mars(torch.tensor([[3.0, 1.0]]), torch.zeros(1, 2), 2.0, "euclidean")
        tensor([[2., 0.]])
    """
    check_norm("mars", method)
    moved = param - center
    pull = per_row(pull_back(row_sums(moved), radius), param)
    if method == "radial":
        return _pulled(param, center, pull)
    sizes = moved.flatten(1).abs()
    threshold = per_row(_l1_threshold(sizes, radius), param)
    nearest = center + moved.sign() * (moved.abs() - threshold).clamp(min=0.0)
    return torch.where(pull > 0, nearest, param)


def project_ball(
    param: Tensor,
    center: Tensor,
    radius: float | Tensor,
    *,
    norm: str = "fro",
    method: str = "radial",
) -> Tensor:
    """Project onto the ball of ``norm`` (``"fro"`` or ``"mars"``) round ``center``."""
    check_norm(norm, method)
    if norm == "fro":
        return project_frobenius(param, center, radius)
    return project_mars(param, center, radius, method)


def project_batch_norm(
    gamma: Tensor,
    running_var: Tensor,
    gamma0: Tensor,
    var0: Tensor,
    radius: float | Tensor,
    *,
    eps: float = 1e-6,
) -> Tensor:
    """Clamp the slope of every channel of a batch norm to within ``radius`` of its first slope.

    The layer is a diagonal map with ``q = gamma / sqrt(var + eps)``:
    ``q <- q0 + clip(q - q0, -r, r)`` and ``gamma <- q sqrt(var + eps)``. Channels inside come
    back bit for bit; the running variance is read, never written.
    """
    scale = (running_var + eps).sqrt()
    start = gamma0 / (var0 + eps).sqrt()
    moved = gamma / scale - start
    bound = torch.as_tensor(radius, dtype=moved.dtype, device=moved.device)
    clamped = (start + moved.clamp(-bound, bound)) * scale
    return torch.where(moved.abs() > bound, clamped, gamma)


def _pulled(param: Tensor, center: Tensor, pull: Tensor) -> Tensor:
    # lerp is W + p (W0 - W) for a small share p and W0 - (W0 - W)(1 - p) for a large one: exact
    # at p = 0 and at p = 1.
    return torch.lerp(param, center, pull.to(param.dtype))


def wide_dtype(tensor: Tensor) -> torch.dtype:
    """The type in which sums over a tensor are made: float32 or wider."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def length(tensor: Tensor) -> Tensor:
    """Frobenius norm in float32 or wider, good to rounding."""
    if tensor.device.type == "cpu" and tensor.ndim > 1:
        # One long float32 sum is off by up to 5e-4 on the CPU: sum rows first.
        tensor = torch.linalg.vector_norm(tensor.flatten(1), dim=1, dtype=wide_dtype(tensor))
    size: Tensor = torch.linalg.vector_norm(tensor, dtype=wide_dtype(tensor))
    return size


def row_sums(tensor: Tensor) -> Tensor:
    """Absolute sum of every row ``[out]``, in float32 or wider."""
    rows = tensor.flatten(1)
    sums: Tensor = torch.linalg.vector_norm(rows, ord=1, dim=1, dtype=wide_dtype(tensor))
    return sums


def per_row(values: Tensor, param: Tensor) -> Tensor:
    """Values ``[out]`` in the shape that multiplies the rows of ``param``."""
    return values.view(-1, *[1] * (param.ndim - 1))


def _l1_threshold(sizes: Tensor, radius: float | Tensor) -> Tensor:
    """Soft threshold that brings each row of absolute values ``[m, n]`` to the sum ``radius``."""
    ordered = sizes.sort(dim=1, descending=True).values
    count = torch.arange(1, sizes.shape[1] + 1, device=sizes.device, dtype=sizes.dtype)
    bound = torch.as_tensor(radius, dtype=sizes.dtype, device=sizes.device).expand(len(sizes))
    excess = ordered.cumsum(1) - bound[:, None]
    last = (ordered * count > excess).sum(1, keepdim=True).clamp(min=1) - 1
    return (excess.gather(1, last).squeeze(1) / (last.squeeze(1) + 1)).clamp(min=0.0)
