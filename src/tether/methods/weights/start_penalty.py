"""Formulas of the penalties on the distance to the pretrained weights, tensor by tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from tether.methods.weights.projections import per_row, wide_dtype
from tether.methods.weights.thresholds import shrink_share

FORMS = ("l2_sp", "l2", "l1_sp", "group_lasso_sp")


def start_penalty(moved: Tensor, *, form: str = "l2_sp", fisher: Tensor | None = None) -> Tensor:
    """Unweighted penalty of one tensor that stands at ``moved = W - W0``.

    ``l2_sp`` (and ``l2``, where ``W0 = 0``): ``1/2 sum F T^2``; ``l1_sp``: ``sum |T|``;
    ``group_lasso_sp``: ``sum_g sqrt(n_g) sqrt(sum F T_g^2)`` over output units g of n_g inputs.

    Example:
        >>> start_penalty(torch.tensor([[3.0, 4.0]])).item()
        12.5
    """
    moved = moved.to(wide_dtype(moved))
    if form == "l1_sp":
        return moved.abs().sum()
    squares = moved.square() if fisher is None else fisher.to(moved) * moved.square()
    if form == "group_lasso_sp":
        return (_inputs(moved) * _row_total(squares)).sqrt().sum()
    return 0.5 * squares.sum()


def start_gradient(moved: Tensor, *, form: str = "l2_sp", fisher: Tensor | None = None) -> Tensor:
    """Gradient of :func:`start_penalty`; exactly 0 where nothing has moved.

    Example:
        >>> start_gradient(torch.tensor([[-3.0, 0.0]]), form="l1_sp")
        tensor([[-1., 0.]])
    """
    if form == "l1_sp":
        return moved.sign()
    weighed = moved if fisher is None else fisher.to(moved) * moved
    if form != "group_lasso_sp":
        return weighed
    size = _row_total((weighed * moved).to(wide_dtype(moved))).sqrt()
    factor = _inputs(moved) ** 0.5 / size.clamp(min=torch.finfo(size.dtype).tiny)
    return weighed * per_row(factor, moved).to(moved.dtype)


def start_pull(
    moved: Tensor, step: float | Tensor, *, form: str = "l2_sp", fisher: Tensor | None = None
) -> float | Tensor:
    """Share of the way back to ``W0`` that a decoupled step of size ``step = lr a`` goes.

    ``l2_sp``: ``step F``. ``l1_sp`` and ``group_lasso_sp``: the proximal step, soft thresholding
    of ``W - W0`` by ``step`` (a row by ``step sqrt(n_g)``); what is shorter goes all the way.

    Example:
        >>> start_pull(torch.tensor([0.5, -2.0]), 1.0, form="l1_sp")
        tensor([1.0000, 0.5000])
    """
    if form == "l1_sp":
        size = moved.abs()
    elif form == "group_lasso_sp":
        size = per_row(_row_total(moved.to(wide_dtype(moved)).square()).sqrt(), moved)
        step = step * _inputs(moved) ** 0.5
    elif fisher is not None:
        return (fisher.to(moved) * step).clamp(max=1.0)
    else:
        return step if isinstance(step, Tensor) else min(step, 1.0)
    return shrink_share(size, step)


def _inputs(tensor: Tensor) -> int:
    return tensor[:1].numel()


def _row_total(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1) if values.ndim > 1 else values
