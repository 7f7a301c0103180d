"""Data, model, methods and loaders of one stage, put together from the settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tether.catalogue import create_method
from tether.data import load_data
from tether.data.collate import Collator, PairBatches, UnlabelledBatches
from tether.data.keyed import DomainBalancedSampler, KeyedDataset, KeyedSampler
from tether.data.table import DataSource
from tether.data.transforms import image_encoder
from tether.engine.attach import prepare
from tether.errors import ConfigError, TetherError
from tether.method import Method
from tether.methods.inputs.randaugment import RandAugment
from tether.models import load_model
from tether.models.freeze import FreezeReport, freeze
from tether.models.predict import evaluation_encoder
from tether.models.spec import LoadedModel
from tether.tuning.facts import tell_facts
from tether.tuning.method_spec import check_methods
from tether.tuning.options import TuneConfig
from tether.tuning.tasks import methods_in_sequence
from tether.tuning.values import split_top
from tether.tuning.weights import load_head_rows, load_weights

LOSSES = {
    "single_label": "cross_entropy",
    "multi_label": "binary_cross_entropy",
    "regression": "mse",
}


@dataclass
class Assembly:
    """What a stage is made of.

    Attributes:
        config: its settings.
        source: the data.
        loaded: the model with its new head.
        methods: the methods, in the order given.
        frozen: what is held still.
        loss: name of the task loss, or ``"model"``.
        collate: samples -> batch.
        train: the training data, randomly transformed.
        plain: the same samples as in evaluation, for statistics passes.
        splits: validation and test data.
        asked: what methods asked of the data layer: need -> names of the methods.
        extra_batches: entry of a batch -> what makes it from the number of the micro-batch.
    """

    config: TuneConfig
    source: DataSource
    loaded: LoadedModel
    methods: list[Method]
    frozen: FreezeReport
    loss: str
    collate: Callable[[list[Any]], Any]
    train: KeyedDataset
    plain: KeyedDataset
    splits: dict[str, KeyedDataset]
    asked: dict[str, list[str]] = field(default_factory=dict)
    extra_batches: dict[str, Callable[[int], Any]] = field(default_factory=dict)

    def sampler(self) -> Any:
        """The order of the training data, keyed on seed and epoch."""
        table = self.source.tables["train"]
        if "domains" in self.asked and table.domains is not None:
            per_batch = self.config.batch_size
            return DomainBalancedSampler(table.domains, per_batch, self.config.seed)
        return KeyedSampler(len(table), self.config.seed)


def assemble(
    config: TuneConfig, *, start: Path | None = None, start_classes: Sequence[str] = (),
    new_head: bool = False, source: DataSource | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Assembly:  # fmt: skip
    """Read the data, load the model, make the methods.

    Args:
        config: the settings of a stage.
        start: weights of the stage before, to begin with.
        start_classes: what the outputs of its head stood for.
        new_head: leave the head as it was drawn anew; so it is, too, where the classes differ.
        source: data that were read already, in place of those that the settings name.
        facts: what methods are told beside what model and tokenizer tell.

    Raises:
        ConfigError: something in the settings does not fit.
    """
    methods = make_methods(config)
    source = load_data(config) if source is None else source
    loaded = load_model(config, source)
    if config.sequence:
        methods = methods_in_sequence(methods, config, source, start)
    if start is not None:
        new_head = new_head or source.class_names != list(start_classes)
        load_weights(loaded.model, start, without=f"{loaded.head}." if new_head else None)
        if new_head and config.sequence:
            load_head_rows(loaded.model, start, loaded.head, len(start_classes))
    if config.class_weights:
        weights = read_class_weights(config.class_weights, source)
        methods.append(create_method("class_weights", weights=weights))
    loss = LOSSES[source.task] if config.loss == "auto" else config.loss
    check_loss(loss, source)
    asked = what_is_asked(methods, source)
    tell_facts(methods, loaded, facts or {})
    try:
        prepare(loaded.model, methods, head=loaded.head)
    except TetherError as error:  # methods that cannot be combined
        raise ConfigError(str(error)) from None
    if config.channels_last and loaded.kind == "image":
        loaded.model.to(memory_format=torch.channels_last)
    new = loaded.keys.missing if loaded.keys is not None else ()
    frozen = freeze(loaded.model, loaded.head, config.freeze, config.freeze_norm, new=new)

    encode, plain = encoders(config, loaded, methods)
    parts = [part.info for method in methods for part in method.expand()]
    views = max((info.views for info in parts if "views" in info.needs), default=1)
    tables = source.tables
    assembly = Assembly(
        config, source, loaded, methods, frozen, loss, Collator(loaded.pad),
        train=KeyedDataset(
            tables["train"], encode, seed=config.seed, train=True, views=views,
            domains="domains" in asked,
        ),
        plain=KeyedDataset(tables["train"], plain, seed=config.seed, train=False),
        splits={
            name: KeyedDataset(table, plain, seed=config.seed, train=False)
            for name, table in tables.items()
            if name != "train"
        },
        asked=asked,
    )  # fmt: skip
    if "unlabelled" in asked and source.unlabelled is not None:
        assembly.extra_batches["unlabelled"] = UnlabelledBatches(
            source.unlabelled, encode, config.batch_size, config.seed, pad=loaded.pad
        )
    if "unlabelled_views" in asked and source.unlabelled is not None:
        count = max(info.views for info in parts if "unlabelled_views" in info.needs)
        further = [
            UnlabelledBatches(
                source.unlabelled, encode, config.batch_size, config.seed, pad=loaded.pad, view=view
            )
            for view in range(1, count)
        ]
        assembly.extra_batches["unlabelled_views"] = lambda step: [one(step) for one in further]
    if "pairs" in asked and source.pairs is not None and loaded.encode_text is not None:
        assembly.extra_batches["pairs"] = PairBatches(
            source.pairs, loaded.encode_text, config.batch_size, config.seed, pad=loaded.pad
        )
    return assembly


def make_methods(config: TuneConfig) -> list[Method]:
    """New method objects from the settings, label smoothing among them."""
    methods = check_methods(config)
    if config.label_smoothing:
        methods.append(create_method("label_smoothing", smoothing=config.label_smoothing))
    return methods


def encoders(
    config: TuneConfig, loaded: LoadedModel, methods: Sequence[Method] = ()
) -> tuple[Callable[[Any], dict[str, Any]], Callable[[Any], dict[str, Any]]]:
    """What turns a raw input into the model's: in training, and in evaluation.

    Raises:
        ConfigError: RandAugment is asked for as a method and as an augmentation.
    """
    plain = evaluation_encoder(loaded)
    if loaded.kind != "image" or loaded.image is None:
        return plain, plain
    changes = [method.transform for method in methods if isinstance(method, RandAugment)]
    if changes and config.augment == "randaugment":
        raise ConfigError(
            "option augment: randaugment, and the method randaugment does it once more; leave one "
            "out (augment: default crops, mirrors and changes the light a little)"
        )
    varied = image_encoder(
        loaded.image, train=True, augment=config.augment, input_name=loaded.input_name,
        change=changes[0] if changes else None,
    )  # fmt: skip
    return varied, plain


def what_is_asked(methods: list[Method], source: DataSource) -> dict[str, list[str]]:
    """Need of the data layer -> methods that have it.

    Raises:
        ConfigError: the data lack it; says which option brings it.
    """
    asked: dict[str, list[str]] = {}
    for method in methods:
        for part in method.expand():
            for need in part.info.needs:
                asked.setdefault(need, []).append(part.info.name)
    remedies = {
        "domains": (source.tables["train"].domains is not None, "--domain-column NAME"),
        "unlabelled": (source.unlabelled is not None, "--unlabelled PATH"),
        "unlabelled_views": (source.unlabelled is not None, "--unlabelled PATH"),
        "pairs": (source.pairs is not None, "--pairs PATH"),
    }
    for need, (there, remedy) in remedies.items():
        if need in asked and not there:
            raise ConfigError(f"method {asked[need][0]!r} needs {need}: give {remedy}")
    return asked


def check_loss(loss: str, source: DataSource) -> None:
    """Refuse a loss that cannot take the labels.

    Raises:
        ConfigError: says which losses can.
    """
    fits = {
        "single_label": ("cross_entropy", "model"),
        "multi_label": ("binary_cross_entropy", "mse", "l1", "model"),
        "regression": ("mse", "l1", "model"),
    }[source.task]
    if loss not in fits:
        raise ConfigError(
            f"option loss: {loss} does not take {source.task} labels; use {' or '.join(fits)}"
        )


def read_class_weights(text: str, source: DataSource) -> list[float] | str:
    """``balanced``, or a weight for each class by its name.

    Raises:
        ConfigError: an unknown class, a class without a weight, a weight that is no number.
    """
    if source.task != "single_label":
        raise ConfigError(f"option class_weights: the data are {source.task}, not single_label")
    if text == "balanced":
        return text
    given: dict[str, float] = {}
    try:
        parts = split_top(text)
    except ValueError as error:
        raise ConfigError(f"option class_weights: {error}") from None
    for part in parts:  # a name in quotes may hold a comma
        name, equals, number = part.rpartition("=")
        name = name.strip().strip("'\"")
        try:
            given[name] = float(number)
        except ValueError:
            equals = ""
        if not equals or not 0 <= given[name] < math.inf:
            raise ConfigError(
                f"option class_weights: {part!r} is not CLASS=WEIGHT with a number from 0 on"
            )
    names = source.class_names
    for name in given:
        if name not in names:
            raise ConfigError(
                f"option class_weights: no class {name!r}; the data have {', '.join(names[:20])}"
            )
    left = [name for name in names if name not in given]
    if left:
        raise ConfigError(f"option class_weights: no weight for {', '.join(left[:20])}")
    return [given[name] for name in names]


def describe_model(made: Assembly) -> list[str]:
    """The model, its weights, what is held still, and how images are shown to it, in lines."""
    loaded = made.loaded
    parameters = list(loaded.model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    lines = [
        f"{loaded.name} ({loaded.library}), head {loaded.head!r} for "
        f"{len(made.source.class_names)} outputs",
        f"{trained:,} of {sum(p.numel() for p in parameters):,} parameters are trained",
    ]
    if loaded.keys is not None:
        keys = loaded.keys
        lines.append(
            f"weights: {len(keys.taken)} keys taken, {len(keys.head)} of the new head, "
            f"{len(keys.missing)} missing, {len(keys.unexpected)} not used"
        )
        for what, names in (("missing", keys.missing), ("not used", keys.unexpected)):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                lines.append(f"  {what}: {', '.join(names[:5])}{more}")
    if made.frozen.frozen or made.frozen.still:
        lines.append(
            f"held still: {len(made.frozen.frozen)} tensors, statistics of "
            f"{len(made.frozen.still)} norm layers"
        )
    if loaded.image is not None:
        image = loaded.image
        lines.append(
            f"images of {image.size[0]} x {image.size[1]}, {image.interpolation}, mean "
            f"{image.mean}, std {image.std}, augmentation {made.config.augment!r}"
        )
    return lines
