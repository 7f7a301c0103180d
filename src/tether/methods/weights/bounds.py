"""A weight tensor and its ball; bounds that are projected together."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tether.methods.weights.many import local_part
from tether.methods.weights.projections import project_batch_norm


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
        """Present running variance of the batch norm, beside the shard of its scale."""
        return local_part(known(getattr(self.layer, "running_var", None)), self.param)


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


def project_norms_(gammas: list[Tensor], pack: Pack) -> None:
    """All batch norms as one long vector: twelve small calls whatever their number."""
    if pack.joined is None:
        return
    start, start_variance, radii = pack.joined
    variances = [bound.variance() for bound in pack.bounds]
    joined = torch.cat(gammas).to(radii)
    moved = project_batch_norm(joined, torch.cat(variances).to(radii), start, start_variance, radii)
    torch._foreach_copy_(gammas, list(torch.split(moved, [len(gamma) for gamma in gammas])))
