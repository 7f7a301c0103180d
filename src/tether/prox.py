"""Proximal operators, ``argmin_x 1/2 |x - t|^2 + g phi(x)``, and sparse coding with them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tether.methods.weights.envelope import prox_group_envelope
from tether.methods.weights.thresholds import (
    prox_cel0,
    prox_l0,
    prox_l1,
    prox_l12,
    prox_l23,
    prox_lq,
    threshold_to_strength,
)

__all__ = [
    "prox_cel0",
    "prox_group_envelope",
    "prox_l0",
    "prox_l1",
    "prox_l12",
    "prox_l23",
    "prox_lq",
    "sparse_code",
    "threshold_to_strength",
]


@torch.no_grad()
def sparse_code(
    dictionary: Tensor,
    signals: Tensor,
    prox: Callable[[Tensor, float], Tensor],
    *,
    steps: int = 500,
    start: Tensor | None = None,
) -> Tensor:
    """Sparse codes ``s`` with ``A s`` near the signals, by proximal gradient steps (ISTA).

    ``s <- prox(s - r A^T (A s - y), r)`` with ``r = 0.99 / |A|_2^2``. Penalties that are not
    convex depend on where they begin: give the codes of l1 as ``start``.

    Args:
        dictionary: A, ``[d, m]``.
        signals: y, one a row, ``[N, d]``.
        prox: from the codes and the step size r to the codes; the strength is ``r`` times a
            weight, for CEL0 r is the step.
        steps: how many.
        start: codes ``[N, m]`` to begin with; None: zero.

    Returns:
        Codes ``[N, m]``.

    Example:
        >>> codes = sparse_code(torch.eye(2), torch.tensor([[3.0, 0.2]]),
        ...                     lambda s, r: prox_l1(s, 0.5 * r))
        >>> [round(v, 3) for v in codes[0].tolist()]
        [2.5, 0.0]
    """
    if signals.ndim != 2 or dictionary.ndim != 2 or signals.shape[1] != dictionary.shape[0]:
        raise ValueError(
            f"a dictionary [d, m] and signals [N, d], got shapes {tuple(dictionary.shape)} and "
            f"{tuple(signals.shape)}"
        )
    rate = 0.99 / float(torch.linalg.matrix_norm(dictionary, 2)) ** 2
    codes = signals.new_zeros(len(signals), dictionary.shape[1]) if start is None else start
    for _ in range(steps):
        codes = prox(codes - rate * (codes @ dictionary.T - signals) @ dictionary, rate)
    return codes
