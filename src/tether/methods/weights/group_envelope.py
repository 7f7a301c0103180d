"""Group envelope: keep about k groups of weights while training; the others become exactly 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.weights.envelope import group_envelope, prox_group_envelope
from tether.methods.weights.group_maps import KINDS, group_members
from tether.methods.weights.groups import group_squares, scale_groups_
from tether.schedule import Schedule, ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context


@register(
    "group_envelope",
    kind="weights",
    paper="arXiv:2212.12921",
    cost="light",
    neutral={"weight": 0.0},
    example={"weight": 0.1, "k": 0.5},
    search_space={"weight": ("log", 1e-3, 1e-1), "k": ("uniform", 0.1, 0.9)},
    conflicts=("distance_constraint", "layerwise_constraint"),
)
class GroupEnvelope(Method):
    """Keep about ``k`` filters, channels or heads; proximal steps make the others exactly zero.

    The number of groups is given, not a price: the threshold adapts to it. Helps to prune a
    network while it is adapted, so that what survives is chosen on the target task. Hurts where
    the network is small for its task, and where another method pulls weights back to their start:
    it raises the pruned groups again. Give ``weight_decay=0``: the groups that are kept are
    decayed by ``lr weight`` already; end with epochs at weight 0 (``"step(0.1, 0, 0.7)"``), in
    which what is zero is held there and the rest recovers. Layers that meet in an addition are
    not tied: a filter that is zero there leaves its channel to the shortcut.

    After each update, with ``g = lr weight`` and n the norms of the groups::

        theta <- argmin_x g E_k(x) + 1/2 |x - theta|^2
        E_k = tightest convex bound below 1/2 sum_j d_j n_j^2 of at most k groups

    Args:
        weight: lambda, >= 0, schedulable (default 0.01; useful 1e-3 to 1e-1).
        k: groups to keep, schedulable: up to 1 a share of them, above 1 a number
            (default 0.5). ``"linear(1, 0.3)"`` comes down slowly.
        groups: ``"filters"`` (output units with bias and the batch norm that follows),
            ``"channels"`` (input units; those of the first layer stay), ``"heads"`` of attention,
            or a dict: name of a parameter -> a group number for each of its rows.
        group_weights: d: None, ones (default), or ``"size"``, in proportion to the weights of a
            group, so that large groups are dearer.
        scope: ``"global"``, one pool of groups (default and paper), or ``"layer"``, k of every
            layer, which cannot empty one.
        every: updates between two steps, >= 1; the strength is multiplied by it (default 1).

    State:
        ``alive`` ``[groups]``, 0 for what the last step left at zero.

    Cost:
        One reading and one scaling of the covered weights, and a sort of the groups.

    Raises:
        ValueError: an option out of range.
        TetherError: no such groups in the model, groups that do not cover a tensor, more kept
            than there are.

    References:
        Y. Refael, I. Arbel, W. Huleihel, "Learning k-Level Structured Sparse Neural Networks Using
        Group Envelope Regularization", 2022, arXiv:2212.12921.

    Example:
        >>> GroupEnvelope(k=0.3, groups="channels")
        GroupEnvelope(k=0.3, groups='channels')
    """

    alive: Tensor

    def __init__(
        self,
        weight: ScheduleLike = 1e-2,
        k: ScheduleLike = 0.5,
        groups: str | Mapping[str, Sequence[int]] = "filters",
        group_weights: str | None = None,
        scope: str = "global",
        every: int = 1,
    ) -> None:
        if isinstance(groups, str) and groups not in KINDS:
            raise ValueError(f"groups {groups!r} is not one of {', '.join(KINDS)}")
        if not isinstance(groups, str) and not groups:
            raise ValueError("groups is empty: name at least one parameter")
        if group_weights not in (None, "size"):
            raise ValueError(f'group_weights must be None or "size", got {group_weights!r}')
        if scope not in ("global", "layer"):
            raise ValueError(f'scope must be "global" or "layer", got {scope!r}')
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if (isinstance(k, (int, float)) and not k > 0) or every < 1:
            raise ValueError(f"k must be above 0, every at least 1, got {k!r} and {every!r}")
        self.weight = weight
        self.k = k
        self.groups = groups
        self.group_weights = group_weights
        self.scope = scope
        self.every = every

    def schedules(self) -> dict[str, Schedule]:
        """Weight and number may follow a schedule."""
        return {"weight": Schedule(self.weight), "k": Schedule(self.k)}

    def setup(self, ctx: Context) -> None:
        """Build the map of the groups, once."""
        layers = group_members(ctx, self.groups)
        self._members = [item for layer in layers for item in layer]
        counts = [len({g for m in layer for g in m.groups.tolist()}) for layer in layers]
        self._count = sum(counts)
        most = max(1, self._count if self.scope == "global" else min(counts))
        if isinstance(self.k, (int, float)) and self.k > most:
            raise TetherError(f"{ctx.name}: k={self.k}, but there are {most} groups")
        sizes = torch.zeros(self._count, dtype=torch.float64, device=ctx.device)
        for item in self._members:
            each = item.param.numel() / len(item.index)
            sizes += torch.bincount(item.index, minlength=self._count) * each
        self._weights = sizes / sizes.mean() if self.group_weights else torch.ones_like(sizes)
        # one row of group numbers a pool, padded with a group that is none
        pools = [self._count] if self.scope == "global" else counts
        rows = list(torch.split(torch.arange(self._count), pools))
        self._pools = nn.utils.rnn.pad_sequence(rows, True, self._count).to(ctx.device)
        self._sizes = torch.tensor(pools, dtype=torch.float64, device=ctx.device)
        self.add_state("alive", torch.ones(self._count, device=ctx.device))

    def acts_on(self) -> Iterable[nn.Parameter]:
        """The grouped parameters."""
        return [item.param for item in self._members]

    def _number(self) -> Tensor:
        """Groups to keep in every pool."""
        k = self.value("k")
        return self._sizes * k if k <= 1.0 else torch.full_like(self._sizes, k)

    def _pooled(self, values: Tensor) -> Tensor:
        return torch.cat([values, values.new_zeros(1)])[self._pools]

    def _unpooled(self, values: Tensor) -> Tensor:
        whole = values.new_ones(self._count + 1)
        return whole.index_copy(0, self._pools.flatten(), values.flatten())[:-1]

    def after_step(self) -> None:
        """One proximal step, with the learning rate of the first grouped parameter.

        Once a scheduled weight has come down to 0, groups that were zero are held there.
        """
        weight = self.value("weight")
        if weight == 0.0 and isinstance(self.weight, (int, float)):
            return
        if weight == 0.0:
            scale_groups_(self.ctx, self._members, self.alive)
            return
        if (self.ctx.step + 1) % self.every:
            return
        strength = weight * self.ctx.lr(self._members[0].param) * self.every
        mask = self.ctx.step_mask
        masked = strength if mask is None else strength * mask.double()
        weights = self._pooled(self._weights).clamp(min=1e-12)
        found = prox_group_envelope(self._pooled(self._norms()), self._number(), masked, weights)
        scales = self._unpooled(found)
        scale_groups_(self.ctx, self._members, scales)
        alive = (scales > 0).to(self.alive.dtype)
        self.alive.copy_(alive if mask is None else torch.where(mask > 0, alive, self.alive))

    def _norms(self) -> Tensor:
        return group_squares(self.ctx, self._members, self._count).sqrt()

    def nonzero_groups(self) -> int:
        """Groups with a weight that is not zero."""
        return int((self._norms() > 0).sum())

    @torch.no_grad()
    def project_(self) -> None:
        """Zero all but the k groups (of every pool) with the largest ``sqrt(d) n``, in place."""
        order = self._pooled(self._norms() * self._weights.sqrt())
        rank = order.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        chosen = rank < self._number().round().clamp(min=1.0)[:, None]
        scale_groups_(self.ctx, self._members, self._unpooled(chosen.double()))

    def measure(self) -> dict[str, Any]:
        """Groups that are left, of how many, and the penalty."""
        norms = self._norms()
        weights = self._pooled(self._weights).clamp(min=1e-12)
        values = group_envelope(self._pooled(norms), self._number(), weights)
        return {
            "nonzero_groups": int((norms > 0).sum()),
            "groups": self._count,
            "penalty": self.value("weight") * float(values.sum()),
        }
