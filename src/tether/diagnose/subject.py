"""What is diagnosed: a model, the weights it began with, samples, and what a run wrote down.

Whatever is missing is written down with its reason, so that a measure which needs it can say why
it is not there, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tether.data.collate import Collator
from tether.data.keyed import KeyedDataset
from tether.data.splits import limit
from tether.data.table import DataSource, Table
from tether.engine.layers import weight_refs
from tether.models.predict import evaluation_encoder
from tether.models.spec import LoadedModel
from tether.tuning.options import TuneConfig
from tether.tuning.result import Result

TRAIN, HELD_OUT = "train", "held_out"


@dataclass
class Subject:
    """A model and what is known of it.

    Attributes:
        name: what the page calls it.
        path: its run folder, None where it is no run.
        facts: what it is, in words by name, for the page.
        model: in evaluation mode; None where it cannot be had.
        head: dotted name of its last linear layer.
        reference: parameters and buffers that it began with; None where they cannot be had.
        new: modules that had no pretrained value: the reference holds none for them.
        samples: ``"train"`` and ``"held_out"`` -> the samples that are measured on.
        held_out: what the held-out split is called in the data.
        collate: samples -> batch.
        class_names: what the outputs stand for.
        task: ``"single_label"``, ``"multi_label"`` or ``"regression"``.
        class_counts: training samples of each class; None where it is not known.
        kind: ``"image"``, ``"text"`` or ``"vector"``.
        mean: what is subtracted from pixels, each channel's.
        std: what they are divided by.
        seed: all draws follow from it.
        config: settings of the run's last stage.
        result: scores of the run.
        history: rows of its ``metrics.jsonl``.
        missing: what is not there -> why; see :meth:`lacks`.
    """

    name: str
    path: Path | None = None
    facts: dict[str, str] = field(default_factory=dict)
    model: nn.Module | None = None
    head: str = ""
    reference: dict[str, Tensor] | None = None
    new: tuple[str, ...] = ()
    samples: dict[str, KeyedDataset] = field(default_factory=dict)
    held_out: str = "validation"
    collate: Callable[[list[Any]], Any] = field(default_factory=Collator)
    class_names: list[str] = field(default_factory=list)
    task: str = "single_label"
    class_counts: list[int] | None = None
    kind: str = ""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    seed: int = 0
    config: TuneConfig | None = None
    result: Result | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def lacks(self, needs: Sequence[str]) -> str:
        """Why a measure with these needs cannot be taken; empty where it can.

        Args:
            needs: out of ``model`` (its weights), ``reference``, ``finite`` (weights that are all
                numbers), ``train`` and ``held_out`` (samples), ``labels`` (of the held-out ones),
                ``classes`` (one class a sample), ``true_labels`` (of the training ones),
                ``history``.
        """
        return next((self.missing[need] for need in needs if need in self.missing), "")

    def groups(self) -> dict[str, str]:
        """Name of a parameter -> its depth group, from the stem to the head."""
        assert self.model is not None
        return {ref.name: ref.group for ref in weight_refs(self.model, self.head)}

    def note_missing(self) -> None:
        """Complete what is missing by what follows from it, and by what a look at it tells."""
        lost = self.missing
        if self.model is None:
            lost.setdefault("model", "there is no model")
        else:
            bad = not_finite(self.model)
            if bad:
                lost["finite"] = (
                    f"weights of the model are not finite numbers: {len(bad)} tensors, the first "
                    f"is {bad[0]!r}"
                )
        if self.reference is None:
            lost.setdefault("reference", "the weights that it began with are not known")
        for split, what in ((TRAIN, "training"), (HELD_OUT, "held-out")):
            if split not in self.samples:
                lost.setdefault(split, lost.get("data", f"there are no {what} samples"))
        if self.task != "single_label":
            lost["classes"] = f"the labels are {self.task}, not one class a sample"
        for split, need in ((HELD_OUT, "labels"), (TRAIN, "train_labels")):
            if split in self.samples and self.samples[split].table.labels is None:
                lost.setdefault(need, "the data have no labels")
            elif split not in self.samples:
                lost.setdefault(need, lost[split])
        train = self.samples.get(TRAIN)
        if train is None or train.table.true_labels is None:
            lost.setdefault("true_labels", "the true labels of the training samples are not known")
        if not self.history:
            lost.setdefault("history", "there are no rows of metrics.jsonl")
        if "model" in lost:
            lost.setdefault("finite", lost["model"])


def not_finite(model: nn.Module) -> list[str]:
    """Names of parameters and buffers that hold what is not a number, or is infinite."""
    return [
        name for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]  # fmt: skip


def add_samples(
    subject: Subject, tables: Mapping[str, Table], loaded: LoadedModel, number: int
) -> None:
    """Give a subject at most so many samples of each kind, in the proportions of the classes.

    Args:
        subject: changed.
        tables: ``"train"`` and ``"held_out"`` -> all samples.
        loaded: what feeds the model.
        number: how many of each are taken.
    """
    encode = evaluation_encoder(loaded)
    subject.collate, subject.kind = Collator(loaded.pad), loaded.kind
    if loaded.image is not None:
        subject.mean, subject.std = loaded.image.mean, loaded.image.std
    for name, table in tables.items():
        kept = _labelled(table)
        fewer = _fewer(kept, subject.task, number, subject.seed)
        if len(fewer):
            subject.samples[name] = KeyedDataset(fewer, encode, seed=subject.seed, train=False)


def _labelled(table: Table) -> Table:
    """Those with a label, where some have one: a class of -1 stands for none."""
    labels = table.labels
    if labels is None or not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        return table
    known = labels >= 0
    if known.all():
        return table
    return table.take(np.flatnonzero(known)) if known.any() else replace(table, labels=None)


def _fewer(table: Table, task: str, number: int, seed: int) -> Table:
    if table.labels is not None:
        return limit(table, task, number, seed)
    rows = np.random.default_rng(seed).permutation(len(table))[:number]
    return table.take(np.sort(rows))


def count_classes(source: DataSource) -> list[int] | None:
    """Training samples of each class, as they are labelled."""
    labels = source.tables["train"].labels
    if source.task != "single_label" or labels is None:
        return None
    counts: list[int] = np.bincount(labels, minlength=len(source.class_names)).tolist()
    return counts


def class_indices(given: Sequence[str], class_names: Sequence[str]) -> NDArray[np.int64]:
    """Labels as they are written -> places among the classes; -1 for what is none of them."""
    place = {name: at for at, name in enumerate(class_names)}
    return np.array([place.get(name, -1) for name in given], dtype=np.int64)
