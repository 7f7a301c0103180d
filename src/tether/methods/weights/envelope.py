"""The group sparse envelope: value and proximal map, from the norms of the groups."""

from __future__ import annotations

import torch
from torch import Tensor


def group_envelope(norms: Tensor, k: float | Tensor, group_weights: Tensor | None = None) -> Tensor:
    """Tightest convex bound below ``1/2 sum_j d_j n_j^2`` of at most ``k`` groups.

    With ``v = sqrt(d) n`` in falling order, and the first ``r < k`` with
    ``s = sum_{j > r} v_j / (k - r) >= v_{r+1}``:
    ``1/2 (sum_{j <= r} v_j^2 + (sum_{j > r} v_j)^2 / (k - r))``. For ``k`` = all groups it is
    weight decay, for ``k = 1`` the squared group lasso.

    Args:
        norms: lengths n of the groups, ``[..., m]``.
        k: how many groups, above 0 and at most m; broadcasts with ``[...]``.
        group_weights: d, above 0, ``[m]`` or as ``norms``; None: ones.

    Returns:
        One value a row of norms.

    Example:
        >>> norms = torch.tensor([3.0, 1.0, 1.0])
        >>> [round(group_envelope(norms, k).item(), 3) for k in (1, 2, 3)]
        [12.5, 6.5, 5.5]
    """
    sizes = norms if group_weights is None else norms * group_weights.sqrt()
    ordered = sizes.sort(dim=-1, descending=True).values
    number = torch.as_tensor(k, dtype=ordered.dtype, device=ordered.device)[..., None]
    kept = torch.arange(ordered.shape[-1], device=ordered.device)
    rest = ordered.flip(-1).cumsum(-1).flip(-1)  # of the groups from r + 1 on
    left = number - kept
    level = torch.where(left > 0, rest / left.clamp(min=1e-30), -1.0)
    first = ((level >= ordered * (1.0 - 1e-9)) & (left > 0)).to(torch.int8).argmax(-1, True)
    squares = ordered.square().cumsum(-1) - ordered.square()
    value = squares + rest.square() / torch.where(left > 0, left, 1.0)
    return 0.5 * value.gather(-1, first).squeeze(-1)


def prox_group_envelope(
    norms: Tensor, k: float | Tensor, strength: float | Tensor,
    group_weights: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Factors of the groups in ``argmin_x strength envelope_k(x) + 1/2 |x - t|^2``.

    Long groups shrink as under weight decay, by ``1 / (1 + g d)``; middle ones are shortened by a
    threshold that adapts to ``k``; short ones get exactly 0. At least k stay, usually a few more.
    The threshold is the root of ``sum_j clip(sqrt(g d_j) n_j z - g d_j, 0, 1) = k``, found by one
    sort of its corners, in float64 on the device.

    Args:
        norms: lengths of the groups of t, ``[..., m]``.
        k: how many groups, above 0 and at most m; broadcasts with ``[...]``.
        strength: g, >= 0.
        group_weights: d, above 0, ``[m]`` or as ``norms``; None: ones.

    Returns:
        Factors ``[..., m]`` in [0, 1]; all 1 for the strength 0.

    Example:
        >>> prox_group_envelope(torch.tensor([3.0, 1.0, 0.9]), 1, 1.0)
        tensor([0.5000, 0.0000, 0.0000])
    """
    n = norms.double()
    gd = torch.as_tensor(strength, dtype=n.dtype, device=n.device) * (
        torch.ones_like(n) if group_weights is None else group_weights.to(n).expand_as(n)
    )
    number = torch.as_tensor(k, dtype=n.dtype, device=n.device)[..., None]
    ridge = 1.0 / (1.0 + gd)
    slope = gd.sqrt() * n
    alive = slope > 0
    safe = torch.where(alive, slope, 1.0)
    corners = torch.cat([gd / safe, (1.0 + gd) / safe], -1)
    corners = torch.where(torch.cat([alive, alive], -1), corners, torch.inf)
    gains = torch.cat([slope, -slope], -1)
    offsets = torch.where(torch.cat([alive, alive], -1), torch.cat([-gd, 1.0 + gd], -1), 0.0)
    corners, order = corners.sort(dim=-1)
    gain = gains.gather(-1, order).cumsum(-1)
    offset = offsets.gather(-1, order).cumsum(-1)
    known = torch.isfinite(corners)
    reached = torch.where(known, gain * torch.where(known, corners, 0.0) + offset, -1.0)
    reached = reached >= number * (1.0 - 1e-12)
    at = reached.to(torch.int8).argmax(-1, True)
    before = (at - 1).clamp(min=0)
    steepness = gain.gather(-1, before)
    z = (number - offset.gather(-1, before)) / steepness.clamp(min=1e-300)
    z = torch.minimum(z, corners.gather(-1, at)).clamp(min=1e-300)
    short = 1.0 - gd.sqrt() / (z * torch.where(alive, n, 1.0))
    scales = torch.where(alive, torch.minimum(ridge, short).clamp(min=0.0), 0.0)
    few = alive.sum(-1, keepdim=True) <= number
    scales = torch.where(few, ridge, scales)
    return torch.where(gd > 0, scales, 1.0).to(norms.dtype)
