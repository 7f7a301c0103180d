"""From what the options name to tables that can be trained on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tether.continual.items import items_of
from tether.data.arrays import is_array_folder, read_arrays
from tether.data.checks import apply_policy, duplicates, usable
from tether.data.columns import read_columns, separate
from tether.data.files import SUFFIXES, read_table
from tether.data.folder import read_folder, subfolders, walk
from tether.data.images import is_image_name
from tether.data.labels import encode_labels, true_labels
from tether.data.noising import add_noise, known_noise
from tether.data.raw import RawData, RawSplit, by_split
from tether.data.splits import limit, split_validation, take_shots
from tether.data.table import SPLITS, DataSource, Notice, Table
from tether.errors import ConfigError
from tether.words import listed, nearest, printable

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig


def load_data(config: TuneConfig) -> DataSource:
    """Read the data that the options name, check them, and make what is missing of their splits.

    Args:
        config: ``data`` and the options of the group Data are read; also ``noise``, ``shots``,
            ``limit_train``, ``seed``, ``unlabelled`` and ``pairs``. Of a ``sequence`` the last task
            is given, with the classes of all.

    Raises:
        ConfigError: the data are not there or cannot be used as asked; says what to do.
    """
    if config.sequence and config.data in ("", items_of(config.sequence)[-1]):
        from tether.continual.data import read_sequence

        return read_sequence(config)[-1]
    source, keys = read_tables(config)
    if config.limit_classes:
        _first_classes(source, config.limit_classes)
    tables, task = source.tables, source.task
    if "validation" not in tables:
        train, validation = split_validation(
            tables["train"], task, config.validation_share, config.seed
        )
        rest = {name: table for name, table in tables.items() if name != "train"}
        source.tables = tables = {"train": train, "validation": validation, **rest}
        what = f"{len(validation)} training samples were set aside: there is no validation split"
        source.notices.append(Notice("made_validation", "validation", len(validation), what))
    _fewer(source, config)
    if keys:
        source.notices += duplicates(source.kind, tables, keys)
    if config.noise:
        _add_noise(source, config)
    _add_extra(source, config)
    source.fingerprints = {
        name: fingerprint(table, keys, given=bool(config.true_label_column))
        for name, table in tables.items()
    }
    return source


def read_tables(config: TuneConfig) -> tuple[DataSource, dict[str, bytes]]:
    """The data as they come: no split is made, nothing is left out on purpose, no noise.

    Args:
        config: as for :func:`load_data`.

    Returns:
        the data, and id -> hash of a sample's content (empty for the demo's).

    Raises:
        ConfigError: the data are not there or cannot be used.
    """
    return _demo(config) if config.data.startswith("demo:") else _read(config)


def _demo(config: TuneConfig) -> tuple[DataSource, dict[str, bytes]]:
    from tether.data.demo import load_demo

    _refuse_columns(config, f"{config.data} has no columns")
    if config.task not in ("auto", "single_label"):
        raise ConfigError(f"option task: {config.data} is single_label, not {config.task}")
    return load_demo(config.data.removeprefix("demo:"), config.seed), {}


def _refuse_columns(config: TuneConfig, why: str) -> None:
    for option in (
        "text_column", "image_column", "label_column", "domain_column", "true_label_column",
    ):  # fmt: skip
        if getattr(config, option):
            raise ConfigError(f"option {option}: {why}")


def _read(config: TuneConfig) -> tuple[DataSource, dict[str, bytes]]:
    try:
        raw = read_source(config)
    except OSError as error:
        raise ConfigError(f"data {config.data!r} cannot be read: {error.strerror}") from error
    if raw.folder:
        _refuse_columns(config, "an image folder has no columns; use a CSV file of image paths")
    raw.splits, keys, found = usable(raw.kind, raw.splits, config.on_bad_sample)
    notices = [*raw.notices, *found]
    encoded = encode_labels(raw, config.task, config.label_separator)
    domain_names = _domain_names(raw)
    tables: dict[str, Table] = {}
    for split in SPLITS:
        if split not in raw.splits:
            continue
        data, labels = raw.splits[split], encoded.labels[split]
        rows, found = apply_policy(split, data.ids, encoded.problems[split], config.on_bad_sample)
        notices += found
        if not rows and split != "train":
            what = "no sample is left: taken as not there"
            notices.append(Notice("empty_split", split, 0, what))
            continue
        if labels is None:
            what = "without labels: nothing is measured on them"
            notices.append(Notice("no_labels", split, len(rows), what))
        domains = _domains(data, domain_names)
        table = Table(data.inputs, labels, data.ids, domains).take(rows)
        if data.true is not None:
            true = true_labels([data.true[row] for row in rows], encoded, config.true_label_column)
            table = replace(table, true_labels=true)
        tables[split] = table
    source = DataSource(
        config.data, raw.kind, encoded.task, encoded.class_names, tables,
        domain_names=domain_names, notices=notices,
    )  # fmt: skip
    _check_classes(source)
    train = tables["train"]
    if train.true_labels is not None and train.labels is not None:
        source.noise = known_noise(train.labels, train.true_labels, len(source.class_names))
    return source, keys


def read_source(config: TuneConfig, *, labels: bool = True) -> RawData:
    """The samples that ``config.data`` names, as they are.

    Args:
        config: ``data`` and the column options are read.
        labels: whether labels and a split ``train`` are needed, or read where there are some.

    Raises:
        ConfigError: nothing is there, or it cannot be read.
    """
    if not config.data:
        raise ConfigError("no data: give --data FOLDER, FILE, NAME or demo:digits")
    path = Path(config.data).expanduser().absolute()
    if path.is_file() and path.suffix.lower() == ".npz":
        return read_arrays(path, config, labels=labels)
    if path.is_file():
        return read_columns(separate(read_table(path)), config, labels=labels)
    if not path.exists():
        if _looks_like_path(config.data):
            known = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise ConfigError(
                f"data: there is no file or folder {config.data!r}{nearest(path.name, known)}"
            )
        from tether.data.hub import read_hub

        return read_hub(config.data, config, labels=labels)
    if not path.is_dir():
        raise ConfigError(f"data: {config.data} is neither a file nor a folder")
    from tether.data.hub import READABLE, is_saved, read_files, read_saved

    if is_array_folder(path):
        return read_arrays(path, config, labels=labels)
    if is_saved(path):
        return read_saved(path, config, labels=labels)
    tables = _tables_in(path, need_train=labels)
    if tables:
        return read_columns(tables, config, labels=labels)
    files = list(walk(path))
    if not any(is_image_name(p.name) for p in files) and any(
        p.suffix.lower() in READABLE for p in files
    ):
        return read_files(path, config, labels=labels)
    if not files:
        raise ConfigError(f"data: folder {config.data} is empty")
    return read_folder(path)


def _looks_like_path(name: str) -> bool:
    return (
        name.startswith((".", "~", "/", os.sep))
        or name.count("/") > 1
        or name.endswith(os.sep)
        or (os.sep != "/" and os.sep in name)
        or Path(name).suffix.lower() in (*SUFFIXES, ".txt", ".zip", ".json", ".jsonl")
    )


def _tables_in(folder: Path, *, need_train: bool = True) -> dict[str, Any]:
    """The tables of a folder: a file for each split, or one file alone or beside its images."""
    files = sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file()),
        key=lambda p: p.name,
    )
    names = by_split([p.name for p in files], f"folder {folder}")
    if "train" in names or (names and not need_train):
        return {s: read_table(folder / names[s]) for s in SPLITS if s in names}
    beside = [p.name.lower() for p in subfolders(folder)]
    if len(files) == 1 and all(name in ("images", "image", "img") for name in beside):
        return separate(read_table(files[0]))
    if names and not beside:
        raise ConfigError(f"folder {folder} has {listed(sorted(names.values()))} and no train file")
    return {}


# -- what was read ---------------------------------------------------------------------------------


def _domain_names(raw: RawData) -> list[str]:
    """Those of the training data first: no other domain is trained on."""
    names: dict[str, None] = {}
    for split in SPLITS:
        data = raw.splits.get(split)
        if data is not None and data.domains is not None:
            names.update(dict.fromkeys(sorted(set(data.domains))))
    return list(names)


def _domains(data: RawSplit, names: list[str]) -> NDArray[np.int64] | None:
    if data.domains is None:
        return None
    place = {name: i for i, name in enumerate(names)}
    return np.array([place[name] for name in data.domains], dtype=np.int64)


def _check_classes(source: DataSource) -> None:
    """Refuse training data from which nothing can be learnt; note classes of one sample."""
    table = source.tables["train"]
    labels = table.labels
    if labels is None or not len(table):
        raise ConfigError(f"data {source.name}: no training sample is left that can be used")
    if source.task != "single_label":
        if (labels == labels[0]).all():
            raise ConfigError(f"data {source.name}: all training samples have the same labels")
        return
    counts = np.bincount(labels, minlength=len(source.class_names))
    if (counts > 0).sum() < 2:
        only = printable(source.class_names[int(counts.argmax())])
        raise ConfigError(
            f"data {source.name}: all training samples are of one class, '{only}'; at least two "
            "are needed"
        )
    for kind, mask, what in (
        ("single_sample_class", counts == 1, "classes have a single training sample; it is kept "
         "for training"),
        ("class_without_samples", counts == 0, "classes have no training sample"),
    ):  # fmt: skip
        names = [source.class_names[i] for i in np.flatnonzero(mask)]
        if names:
            source.notices.append(Notice(kind, "train", len(names), what, names[:5]))


def _first_classes(source: DataSource, number: int) -> None:
    """Leave out the samples of all other classes, in every split."""
    if source.task != "single_label" or number < 2:
        raise ConfigError(
            f"option limit_classes: at least 2 classes of single-label data, got {number} for "
            f"{source.task} data"
        )
    for split, table in source.tables.items():
        if table.labels is not None:
            kept = table.labels < number
            if table.true_labels is not None:
                kept &= table.true_labels < number
            source.tables[split] = table.take(np.flatnonzero(kept))
    source.class_names = source.class_names[:number]
    _check_classes(source)


def _fewer(source: DataSource, config: TuneConfig) -> None:
    train, seed = source.tables["train"], config.seed
    if config.shots:
        train = take_shots(train, source.task, config.shots, seed)
        assert train.labels is not None
        counts = np.bincount(train.labels, minlength=len(source.class_names))
        few = [n for n, c in zip(source.class_names, counts, strict=True) if c < config.shots]
        if few:
            what = f"classes have fewer than {config.shots} training samples"
            source.notices.append(Notice("few_samples", "train", len(few), what, few[:5]))
    if config.limit_train:
        train = limit(train, source.task, config.limit_train, seed)
    source.tables["train"] = train
    if config.limit_validation:
        validation = source.tables["validation"]
        source.tables["validation"] = limit(validation, source.task, config.limit_validation, seed)


def _add_noise(source: DataSource, config: TuneConfig) -> None:
    train = source.tables["train"]
    if train.true_labels is not None:
        raise ConfigError(
            f"option noise: {source.name} has wrong labels of its own; use "
            + ("demo:digits-few" if source.name.startswith("demo:") else "no --true-label-column")
        )
    source.tables["train"], source.noise = add_noise(
        train, config.noise, kind=source.kind, task=source.task,
        num_classes=len(source.class_names), seed=config.seed,
    )  # fmt: skip


def _add_extra(source: DataSource, config: TuneConfig) -> None:
    from tether.data.extra import load_inputs, load_pairs

    if config.unlabelled:
        source.unlabelled, notices = load_inputs(config.unlabelled, config, kind=source.kind)
        source.notices += notices
    if config.pairs:
        if source.kind != "text":
            raise ConfigError(f"option pairs: pairs are texts, but {source.name} is not")
        source.pairs, notices = load_pairs(config.pairs, config.on_bad_sample)
        source.notices += notices


def fingerprint(table: Table, keys: Mapping[str, bytes], *, given: bool = False) -> str:
    """A hash of a table's ids, contents and true labels; equal tables have equal ones.

    Args:
        table: the samples.
        keys: id -> hash of the content; rows of numbers need none.
        given: whether labels that are beside the true ones belong to the data, too.
    """
    digest = blake2b(digest_size=16)
    labels = table.labels if table.true_labels is None else table.true_labels
    for row, name in enumerate(table.ids):
        digest.update(name.encode("utf-8", "surrogatepass") + b"\0")
        digest.update(keys[name] if keys else np.asarray(table.inputs[row]).tobytes())
    parts = [labels, table.labels if given else None]
    for part in parts:
        digest.update(b"" if part is None else repr(part.shape).encode() + part.tobytes())
    return digest.hexdigest()
