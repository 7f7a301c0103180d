"""Samples to batches, and the batches beside the labelled one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tether.data.keyed import PAIRS, UNLABELLED, Encode, Keyed, encode_keyed, endless_rows
from tether.data.table import Table
from tether.engine.state import rank, world_size
from tether.errors import ConfigError

Pad = Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]


class Collator:
    """Puts items of a :class:`tether.data.keyed.KeyedDataset` together.

    A batch holds the model's inputs by name, ``labels``, and what the items hold besides:
    ``domains`` ``[N]``, and ``views`` with the other views of each sample, ``[V - 1, N, ...]``
    (for inputs of several names, as texts are, a dict of such tensors).

    Args:
        pad: encodings of texts -> padded tensors by name; None stacks tensors.
    """

    def __init__(self, pad: Pad | None = None) -> None:
        self.pad = pad

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The batch of some items."""
        aside = ("labels", "domains", "views")
        batch: dict[str, Any] = self.inputs(
            [{k: v for k, v in item.items() if k not in aside} for item in items]
        )
        for name in ("labels", "domains"):
            if name in items[0]:
                batch[name] = torch.stack([item[name] for item in items])
        if "views" in items[0]:
            views = range(len(items[0]["views"]))
            flat = self.inputs([item["views"][view] for view in views for item in items])
            batch["views"] = _one_or_all(
                {k: v.reshape(len(views), len(items), *v.shape[1:]) for k, v in flat.items()},
                self.pad,
            )
        return batch

    def inputs(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Encodings -> one tensor a name."""
        if self.pad is not None:
            return self.pad(encoded)
        return {
            name: torch.stack([torch.as_tensor(each[name]) for each in encoded])
            for name in encoded[0]
        }


def _one_or_all(inputs: dict[str, Tensor], pad: Pad | None) -> Any:
    """The tensor of a model with one input, as images have it; else all of them by name."""
    if pad is None and len(inputs) == 1:
        return next(iter(inputs.values()))
    return inputs


class _BesideBatches:
    """Which rows belong to a step: an endless series of keyed orders, dealt to the processes."""

    def __init__(self, length: int, batch_size: int, seed: int, end: int, pad: Pad | None) -> None:
        self.length, self.batch_size, self.seed = int(length), int(batch_size), int(seed)
        self._end, self._collate = end, Collator(pad)

    def places(self, step: int, rank: int, world: int) -> list[tuple[int, int]]:
        """(Row, its place in the series) for each sample of a step on one of the processes."""
        start = (int(step) * world + rank) * self.batch_size
        rows = endless_rows(self.length, start, self.batch_size, self._end, self.seed)
        return [(row, start + i) for i, row in enumerate(rows)]


class UnlabelledBatches(_BesideBatches):
    """The unlabelled batch of a step: it follows from seed and step alone.

    Called with the number of a step, it gives a tensor ``[N, ...]``, or a dict of them where the
    inputs have several names.

    Args:
        table: the inputs without labels.
        encode: raw input -> the model's inputs by name.
        batch_size: inputs of a batch.
        seed: of the run.
        pad: as in :class:`Collator`.
        view: 0, or the number of a further view of the same inputs.

    Raises:
        ConfigError: there are none.
    """

    def __init__(
        self, table: Table, encode: Encode, batch_size: int, seed: int, *, pad: Pad | None = None,
        view: int = 0,
    ) -> None:  # fmt: skip
        if not len(table):
            raise ConfigError("the unlabelled data are empty: give --unlabelled PATH")
        super().__init__(len(table), batch_size, seed, UNLABELLED, pad)
        self.table, self.encode, self.view = table, encode, view

    def __call__(self, step: int) -> Any:
        """The inputs of a step."""
        further = (self.view,) if self.view else ()
        encoded = [
            encode_keyed(
                self.table, self.encode, row, (UNLABELLED, self.seed, row, place, *further)
            )
            for row, place in self.places(step, rank(), world_size())
        ]
        return _one_or_all(self._collate.inputs(encoded), self._collate.pad)


class PairBatches(_BesideBatches):
    """The preference pairs of a step: they follow from seed and step alone.

    Called with the number of a step, it gives ``chosen`` and ``rejected``, each as the model
    takes its inputs; row by row they belong together.

    Args:
        pairs: (prompt or "", chosen, rejected).
        encode: text, or pair of prompt and text -> the model's inputs by name.
        batch_size: pairs of a batch.
        seed: of the run.
        pad: as in :class:`Collator`.

    Raises:
        ConfigError: there are none.
    """

    def __init__(
        self, pairs: Sequence[tuple[str, str, str]], encode: Encode, batch_size: int, seed: int,
        *, pad: Pad | None = None,
    ) -> None:  # fmt: skip
        if not pairs:
            raise ConfigError("there are no preference pairs: give --pairs PATH")
        super().__init__(len(pairs), batch_size, seed, PAIRS, pad)
        self.pairs, self.encode = pairs, encode

    def __call__(self, step: int) -> dict[str, dict[str, Tensor]]:
        """The pairs of a step."""
        chosen, rejected = [], []
        for row, place in self.places(step, rank(), world_size()):
            prompt, better, worse = self.pairs[row]
            with Keyed(PAIRS, self.seed, row, place):
                chosen.append(self.encode((prompt, better) if prompt else better))
                rejected.append(self.encode((prompt, worse) if prompt else worse))
        return {
            "chosen": self._collate.inputs(chosen),
            "rejected": self._collate.inputs(rejected),
        }
