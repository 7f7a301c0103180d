"""Heads as methods read them: the discarded source head, and the new head's rows."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.engine.context import Context


def source_head_of(ctx: Context) -> tuple[nn.Module, int]:
    """A copy of the pretrained model's own head, and the number of its classes.

    Raises:
        TetherError: it does not take the features of this model.
    """
    assert ctx.source_head is not None  # the engine asks for it: needs=("source_head",)
    head = copy.deepcopy(ctx.source_head).to(ctx.device)
    weight = next((p for p in head.parameters() if p.ndim >= 2), None)
    if weight is None:
        raise TetherError(
            f"method {ctx.name!r}: the source head ({type(head).__name__}) has no weight; give the "
            "linear layer that made the pretrained model's logits: attach(..., source_head=...)"
        )
    try:
        with torch.no_grad():
            outputs: Tensor = head(torch.zeros(1, ctx.num_features, device=ctx.device))
    except RuntimeError:
        raise TetherError(
            f"method {ctx.name!r}: the source head takes {weight.shape[1]} features, the model's "
            f"own head {ctx.num_features}: give the head of this very model, attach(..., "
            "source_head=...)"
        ) from None
    return head.train(), outputs.shape[-1]


@torch.no_grad()
def head_rows(ctx: Context) -> Tensor:
    """Weight and bias of the model's head for each class, ``[K, d + 1]``, without a graph."""
    head: Any = ctx.head_module
    weight, bias = (_whole(getattr(head, name, None)) for name in ("weight", "bias"))
    if weight is None:
        raise TetherError(
            f"method {ctx.name!r} reads the weight of the head, a {type(head).__name__}: name a "
            'linear layer with attach(..., head="...")'
        )
    rows = weight.flatten(1)
    offsets = rows.new_zeros(len(rows)) if bias is None else bias
    found = torch.cat([rows, offsets[:, None]], dim=1)
    return found.to(torch.promote_types(found.dtype, torch.float32))


def _whole(tensor: Any) -> Tensor | None:
    """Gathered where it is sharded; every rank calls this."""
    gather = getattr(tensor, "full_tensor", None)
    found: Tensor | None = gather() if gather is not None else tensor
    return None if found is None else found.detach()
