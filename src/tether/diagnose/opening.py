"""From a run folder, or from a model, its reference and data, to what is diagnosed."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from tether.data import load_data
from tether.data.table import DataSource, Table
from tether.diagnose.subject import (
    HELD_OUT,
    TRAIN,
    Subject,
    add_samples,
    class_indices,
    count_classes,
)
from tether.engine.reference import named_tensors
from tether.errors import ConfigError, TetherError
from tether.models.export import FACTS, WEIGHTS, load_exported, model_folder
from tether.models.load import load_model
from tether.models.predict import read_for_model
from tether.models.spec import LoadedModel
from tether.models.weights import load_backbone, read_weights
from tether.tuning.method_spec import entry, method_text
from tether.tuning.opened import OpenedRun, fill, open_run
from tether.tuning.options import TuneConfig

SPLITS = ("validation", "test")


def run_subject(
    run: str | Path,
    *,
    data: str = "",
    reference: str = "",
    weights: str = "best",
    split: str = "validation",
    samples: int = 500,
) -> Subject:
    """What a run folder holds, as far as it is still there.

    Args:
        run: the folder of a finished run.
        data: in place of the data that its settings name.
        reference: weights in place of those that the run began with, see :func:`read_reference`.
        weights: ``"best"``, ``"last"`` or ``"exported"``.
        split: the held-out split, ``"validation"`` or ``"test"``.
        samples: at most so many of the training and of the held-out samples.

    Raises:
        ConfigError: the folder holds no finished run, or the data have no such split.
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    opened = open_run(run, weights=weights)
    subject = Subject(
        _short(opened.path), opened.path, config=opened.stage, result=opened.result,
        history=opened.history, held_out=split, seed=opened.stage.seed, facts=_facts(opened),
    )  # fmt: skip
    if data:
        opened = open_run(run, weights=weights, data=load_data(replace(opened.stage, data=data)))
        subject.facts["data"] = data
    try:
        loaded: LoadedModel | None = opened.assembly.loaded
        source: DataSource | None = opened.assembly.source
        subject.reference = opened.reference
    except TetherError as error:
        loaded, source = _what_is_left(subject, opened, str(error), data)
    _take(subject, loaded, source, samples)
    if reference and loaded is not None:
        _set_reference(subject, loaded, reference)
    subject.note_missing()
    return subject


def kept_subject(run: str | Path) -> Subject:
    """What a run wrote down of itself, without its data and its model.

    Raises:
        ConfigError: the folder holds no finished run.
    """
    opened = open_run(run)
    why = "it was not diagnosed: run tether diagnose on it"
    lost = dict.fromkeys(("model", "reference", "data"), why)
    subject = Subject(
        _short(opened.path), opened.path, config=opened.stage, result=opened.result,
        history=opened.history, seed=opened.stage.seed, facts=_facts(opened), missing=lost,
    )  # fmt: skip
    subject.note_missing()
    return subject


def model_subject(
    model: str | Path,
    *,
    data: str,
    reference: str = "",
    samples: int = 500,
    seed: int = 0,
    options: dict[str, Any] | None = None,
) -> Subject:
    """A model on data, without a run.

    Args:
        model: a folder with a model that tether exported, or what ``--model`` of ``tether tune``
            takes, if it has a head for the classes of the data.
        data: what ``--data`` takes, or images, texts or rows with or without labels.
        reference: the weights that it began with, see :func:`read_reference`.
        samples: at most so many of the samples.
        seed: all draws follow from it.
        options: options of ``tether tune`` on reading the data, such as ``text_column``.

    Raises:
        ConfigError: no such model or data, or they do not fit.
    """
    config = TuneConfig(**{"seed": seed, **(options or {}), "model": str(model), "data": data})
    loaded = _load(config)
    table = _read(config, loaded)
    name = Path(model).name if Path(model).exists() else str(model)
    subject = Subject(
        name, facts={"model": str(model), "data": data, "weights": str(model)}, seed=seed,
        held_out="data",
    )  # fmt: skip
    subject.model, subject.head = loaded.model.eval(), loaded.head
    subject.class_names, subject.task = list(loaded.class_names), loaded.task
    add_samples(subject, {HELD_OUT: table}, loaded, samples)
    if reference:
        _set_reference(subject, loaded, reference)
    subject.missing.setdefault("train", "only a run tells what it was trained on")
    subject.note_missing()
    return subject


# -- a run -----------------------------------------------------------------------------------------


def _short(path: Path) -> str:
    return path.name or path.resolve().name


def _facts(opened: OpenedRun) -> dict[str, str]:
    stage = opened.stage
    methods = ", ".join(method_text(*entry(method)) for method in stage.methods) or "none (plain)"
    noise = f", labels made wrong by {stage.noise}" if stage.noise else ""
    chosen = {
        "best": f"of the best epoch, {opened.result.best_epoch:g}",
        "last": f"of the last epoch, {opened.result.epochs:g}",
        "exported": f"exported ({opened.config.export})",
    }
    return {
        "run": str(opened.path), "model": stage.model, "data": stage.data + noise,
        "methods": methods, "weights": chosen[opened.weights],
    }  # fmt: skip


def _what_is_left(
    subject: Subject, opened: OpenedRun, why: str, data: str
) -> tuple[LoadedModel | None, DataSource | None]:
    """Data, model and reference one by one, where they cannot be had together."""
    source: DataSource | None = None
    loaded: LoadedModel | None = None
    try:
        source = load_data(replace(opened.stage, data=data or opened.stage.data))
        if not data:
            opened.check_data(source)
    except TetherError as error:
        source, subject.missing["data"] = None, str(error)
    try:
        loaded = load_exported(opened.path)
        fill(loaded.model, opened.tensors(), f"the {opened.weights} weights of {opened.path}")
    except TetherError as error:
        loaded, subject.missing["model"] = None, str(error)
    try:
        subject.reference = _begun(opened, loaded, source)
    except (TetherError, KeyError, LookupError):
        subject.missing["reference"] = why
    return loaded, source


def _begun(
    opened: OpenedRun, loaded: LoadedModel | None, source: DataSource | None
) -> dict[str, Tensor]:
    """The pretrained weights; of the data only their kind and their classes are needed."""
    if loaded is None and source is None:
        raise ConfigError("neither the model nor the data are there")
    if source is None:
        assert loaded is not None
        source = DataSource("", loaded.kind, loaded.task, list(loaded.class_names), {})
    began = load_model(opened.stage, source).model
    return {name: tensor.detach().clone() for name, tensor in named_tensors(began)}


def _take(
    subject: Subject, loaded: LoadedModel | None, source: DataSource | None, samples: int
) -> None:
    if loaded is not None:
        subject.model, subject.head = loaded.model.eval(), loaded.head
        subject.class_names, subject.task = list(loaded.class_names), loaded.task
    if source is None:
        return
    subject.class_names, subject.task = list(source.class_names), source.task
    subject.class_counts = count_classes(source)
    if loaded is None:
        subject.missing.setdefault("train", subject.missing["model"])
        subject.missing.setdefault("held_out", subject.missing["model"])
        return
    if subject.held_out not in source.tables:
        raise ConfigError(
            f"the data {source.name} have no split {subject.held_out!r}: give --split "
            f"{' or '.join(name for name in source.tables if name != 'train')}"
        )
    tables = {TRAIN: source.tables["train"], HELD_OUT: source.tables[subject.held_out]}
    add_samples(subject, tables, loaded, samples)


# -- the weights it began with ---------------------------------------------------------------------


def read_reference(name: str) -> dict[str, Tensor]:
    """Tensors of a file of weights, of a folder with one, or of an exported model or run.

    Raises:
        ConfigError: there is no such file, or it holds no weights.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        folder = model_folder(path)
        if not (folder / WEIGHTS).is_file():
            raise ConfigError(f"reference {name}: the folder has no {WEIGHTS}")
        path = folder / WEIGHTS
    return read_weights(path)


def _set_reference(subject: Subject, loaded: LoadedModel, name: str) -> None:
    """Take other weights for the start, if they are of the same network."""
    tensors = read_reference(name)  # a slip in a path is an error
    subject.facts["reference"] = name
    subject.reference = None
    try:
        subject.reference, subject.new = _matched(loaded.model, loaded.head, tensors, name)
    except ConfigError as error:
        subject.missing["reference"] = str(error)
    else:
        subject.missing.pop("reference", None)


def _matched(
    model: nn.Module, head: str, tensors: dict[str, Tensor], name: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    began = deepcopy(model)
    report, _ = load_backbone(began, tensors, [head], origin=f"reference {name}")
    if report.missing:
        raise ConfigError(
            f"reference {name} lacks {len(report.missing)} tensors of the model, such as "
            f"{report.missing[0]!r}"
        )
    held = {n: t.detach().clone() for n, t in named_tensors(began)}
    own = [n for n in held if n.startswith(f"{head}.")]
    if all(n in tensors and tensors[n].shape == held[n].shape for n in own):
        return {**held, **{n: tensors[n] for n in own}}, ()
    return {n: t for n, t in held.items() if n not in own}, (head,)


# -- a model without a run -------------------------------------------------------------------------


def _load(config: TuneConfig) -> LoadedModel:
    folder = Path(config.model).expanduser()
    if folder.is_dir() and (model_folder(folder) / FACTS).is_file():
        return load_exported(folder)
    loaded = load_model(config, load_data(config))
    if loaded.keys is None or loaded.keys.head:
        raise ConfigError(
            f"model {config.model} has no head for the classes of {config.data}: give a model "
            "that was fine-tuned on them"
        )
    return loaded


def _read(config: TuneConfig, loaded: LoadedModel) -> Table:
    table, given, _ = read_for_model(config.data, loaded, config)
    if given is None or loaded.task != "single_label":
        return table
    labels = class_indices(given, loaded.class_names)
    if (labels < 0).all():
        raise ConfigError(
            f"data {config.data}: none of the labels ({given[0]!r}, …) is a class of the model "
            f"({', '.join(loaded.class_names[:5])})"
        )
    return replace(table, labels=np.asarray(labels))
