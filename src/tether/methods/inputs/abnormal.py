"""Abnormal adversarial examples: samples whose loss an attack step lowers, and their price."""

from __future__ import annotations

import torch
from torch import Tensor

CE_TERMS = ("constant", "grad")
REDUCTIONS = ("sum", "mean")


def abnormal_adversarial_penalty(
    logits_start: Tensor, losses_start: Tensor, logits_adv: Tensor, losses_adv: Tensor, *,
    ce_weight: float = 0.0, output_weight: float = 0.15, ce_term: str = "constant",
    reduction: str = "sum", mask: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Price of the samples whose loss fell though the attack step was meant to raise it.

    With A the rows where the loss fell and N the others::

        V_ce  = mean over A of (loss at the start - loss after the step)
        V_A   = mean over A of |logits after the step - at the start|^2;  V_N the same over N
        price = |A| / (|A| + |N|) * (ce_weight V_ce + output_weight max(V_A - V_N, 0))

    and 0 where A or N is empty. Only the logits after the step in V_A carry a gradient (and, with
    ``ce_term="grad"``, the losses after it in V_ce).

    Args:
        logits_start: ``[B, C]``, where the step began.
        losses_start: ``[B]``, there.
        logits_adv: ``[B, C]``, after the step.
        losses_adv: ``[B]``, after it.
        ce_weight: of V_ce, from 0.
        output_weight: of the outputs' term, from 0.
        ce_term: ``"constant"`` or ``"grad"``.
        reduction: ``"sum"`` or ``"mean"`` over the classes.
        mask: bool ``[B]``, False for rows that do not count.

    Returns:
        The price, and ``abnormal`` and ``counted`` (numbers of rows), ``abnormal_fraction``,
        ``ce_variation`` (V_ce) and ``output_variation`` (V_A), without a graph.

    Example:
        >>> start, adv = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[2.0, 0], [0, 1]])
        >>> price, about = abnormal_adversarial_penalty(
        ...     start, torch.tensor([0.7, 0.7]), adv, torch.tensor([0.1, 1.3]), output_weight=1.0)
        >>> price, about["abnormal_fraction"]
        (tensor(1.5000), tensor(0.5000))
    """
    if ce_term not in CE_TERMS or reduction not in REDUCTIONS:
        raise ValueError(
            f"ce_term is one of {CE_TERMS} and reduction one of {REDUCTIONS}, got {ce_term!r} and "
            f"{reduction!r}"
        )
    before, after = losses_start.detach(), losses_adv
    fell = before - (after if ce_term == "grad" else after.detach())
    counts = torch.ones_like(fell, dtype=torch.bool) if mask is None else mask
    abnormal = counts & (before > after.detach())
    normal = counts & ~abnormal
    squares = (logits_adv - logits_start.detach()).square().flatten(1)
    moved = squares.sum(dim=1) if reduction == "sum" else squares.mean(dim=1)
    v_ce, v_abnormal = _mean(fell, abnormal), _mean(moved, abnormal)
    v_normal = _mean(moved.detach(), normal)
    total, bad = counts.sum().to(fell.dtype), abnormal.sum().to(fell.dtype)
    share = bad / total.clamp(min=1.0)
    both = (bad > 0) & (bad < total)
    inner = ce_weight * v_ce + output_weight * (v_abnormal - v_normal).clamp(min=0.0)
    price = torch.where(both, share * inner, torch.zeros_like(inner))
    return price, {
        "abnormal": bad.detach(),
        "counted": total.detach(),
        "abnormal_fraction": share.detach(),
        "ce_variation": v_ce.detach(),
        "output_variation": v_abnormal.detach(),
    }


def _mean(values: Tensor, rows: Tensor) -> Tensor:
    """Mean over the rows that are True, 0 where none is."""
    kept = torch.where(rows, values, torch.zeros_like(values))
    return kept.sum() / rows.sum().clamp(min=1)
