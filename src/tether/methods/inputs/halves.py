"""Batches of blends, of the samples that were blended, and of real samples beside them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tether.batch import Batch
from tether.methods.inputs.mixing import Mix, mix_rows, mixable


def halves(batch: Batch, order: Tensor, partner: Tensor, lam: Tensor) -> Batch:
    """A batch of 3 H rows: H blends, the H samples x_1, and H samples x_u of weight 0.

    ``extras`` hold ``"mix"`` and ``"unmixed"``, and ``"is_real"`` with 0 for blends.

    Args:
        batch: of at least 2 H rows.
        order: its rows, x_1 and then x_u: int64 ``[2 H]``.
        partner: what each x_1 is blended with, as a place in ``order``: int64 ``[H]``.
        lam: share of x_1, ``[H]``; the blends carry its graph.
    """
    half, device = len(partner), order.device
    rows = torch.cat([order[:half], order])
    places = torch.arange(3 * half, device=device)
    permutation = torch.cat([half + partner, places[half:]])
    targets = batch.targets[rows.to(batch.targets.device)]
    lam = mixable(targets, permutation, torch.cat([lam, lam.new_ones(2 * half)]))

    def taken(value: object) -> object:
        """The rows of a tensor that has one a sample."""
        if isinstance(value, Tensor) and value.shape[:1] == batch.targets.shape[:1]:
            return value[rows.to(value.device)]
        return value

    def mixed(value: object) -> object:
        if isinstance(value, Tensor) and value.is_floating_point() and len(value) == len(rows):
            return mix_rows(value, permutation, lam)
        return value

    args = tuple(taken(value) for value in batch.args)
    kwargs = {name: taken(value) for name, value in batch.kwargs.items()}
    extras = {
        **batch.extras,
        "mix": Mix(permutation, lam.detach()),
        "unmixed": (args, kwargs),
        "is_real": (places >= half).long(),
    }
    return replace(
        batch,
        args=tuple(mixed(value) for value in args),
        kwargs={name: mixed(value) for name, value in kwargs.items()},
        targets=targets,
        labels=targets,
        index=None if batch.index is None else batch.index[rows.to(batch.index.device)],
        weights=torch.where(places < 2 * half, 1.5, 0.0),
        extras=extras,
    )
