"""The pull towards the start over all weights: added to gradients, or made after the update."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.methods.weights.many import buckets, differences
from tether.methods.weights.start_penalty import start_gradient, start_penalty, start_pull

if TYPE_CHECKING:
    from tether.engine.context import Context


class Pulled(NamedTuple):
    """A parameter, the start towards which it is pulled (None: zero), its Fisher diagonal."""

    param: nn.Parameter
    start: Tensor | None
    fisher: Tensor | None


def add_gradients_(ctx: Context, pulled: list[Pulled], weight: float, form: str) -> None:
    """Add ``weight`` times the penalty's gradient to the gradients that exist."""
    moving = [p for p in pulled if p.param.requires_grad and p.param.grad is not None]
    if weight == 0.0 or not moving:
        return
    params = [param.detach() for param in ctx.local(p.param for p in moving)]
    grads = ctx.local(p.param.grad for p in moving if p.param.grad is not None)
    if any(grad.is_sparse for grad in grads):
        raise TetherError("a penalty on weights is dense: use Embedding(..., sparse=False)")
    scale = ctx.grad_scale
    # half precision needs the difference first: g + a W would swallow it
    wide = params[0].dtype in (torch.float32, torch.float64)
    plain = wide and form in ("l2", "l2_sp") and moving[0].fisher is None and scale is None
    for bucket in buckets(params):
        if plain:
            _add_plain_([grads[i] for i in bucket], [params[i] for i in bucket],
                        [moving[i].start for i in bucket], weight)  # fmt: skip
            continue
        gaps = differences([params[i] for i in bucket], [moving[i].start for i in bucket])
        weighed = [f for f in (moving[i].fisher for i in bucket) if f is not None]
        same = all(f.dtype == gap.dtype for f, gap in zip(weighed, gaps, strict=False))
        if form == "l2_sp" and scale is None and len(weighed) == len(gaps) and same:
            near = [f.to(gap.device) for f, gap in zip(weighed, gaps, strict=True)]
            torch._foreach_addcmul_([grads[i] for i in bucket], gaps, near, value=weight)
            continue
        if form == "l1_sp" or form == "group_lasso_sp" or moving[0].fisher is not None:
            fishers = [moving[i].fisher for i in bucket]
            gaps = [
                start_gradient(gap, form=form, fisher=fisher)
                for gap, fisher in zip(gaps, fishers, strict=True)
            ]
        if scale is not None:
            gaps = [gap * scale.to(gap.dtype) for gap in gaps]
        torch._foreach_add_([grads[i] for i in bucket], gaps, alpha=weight)


def _add_plain_(
    grads: list[Tensor], params: list[Tensor], starts: list[Tensor | None], weight: float
) -> None:
    """``g + a W - a W0`` in place: no difference is written out, which would cost as much again."""
    torch._foreach_add_(grads, params, alpha=weight)
    known = [(grad, start) for grad, start in zip(grads, starts, strict=True) if start is not None]
    if known:
        near = [start.to(grad.device) for grad, start in known]
        torch._foreach_sub_([grad for grad, _ in known], near, alpha=weight)


def pull_(ctx: Context, pulled: list[Pulled], weight: float, form: str) -> None:
    """Pull by ``lr weight`` after the update, where there was one."""
    mask = ctx.step_mask
    for p in pulled if weight != 0.0 else ():
        if not p.param.requires_grad or p.param.grad is None:
            continue
        (param,) = ctx.local([p.param])
        step: float | Tensor = ctx.lr(p.param) * weight
        if mask is not None:
            step = mask.to(param.dtype) * step
        start = None if p.start is None else p.start.to(param.device)
        moved = param if start is None else param - start
        share = start_pull(moved, step, form=form, fisher=p.fisher)
        if start is None:
            param.mul_(1.0 - share)
        else:
            param.lerp_(start, share)


def totals(ctx: Context, pulled: list[Pulled], form: str) -> tuple[float, float]:
    """Unweighted penalty and squared distance from the start, as numbers of the host."""
    values = torch.zeros(2, dtype=torch.float64)
    for p in pulled:
        (gap,) = differences(ctx.local([p.param.detach()]), [p.start])
        penalty = start_penalty(gap, form=form, fisher=p.fisher)
        both = torch.stack([penalty, 2.0 * start_penalty(gap)])
        values += ctx.sum_over_shards(both, p.param).double().cpu()
    return float(values[0]), float(values[1])
