"""What both distance constraints share: the bound tensors, and the projection after a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.method import Method
from tether.methods.weights.bounds import Bound, Pack, known, project_norms_, shared_variances
from tether.methods.weights.many import distances, local_part, project_, rows_are_whole
from tether.methods.weights.projections import check_norm, wide_dtype

if TYPE_CHECKING:
    from tether.engine.context import Context
    from tether.engine.layers import BatchNormRef

#: A tensor counts as lying at its bound from this share of the radius on.
_AT_BOUND = 1.0 - 1e-4


class WeightConstraint(Method):
    """Base of the constraints: subclasses say which radius a depth group has."""

    norm: str
    method: str = "radial"
    ratio: bool
    include_norm_layers: bool

    def check_options(self) -> None:
        """Refuse unknown norms and radii that are no radii."""
        check_norm(self.norm, self.method)
        for name in ("radius", "head_radius"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must be a number >= 0, got {value!r}")

    def group_of(self, name: str, group: str) -> str:
        """The depth group in which a weight is counted; the engine's by default."""
        return group

    def radius_of(self, group: str) -> float:
        """Radius of a depth group; ``math.inf`` leaves it free."""
        raise NotImplementedError

    def radius_of_head(self) -> float:
        """Radius of the head's ball round zero; ``math.inf`` leaves it free."""
        raise NotImplementedError

    def setup(self, ctx: Context) -> None:
        """Remember the balls of all weights that have a finite radius."""
        self._bounds: list[Bound] = []
        self._packs: list[Pack] = []
        self._trainable: tuple[bool, ...] = ()
        params = {ref.name: ref.param for ref in ctx.weights()}
        for ref in ctx.weights():
            if ref.role != "weight" or ref.param.ndim not in (2, 4):
                continue
            group = self.group_of(ref.name, ref.group)
            radius = self.radius_of_head() if ref.is_head else self.radius_of(group)
            if math.isinf(radius):
                continue
            if self.norm == "mars" and not rows_are_whole(ref.param):
                raise TetherError(
                    f'{ctx.name}: the rows of {ref.name!r} are split between ranks; norm="mars" '
                    'needs them whole: shard along dimension 0, or use norm="fro"'
                )
            self._bounds.append(self._ball(ref.name, group, ref.param, ref.is_head, radius))
        for norm in ctx.batch_norms() if self.include_norm_layers else ():
            group = self.group_of(norm.weight_name, norm.group)
            if group != "head" and not math.isinf(radius := self.radius_of(group)):
                param = params[norm.weight_name]
                self._bounds.append(self._channels(norm, group, param, radius))

    def _ball(
        self, name: str, group: str, param: nn.Parameter, is_head: bool, radius: float
    ) -> Bound:
        size = torch.as_tensor(radius, device=param.device, dtype=wide_dtype(param))
        if is_head:
            return Bound(name, group, param, None, size)
        center = self._local(self.ctx.reference[name])
        if self.ratio:
            here = center.to(param.device)
            size = size * distances([here], [None], norm=self.norm, total=self._total(param))[0]
        return Bound(name, group, param, center, size)

    def _channels(
        self, norm: BatchNormRef, group: str, param: nn.Parameter, radius: float
    ) -> Bound:
        center = self._local(self.ctx.reference[norm.weight_name].to(param.device))
        variance = local_part(self.ctx.reference[norm.var_name].to(param.device), param)
        size = torch.full_like(center, radius, dtype=wide_dtype(center))
        if self.ratio:
            size = size * (center / (variance + 1e-6).sqrt()).abs()
        return Bound(norm.weight_name, group, param, center, size, norm.module, variance)

    def _local(self, tensor: Tensor) -> Tensor:
        return self.ctx.local([tensor])[0].detach()

    def _total(self, param: nn.Parameter) -> Callable[[Tensor], Tensor] | None:
        if not hasattr(param, "placements"):
            return None
        return lambda values: self.ctx.sum_over_shards(values, param)

    def acts_on(self) -> Iterable[nn.Parameter]:
        """The bound parameters that train."""
        return [bound.param for bound in self._bounds if bound.param.requires_grad]

    def after_step(self) -> None:
        """Project what has left its ball; frozen tensors stay as they are."""
        trainable = tuple(bound.param.requires_grad for bound in self._bounds)
        if trainable != self._trainable:
            self._trainable, self._packs = trainable, self._gather()
        for pack in self._packs:
            tensors = self.ctx.local([bound.param for bound in pack.bounds])
            if pack.joined is not None:
                project_norms_(tensors, pack, self.ctx)
                continue
            project_(
                tensors,
                [bound.center for bound in pack.bounds],
                [bound.radius for bound in pack.bounds],
                norm=self.norm,
                method=self.method,
                total=self._total(pack.bounds[0].param),
            )

    def _gather(self) -> list[Pack]:
        packs: dict[Any, Pack] = {}
        for bound in self._bounds:
            param = bound.param
            if not param.requires_grad:
                continue
            mesh, split = getattr(param, "device_mesh", None), getattr(param, "placements", None)
            key = (bound.layer is None, param.device, param.dtype, mesh, split)
            packs.setdefault(key, Pack()).bounds.append(bound)
        for key, pack in packs.items():
            if not key[0]:
                starts = [known(bound.center) for bound in pack.bounds]
                variances = [known(bound.start_variance) for bound in pack.bounds]
                radii = torch.cat([bound.radius for bound in pack.bounds])
                pack.joined = (torch.cat(starts).to(radii), torch.cat(variances).to(radii), radii)
        return list(packs.values())

    def measure(self) -> dict[str, Any]:
        """Distance and radius of every bound tensor, in its norm; what lies at the bound."""
        rows: dict[str, dict[str, Any]] = {}
        for bound in self._bounds:
            distance, excess = self._state_of(bound)
            rows[bound.name] = {
                "group": bound.group,
                "distance": float(distance),
                "radius": float(bound.radius.max()) if bound.radius.numel() else 0.0,
                "at_bound": bool(excess >= 0),
            }
        found = [row["at_bound"] for row in rows.values()]
        groups = {
            group: max(row["distance"] for row in rows.values() if row["group"] == group)
            for group in dict.fromkeys(row["group"] for row in rows.values())
        }
        share = sum(found) / len(found) if found else 0.0
        return {"tensors": rows, "largest_distance": groups, "share_at_bound": share}

    def _state_of(self, bound: Bound) -> tuple[Tensor, Tensor]:
        param = self.ctx.local([bound.param])[0].detach()
        if bound.start_variance is None:
            total = self._total(bound.param)
            found = distances([param], [bound.center], norm=self.norm, total=total)[0]
        else:
            (variance,) = shared_variances([bound], self.ctx)
            scale = (variance + 1e-6).sqrt()
            start = known(bound.center) / (bound.start_variance + 1e-6).sqrt()
            found = (param / scale - start).abs()
        both = torch.stack([found, found - _AT_BOUND * bound.radius]).view(2, -1)
        nothing = both.new_tensor([[0.0], [-math.inf]])  # what an empty shard contributes
        found, excess = self.ctx.all_reduce(torch.cat([both, nothing], dim=1).amax(1), op="max")
        return found, excess
