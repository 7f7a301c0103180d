"""Weight repulsion: fine-tune away from weights that do what is not wanted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.weights.anchors import (
    FORMS,
    Anchors,
    match_anchors,
    read_anchors,
    repulsion_slope,
)
from tether.methods.weights.many import buckets, differences, local_part
from tether.methods.weights.projections import length
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context

NORMALIZE = ("initial", "mean", "none")


@register(
    "weight_repulsion",
    kind="weights",
    paper="arXiv:2309.14054",
    cost="light",
    neutral={"weight": 0.0},
    example={"anchors": "bad.safetensors", "weight": 1.0},
    search_space={"weight": ("log", 0.1, 10.0)},
)
class WeightRepulsion(Method):
    """Fine-tune away from bad weights: a poisoned, biased or overfitted copy of the model.

    The mirror image of a pull to the start, and how a class is unlearnt without its data: adapt a
    copy to what shall go, then train the original on the rest, away from that copy. Helps where
    such a copy exists. Hurts where distance is cheap (layers before a batch norm may grow without
    any effect): a small :class:`~tether.L2SP` keeps the way short. Far weights are not a proof:
    measure what the network still does. No guarantee of privacy. ``examples/unlearn_class.py``
    is a whole recipe.

    With ``d`` the mean over the anchors of ``|w - w_N|^2`` and ``u = d / d_0``::

        exp: weight exp(-u)      inverse: weight / u      negative: -weight min(u, cap)

    The gradient, a number times ``w - mean w_N``, is added just before the update; the reported
    loss stays the task's.

    Args:
        anchors: one or several state dicts, or safetensors files; parameters are matched by name,
            and those that an anchor lacks are left alone.
        weight: strength, >= 0, schedulable (default 1; useful 0.3 to 3).
        form: ``"exp"`` (default), ``"inverse"``, or ``"negative"``, which pushes without end.
        normalize: what d is divided by: ``"initial"``, its value at the start (default);
            ``"mean"``, the number of weights; ``"none"``.
        cap: of u, for ``negative``: no push beyond it (default None).

    State:
        ``scale``, the divisor; the mean of the anchors is kept beside the weights.

    Cost:
        Two passes over the weights a step, and a copy of them, however many anchors there are.

    Raises:
        ValueError: an option out of range.
        TetherError: anchors that cannot be read, do not fit, or where the model stands already.

    References:
        P. Tiwary, A. Guha, S. Panda, Prathosh A. P., "Adapt then Unlearn: Exploring Parameter
        Space Semantics for Unlearning in Generative Adversarial Networks", TMLR 2025,
        arXiv:2309.14054.

    Example:
        >>> WeightRepulsion("bad.safetensors", form="inverse")
        WeightRepulsion(anchors='bad.safetensors', form='inverse')
    """

    scale: Tensor

    def __init__(
        self,
        anchors: Anchors,
        weight: ScheduleLike = 1.0,
        form: str = "exp",
        normalize: str = "initial",
        cap: float | None = None,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")
        if normalize not in NORMALIZE:
            raise ValueError(f"normalize {normalize!r} is not one of {', '.join(NORMALIZE)}")
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if cap is not None and (form != "negative" or not cap > 0):
            raise ValueError(f"cap is above 0 and for form='negative', got {cap!r} for {form!r}")
        if not isinstance(anchors, (str, bytes)) and hasattr(anchors, "__len__") and not anchors:
            raise ValueError("anchors is empty: give at least one state dict or file")
        self.anchors = anchors
        self.weight = weight
        self.form = form
        self.normalize = normalize
        self.cap = cap

    def setup(self, ctx: Context) -> None:
        """Match the anchors, keep their mean, and measure the first distance."""
        params = {ref.name: ref.param for ref in ctx.weights()}
        anchors = match_anchors(read_anchors(self.anchors, ctx.name), params, ctx.name)
        self._params = [params[name] for name in anchors]
        self._means: list[Tensor | None] = []
        spread = torch.zeros((), dtype=torch.float64)  # mean |w_N|^2 - |mean w_N|^2
        for name, copies in anchors.items():
            stacked = torch.stack([copy.double().cpu() for copy in copies])
            spread += (stacked - stacked.mean(0)).square().sum() / len(copies)
            whole = stacked.mean(0).to(params[name].device, params[name].dtype)
            self._means.append(local_part(whole, params[name]))
        self._spread = spread.to(ctx.device)
        first = self._distance()
        if self.normalize == "initial":
            size = sum(float(p.numel()) for p in self._params)
            if float(first) <= 1e-12 * size:
                raise TetherError(
                    f"{ctx.name}: the model stands where the anchors are, so that no direction "
                    'leads away: start from other weights, or use normalize="mean"'
                )
            scale = first.clone()
        else:
            scale = torch.ones_like(first)
            if self.normalize == "mean":
                scale *= sum(p.numel() for p in self._params)
        self.add_state("scale", scale)

    @torch.no_grad()
    def _distance(self) -> Tensor:
        """Mean squared distance to the anchors, float64 on the device."""
        own = self._spread.clone()
        split, shard = torch.zeros_like(own), None
        params = self.ctx.local(p.detach() for p in self._params)
        for bucket in buckets(params):
            gaps = differences([params[i] for i in bucket], [self._means[i] for i in bucket])
            for i, gap in zip(bucket, gaps, strict=True):
                sharded = bool(getattr(self._params[i], "placements", ()))
                (split if sharded else own).add_(length(gap).double().square())
                shard = self._params[i] if sharded else shard
        return own if shard is None else own + self.ctx.sum_over_shards(split, shard)

    def acts_on(self) -> Iterable[nn.Parameter]:
        """The matched parameters."""
        return self._params

    def edit_gradients(self) -> None:
        """Add ``weight R'(u) 2 / scale (w - mean)`` to the gradients that exist."""
        weight = self.value("weight")
        moving = [
            (p, mean)
            for p, mean in zip(self._params, self._means, strict=True)
            if p.requires_grad and p.grad is not None
        ]
        if weight == 0.0 or not moving:
            return
        slope = repulsion_slope(self._distance() / self.scale, form=self.form, cap=self.cap)
        factor = 2.0 * weight * slope / self.scale
        if self.ctx.grad_scale is not None:
            factor = factor * self.ctx.grad_scale
        params = self.ctx.local(p.detach() for p, _ in moving)
        grads = self.ctx.local(p.grad for p, _ in moving if p.grad is not None)
        for bucket in buckets(params):
            gaps = differences([params[i] for i in bucket], [moving[i][1] for i in bucket])
            torch._foreach_mul_(gaps, factor.to(gaps[0].dtype))
            torch._foreach_add_([grads[i] for i in bucket], gaps)

    def measure(self) -> dict[str, Any]:
        """Distance to the anchors, absolute and over the first one."""
        distance = float(self._distance())
        return {"distance": distance**0.5, "u": distance / float(self.scale)}
