"""Few-shot episodes: a network learns a handful of classes from a handful of images, many times."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tether.compare.episode_spec import Episodes
from tether.data.keyed import key_of
from tether.data.table import DataSource, Table
from tether.engine.attach import attach, prepare
from tether.errors import ConfigError
from tether.models.build import fresh_head
from tether.models.freeze import freeze
from tether.models.load import load_model
from tether.models.predict import evaluation_encoder
from tether.models.spec import LoadedModel
from tether.tuning.assembly import make_methods

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

_EPISODE = 77  # keeps what is drawn for episodes apart from other keyed numbers


@dataclass(frozen=True)
class Draw:
    """Rows of one episode.

    Attributes:
        classes: the classes, in the order of the episode's labels.
        support: rows to learn from, ``[way, shot]``.
        query: rows to tell apart, ``[way, queries]``.
    """

    classes: NDArray[np.int64]
    support: NDArray[np.int64]
    query: NDArray[np.int64]


def split_classes(source: DataSource, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Classes for tuning and classes for judging, half and half: no class serves both.

    Args:
        source: the data.
        seed: which half is which follows from it.
    """
    rng = np.random.default_rng(key_of(_EPISODE, seed))
    order = rng.permutation(len(source.class_names)).astype(np.int64)
    half = len(order) // 2
    return np.sort(order[:half]), np.sort(order[half:])


def draw(
    labels: NDArray[Any], classes: Sequence[int] | NDArray[np.int64], kind: Episodes, seed: int,
    number: int,
) -> Draw:  # fmt: skip
    """One episode: classes and samples without replacement.

    Args:
        labels: of the table, ``[N]``.
        classes: those that may occur.
        kind: what it is like.
        seed: with ``number``, all of it follows from it.
        number: which episode.

    Raises:
        ConfigError: there are too few classes, or too few samples in some.

    Example:
        >>> labels = np.repeat(np.arange(4), 6)
        >>> one = draw(labels, [1, 2, 3], Episodes(way=2, shot=1, count=1, queries=3), 0, 0)
        >>> one.support.shape, one.query.shape, (labels[one.query[0]] == one.classes[0]).all()
        ((2, 1), (2, 3), np.True_)
    """
    rows = {int(k): np.flatnonzero(labels == k) for k in classes}
    needed = kind.shot + kind.queries
    usable = sorted(k for k, found in rows.items() if len(found) >= needed)
    if len(usable) < kind.way:
        raise ConfigError(
            f"episodes: {kind.way} classes with {kind.shot} + {kind.queries} samples each are "
            f"needed, and {len(usable)} of {len(rows)} classes have as many; lower way, shot or "
            "queries"
        )
    rng = np.random.default_rng(key_of(_EPISODE, seed, number))
    chosen = rng.choice(np.array(usable, dtype=np.int64), kind.way, replace=False)
    picked = np.stack([rng.choice(rows[int(k)], needed, replace=False) for k in chosen])
    return Draw(chosen, picked[:, : kind.shot], picked[:, kind.shot :])


class Learner:
    """Fine-tunes a fresh copy of a pretrained network on each episode.

    The support samples are seen without random changes, in batches of ``config.batch_size``; the
    learning rate is constant, methods act as in any loop.

    Args:
        config: the options of the groups Model, Optimiser and Training that a loop has.
        source: the data.
        way: classes of an episode.

    Raises:
        ConfigError: the model does not fit the data, or the data are no images or rows.
    """

    def __init__(self, config: TuneConfig, source: DataSource, way: int) -> None:
        if source.task != "single_label":
            raise ConfigError(f"episodes need one class a sample; {source.name} is {source.task}")
        if source.kind == "text":
            raise ConfigError("episodes are made of images or rows of numbers, not of texts")
        self.config, self.way = config, way
        names = [str(k) for k in range(way)]
        self.loaded: LoadedModel = load_model(config, replace(source, class_names=names))
        self._encode = evaluation_encoder(self.loaded)
        self._seen: dict[tuple[str, int], Tensor] = {}

    def inputs(self, split: str, table: Table, rows: NDArray[np.int64]) -> Tensor:
        """Samples as the network takes them, each prepared once."""
        found = []
        for row in rows.ravel().tolist():
            if (split, row) not in self._seen:
                self._seen[split, row] = self._encode(table.inputs[row])[self.loaded.input_name]
            found.append(self._seen[split, row])
        return torch.stack(found)

    def accuracy(self, split: str, table: Table, one: Draw, seed: int) -> float:
        """Learn the episode's support and tell its queries apart: the share that is right."""
        from tether.tuning.trainer import make_optimizer

        config = self.config
        methods = make_methods(config)
        model = copy.deepcopy(self.loaded.model)
        head = self.loaded.head
        with torch.no_grad():
            fresh_head(model.get_submodule(head), seed)
        prepare(model, methods)
        freeze(model, head, config.freeze, config.freeze_norm)
        labels = torch.arange(self.way).repeat_interleave(one.support.shape[1])
        data = TensorDataset(self.inputs(split, table, one.support), labels)
        order = torch.Generator().manual_seed(seed)
        loader = DataLoader(
            data, min(config.batch_size, len(data)), shuffle=True, generator=order
        )  # fmt: skip
        optimizer = make_optimizer(config, model, head)
        epochs = max(1, round(config.epochs))
        with attach(
            model, methods, optimizer, train_data=data, epochs=epochs, head=head, seed=seed,
            source_head=self.loaded.source_head,
        ) as handle:  # fmt: skip
            model.train()
            for _ in range(epochs):
                for x, y in handle.batches(loader):
                    optimizer.zero_grad()
                    handle.loss(model(x), y).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            model = handle.finish().eval()
        truth = torch.arange(self.way).repeat_interleave(one.query.shape[1])
        with torch.inference_mode():
            logits = model(self.inputs(split, table, one.query))
        return float((logits.argmax(1) == truth).double().mean())


def run_episodes(
    config: TuneConfig, source: DataSource, kind: Episodes, *, final: bool, seed: int
) -> dict[str, float | list[float]]:
    """Accuracies of the episodes of one seed, with their mean and its 95 % interval.

    Episodes for tuning come from one half of the classes and the training samples, those for
    judging from the other half and the test samples. All methods see the same episodes.

    Args:
        config: settings of the learner.
        source: the data, with a test split.
        kind: what episodes are like, and how many.
        final: whether to judge, or to tune.
        seed: which episodes are drawn, and what is drawn in each of them.

    Returns:
        ``accuracy``, ``half_width`` (of the interval over episodes) and ``episodes``.

    Raises:
        ConfigError: the data cannot give such episodes.
    """
    split = "test" if final else "train"
    if split not in source.tables or source.tables[split].labels is None:
        raise ConfigError(f"episodes: {source.name} has no labelled {split} split")
    table = source.tables[split]
    classes = split_classes(source, 0)[int(final)]
    learner = Learner(config, source, kind.way)
    labels = np.asarray(table.labels)
    found = []
    for number in range(kind.count):
        one = draw(labels, classes, kind, seed, number)
        found.append(learner.accuracy(split, table, one, key_of(_EPISODE, seed, number) % 2**31))
    return {**interval(found), "episodes": found}


def interval(accuracies: Sequence[float]) -> dict[str, float]:
    """Mean of the episodes and the half width of its 95 % interval, 1.96 standard errors.

    Example:
        >>> interval([0.2, 0.4, 0.6])
        {'accuracy': 0.4, 'half_width': 0.2263}
    """
    values = np.asarray(accuracies, dtype=np.float64)
    width = 1.96 * values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"accuracy": round(float(values.mean()), 6), "half_width": round(float(width), 4)}
