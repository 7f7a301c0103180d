"""The Fisher diagonal of elastic weight consolidation: estimated in the engine's pass, added up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.batch import Batch
from tether.methods.weights.fisher_terms import (
    Terms,
    add_squares_,
    decision_terms,
    one_class_terms,
)

if TYPE_CHECKING:
    from tether.engine.context import Context
    from tether.methods.weights.towards_start import Pulled

ESTIMATORS = ("true", "empirical")
#: Multiples of it modulo 1 fill the interval evenly: draws that follow from the row alone.
_GOLDEN = 0.6180339887498949


def accumulate_fisher(
    old: Mapping[str, Tensor] | None, new: Mapping[str, Tensor], gamma: float = 1.0
) -> dict[str, Tensor]:
    """``gamma F_old + F_new``; rows of a head that has grown since count as 0 in the old one.

    Example:
        >>> accumulate_fisher({"w": torch.ones(1)}, {"w": torch.ones(2)}, 0.5)["w"]
        tensor([1.5000, 1.0000])
    """
    found = {name: tensor.clone() for name, tensor in new.items()}
    for name, before in (old or {}).items():
        if name in found and found[name].shape[1:] == before.shape[1:]:
            found[name][: len(before)] += gamma * before.to(found[name])
    return found


def grown_rows(fisher: Mapping[str, Tensor], name: str, param: Tensor) -> Mapping[str, Tensor]:
    """The diagonal with one entry filled up by zeros, where the head has more rows since."""
    found = fisher.get(name)
    if found is None or found.shape[1:] != param.shape[1:] or len(found) >= len(param):
        return fisher
    return {
        **fisher,
        name: torch.cat([found, found.new_zeros(len(param) - len(found), *found.shape[1:])]),
    }


def spread(row: int, size: int, wanted: int) -> bool:
    """Whether a row is one of ``wanted`` that lie evenly over ``size``.

    Example:
        >>> [row for row in range(10) if spread(row, 10, 4)]
        [2, 4, 7, 9]
    """
    return wanted >= size or (row + 1) * wanted // size > row * wanted // size


def drawn_label(probs: Tensor, row: int) -> Tensor:
    """A class drawn with its probability by a number in [0, 1) that follows from the row."""
    place = torch.searchsorted(probs.double().cumsum(0), (row + 1) * _GOLDEN % 1.0)
    return place.clamp(max=len(probs) - 1)


def drawn_decisions(probs: Tensor, row: int) -> Tensor:
    """The same for independent decisions."""
    steps = torch.arange(1, len(probs) + 1, device=probs.device, dtype=torch.float64)
    return (((row + 1) * _GOLDEN + steps * 0.7548776662466927) % 1.0 < probs).to(probs.dtype)


class FisherPass:
    """Squared gradients of single samples, in the pass over the training data before a step.

    Which rows are taken and which labels are drawn follow from the rows, so that it makes no
    difference on how many processes the pass runs.

    Args:
        ctx: the method's.
        held: the covered weights.
        fisher: ``"true"`` or ``"empirical"``.
        samples: how many rows are taken.
        done: is given the diagonals.
    """

    def __init__(
        self, ctx: Context, held: Sequence[Pulled], fisher: str, samples: int,
        done: Callable[[list[Tensor]], None],
    ) -> None:  # fmt: skip
        self.ctx, self.fisher, self.samples, self.done = ctx, fisher, samples, done
        self.params = [pulled.param for pulled in held]
        self.totals = [
            torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
            for p in self.params
        ]
        self.count = torch.zeros((), dtype=torch.float64, device=ctx.device)
        self.size = ctx.num_samples
        self.seen = 0

    def request(self) -> None:
        """Ask for the pass."""
        self.ctx.statistics(self.update, self.finish)

    def update(self, batch: Batch) -> None:
        """Add the rows of a batch that are wanted."""
        here = range(self.seen, self.seen + len(batch.logits))
        self.seen += len(batch.logits)
        rows = list(here) if batch.index is None else batch.index.tolist()
        keep = [True] * len(rows) if batch.mask is None else batch.mask.tolist()
        for i, (row, counts) in enumerate(zip(rows, keep, strict=True)):
            if counts and spread(row, self.size, self.samples):
                self._add(batch, i, row)

    def _add(self, batch: Batch, i: int, row: int) -> None:
        args = [_one(part, i) for part in batch.args]
        kwargs = {name: _one(part, i) for name, part in batch.kwargs.items()}
        with torch.enable_grad():
            logits = self.ctx.forward(*args, grad=True, mode="eval", **kwargs).logits[0]
            terms = self._terms(logits.float() if logits.dtype.itemsize < 4 else logits,
                                batch.targets[i], row)  # fmt: skip
            add_squares_(self.totals, terms, self.params)
        self.count += 1

    def _terms(self, logits: Tensor, target: Tensor, row: int) -> Terms:
        if self.ctx.loss_kind == "binary_cross_entropy":
            told = drawn_decisions(logits.detach().sigmoid(), row)
            return decision_terms(logits, "data", target if self.fisher == "empirical" else told)
        if self.fisher == "empirical":
            told = target.argmax() if target.ndim else target
        else:
            told = drawn_label(logits.detach().softmax(-1), row)
        return one_class_terms(logits, "data", told)

    def finish(self) -> None:
        """Means over the rows of all processes."""
        for total in (*self.totals, self.count):
            self.ctx.all_reduce(total)
        count = self.count.clamp(min=1.0)
        self.done([total / count.to(total.dtype) for total in self.totals])


def _one(part: Any, i: int) -> Any:
    return part[i : i + 1] if isinstance(part, Tensor) and part.ndim else part
