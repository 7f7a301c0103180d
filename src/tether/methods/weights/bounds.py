"""A weight tensor and its ball; bounds that are projected together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tether.methods.weights.many import local_part
from tether.methods.weights.projections import project_batch_norm

if TYPE_CHECKING:
    from tether.engine.context import Context


@dataclass(eq=False)
class Bound:
    """One tensor and its ball; a batch norm has its layer and its first variance, too."""

    name: str
    group: str
    param: nn.Parameter
    center: Tensor | None  # None: zero
    radius: Tensor
    layer: nn.Module | None = None
    start_variance: Tensor | None = None

    def variance(self) -> Tensor:
        """Present running variance of the batch norm, of all channels."""
        return known(getattr(self.layer, "running_var", None))


@dataclass
class Pack:
    """Bounds that live on one device, in one type, split in one way."""

    bounds: list[Bound] = field(default_factory=list)
    joined: tuple[Tensor, Tensor, Tensor] | None = None


def known(tensor: Tensor | None) -> Tensor:
    """The tensor, which a bound of this kind has."""
    if tensor is None:
        raise RuntimeError("a bound of a batch norm lacks its variance or its start")
    return tensor


def shared_variances(bounds: list[Bound], ctx: Context) -> list[Tensor]:
    """Running variances beside the shards of their scales, the same on every rank.

    Each rank of a data-parallel run gathers statistics of its own rows; a bound that followed
    them would drive the ranks' weights apart, so that their mean is taken.
    """
    whole = [bound.variance() for bound in bounds]
    joined = ctx.all_reduce(torch.cat(whole), op="mean")
    parts = torch.split(joined, [len(variance) for variance in whole])
    return [local_part(part, bound.param) for part, bound in zip(parts, bounds, strict=True)]


def project_norms_(gammas: list[Tensor], pack: Pack, ctx: Context) -> None:
    """All batch norms as one long vector: a dozen small calls whatever their number."""
    if pack.joined is None:
        return
    start, start_variance, radii = pack.joined
    variances = torch.cat(shared_variances(pack.bounds, ctx)).to(radii)
    moved = project_batch_norm(torch.cat(gammas).to(radii), variances, start, start_variance, radii)
    torch._foreach_copy_(gammas, list(torch.split(moved, [len(gamma) for gamma in gammas])))
