"""What data look like once they are read: one table a split, and what was noticed about them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Table:
    """Samples of one split, in a fixed order; a sample's row is its place here.

    Attributes:
        inputs: one entry a sample: a ``Path`` or a PIL image, a text, a pair of texts, or a
            float32 row (vectors).
        labels: class indices ``[N]`` int64, multi-hot ``[N, K]`` float32, or numbers ``[N]`` or
            ``[N, D]`` float32; None where there are none.
        ids: a name for people, unique in the split: relative path, or ``file.csv:17``.
        domains: domain index ``[N]`` int64, or None.
        true_labels: the labels before synthetic noise, or None.
    """

    inputs: Sequence[Any]
    labels: NDArray[Any] | None
    ids: Sequence[str]
    domains: NDArray[np.int64] | None = None
    true_labels: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Table:
        """The samples of these rows, in this order."""
        at = np.asarray(rows, dtype=np.int64)
        pick = [None if a is None else a[at] for a in (self.labels, self.domains, self.true_labels)]
        return replace(
            self, inputs=[self.inputs[i] for i in at], ids=[self.ids[i] for i in at],
            labels=pick[0], domains=pick[1], true_labels=pick[2],
        )  # fmt: skip


@dataclass
class Notice:
    """Something noticed about the data, with its count and a few examples.

    Attributes:
        kind: short name: ``"bad_image"``, ``"empty_text"``, ``"single_sample_class"``, ...
        split: where.
        count: how many samples.
        what: a sentence for people, which says what was done about it.
        examples: ids of at most five of them.
    """

    kind: str
    split: str
    count: int
    what: str
    examples: list[str] = field(default_factory=list)


@dataclass
class DataSource:
    """Everything that was read.

    Attributes:
        name: how it was called for.
        kind: ``"image"``, ``"text"`` or ``"vector"``.
        task: ``"single_label"``, ``"multi_label"`` or ``"regression"``.
        class_names: names of the classes in order of their index; names of the targets of a
            regression.
        tables: split -> table; always ``train`` and ``validation``, ``test`` where there is one.
        domain_names: names of the domains in order of their index.
        unlabelled: inputs without labels.
        pairs: preference pairs: (prompt or "", chosen, rejected) texts.
        notices: what was noticed.
        fingerprints: split -> hash of ids, inputs' content keys and true labels.
        noise: what synthetic noise did: name, rate, realised rate, transition matrix.
    """

    name: str
    kind: str
    task: str
    class_names: list[str]
    tables: dict[str, Table]
    domain_names: list[str] = field(default_factory=list)
    unlabelled: Table | None = None
    pairs: list[tuple[str, str, str]] | None = None
    notices: list[Notice] = field(default_factory=list)
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    noise: Mapping[str, Any] = field(default_factory=dict)
