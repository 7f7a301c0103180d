"""Which columns hold the inputs and the labels: as told, or guessed by their names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.data.files import Columns
from tether.data.images import StoredImage, is_image_name
from tether.data.raw import Cell, RawData, RawSplit, split_of
from tether.data.table import Notice
from tether.errors import ConfigError
from tether.words import listed, nearest

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

PAIRS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("text1", "text2"), ("text_a", "text_b"), ("question", "sentence"),
)  # fmt: skip
TEXTS = (
    "text", "sentence", "content", "review", "comment", "body", "document", "tweet", "question",
    "utterance", "message", "title",
)  # fmt: skip
IMAGES = (
    "image", "img", "image_path", "path", "file", "file_name", "filename", "filepath", "file_path",
    "images",
)  # fmt: skip
LABELS = (
    "label", "labels", "target", "targets", "class", "classes", "category", "y", "fine_label",
    "score", "rating", "sentiment", "intent",
)  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The columns that are used.

    Attributes:
        kind: ``"image"`` or ``"text"``.
        inputs: one column, or two of sentence pairs.
        labels: the label columns.
        domain: the column of domains, or "".
        true: the column of labels that are known to be right, or "".
    """

    kind: str
    inputs: tuple[str, ...]
    labels: tuple[str, ...] = ()
    domain: str = ""
    true: str = ""


def read_columns(tables: dict[str, Columns], config: TuneConfig, *, labels: bool = True) -> RawData:
    """Split -> its columns, as inputs and labels.

    Args:
        tables: the splits; ``train`` is needed for labels.
        config: its column options are read.
        labels: whether labels are wanted; if not, they are read where there are some.

    Raises:
        ConfigError: a column is not there, or cannot be guessed; lists those that are.
    """
    if not labels:
        return _without_need(tables, config)
    train = tables["train"]
    choice = choose(train, config)
    classes = train.classes.get(choice.labels[0]) if len(choice.labels) == 1 else None
    notices: list[Notice] = []
    splits = {}
    for split, columns in tables.items():
        true = choice.true if split == "train" else ""
        for name in (*choice.inputs, *(n for n in (choice.domain, true) if n)):
            named(columns, name, "")
        labelled = all(name in columns.names for name in choice.labels)
        if not labelled and split != "test":
            missing = next(name for name in choice.labels if name not in columns.names)
            raise ConfigError(f"{columns.name} has no column {missing!r}; it has {_all(columns)}")
        if len(columns) or split == "train":
            splits[split] = take(columns, replace(choice, true=true), labelled)
        else:
            what = f"{columns.name} holds no rows: taken as not there"
            notices.append(Notice("empty_split", split, 0, what))
    return RawData(choice.kind, splits, list(choice.labels), classes, notices=notices)


def _without_need(tables: dict[str, Columns], config: TuneConfig) -> RawData:
    """Inputs to predict, with the labels of those splits that have some."""
    first = tables["train"] if "train" in tables else next(iter(tables.values()))
    there = ",".join(label_columns(first, (), config)) if config.label_column else ""
    choice = choose(first, _without(config, there), labels=False)
    splits = {}
    for split, columns in tables.items():
        for name in choice.inputs:
            named(columns, name, "")
        mine = replace(choice, labels=label_columns(columns, choice.inputs, config))
        splits[split] = take(columns, mine, labelled=bool(mine.labels))
    return RawData(choice.kind, splits, list(label_columns(first, choice.inputs, config)))


def _without(config: TuneConfig, labels: str) -> TuneConfig:
    """The options without columns that prediction does not look at."""
    return replace(config, label_column=labels, domain_column="", true_label_column="")


def label_columns(columns: Columns, inputs: Sequence[str], config: TuneConfig) -> tuple[str, ...]:
    """The label columns that the options name and that are there, or one that looks like it."""
    if config.label_column in columns.names:
        return (config.label_column,)
    names = [name.strip() for name in config.label_column.split(",")]
    told = tuple(name for name in names if name and name in columns.names)
    known = _first([name for name in columns.names if name not in inputs], LABELS)
    return told or (() if known is None else (known,))


def separate(columns: Columns) -> dict[str, Columns]:
    """One table by its column ``split``, where it has one that names splits and nothing else."""
    name = next((n for n in columns.names if n.lower() == "split"), None)
    if name is None:
        return {"train": columns}
    rows: dict[str, list[int]] = {}
    for row, value in enumerate(columns.get(name)):
        rows.setdefault(split_of(str(value)) or "", []).append(row)
    if "" in rows or "train" not in rows:
        return {"train": columns}
    order = [split for split in ("train", "validation", "test") if split in rows]
    return {split: columns.subset(rows[split]) for split in order}


# -- choosing --------------------------------------------------------------------------------------


def choose(columns: Columns, config: TuneConfig, *, labels: bool = True) -> Choice:
    """The columns that the options name, or that look like inputs and labels.

    Args:
        columns: the training table.
        config: its column options are read.
        labels: whether labels are wanted.

    Raises:
        ConfigError: a column is not there, or cannot be guessed; lists those that are.
    """
    if config.text_column and config.image_column:
        raise ConfigError("options text_column and image_column: give one, texts or images")
    domain, true = (
        named(columns, name, option) if name else ""
        for name, option in ((config.domain_column, "domain_column"),
                             (config.true_label_column, "true_label_column"))
    )  # fmt: skip
    told = several(columns, config.label_column, "label_column") if config.label_column else ()
    taken = {*told, domain, true}
    if config.text_column:
        kind, inputs = "text", several(columns, config.text_column, "text_column")
        if len(inputs) > 2:
            raise ConfigError("option text_column: one column, or two for sentence pairs")
    elif config.image_column:
        kind, inputs = "image", (named(columns, config.image_column, "image_column"),)
    else:
        kind, inputs = _guess_inputs(columns, taken)
    if not labels:
        return Choice(kind, inputs, (), domain)
    if not told:
        left = [n for n in columns.names if n not in inputs and n not in (domain, true)]
        label = _first(left, LABELS)
        if label is None:
            raise ConfigError(
                f"{columns.name}: no column looks like labels among {_all(columns)}; name it with "
                "--label-column NAME"
            )
        told = (label,)
    if set(told) & set(inputs):
        raise ConfigError(f"column {told[0]!r} is named as input and as label")
    return Choice(kind, inputs, told, domain, true)


def _guess_inputs(columns: Columns, taken: set[str]) -> tuple[str, tuple[str, ...]]:
    names = [n for n in columns.names if n not in taken]
    lower = {n.lower(): n for n in names}
    pair = next((p for p in PAIRS if p[0] in lower and p[1] in lower), None)
    text = (
        tuple(lower[n] for n in pair)
        if pair
        else tuple(n for n in [_first(names, TEXTS)] if n is not None)
    )
    image = next((n for n in names if n in columns.images), None) or _first(names, IMAGES)
    if image is not None and image not in columns.images and not _holds_paths(columns, image):
        image = None
    if image is not None and text:
        raise ConfigError(
            f"{columns.name} has images ({image!r}) and texts ({text[0]!r}); say which is meant "
            "with --image-column or --text-column"
        )
    if image is not None:
        return "image", (image,)
    if text:
        return "text", text
    rest = [n for n in names if n not in _label_like(names)]
    if len(rest) == 1:
        return ("image" if _holds_paths(columns, rest[0]) else "text"), (rest[0],)
    raise ConfigError(
        f"{columns.name}: no column looks like texts or images among {_all(columns)}; name it "
        "with --text-column NAME or --image-column NAME"
    )


def _label_like(names: Sequence[str]) -> list[str]:
    return [n for n in names if n.lower() in LABELS]


def _holds_paths(columns: Columns, name: str) -> bool:
    some = [v for v in columns.get(name)[:20] if v]
    return bool(some) and all(isinstance(v, str) and is_image_name(v) for v in some)


def _first(names: Sequence[str], known: Sequence[str]) -> str | None:
    lower = {n.lower(): n for n in reversed(names)}
    return next((lower[k] for k in known if k in lower), None)


def named(columns: Columns, name: str, option: str) -> str:
    """The column of this name.

    Raises:
        ConfigError: there is none; lists those that are there.
    """
    if name in columns.names:
        return name
    where = f"option {option}: " if option else ""
    raise ConfigError(
        f"{where}{columns.name} has no column {name!r}; it has {_all(columns)}"
        f"{nearest(name, columns.names)}"
    )


def several(columns: Columns, text: str, option: str) -> tuple[str, ...]:
    """The columns of these names; a name that holds a comma is found as well."""
    if text in columns.names:
        return (text,)
    return tuple(named(columns, part.strip(), option) for part in text.split(","))


def _all(columns: Columns) -> str:
    return listed(columns.names, most=40)


# -- taking ----------------------------------------------------------------------------------------


def take(columns: Columns, choice: Choice, labelled: bool) -> RawSplit:
    """The chosen columns as inputs, labels and domains."""
    values = [columns.get(name) for name in choice.inputs]
    if choice.kind == "image":
        inputs = _images(columns, choice.inputs[0], values[0])
    elif len(values) == 2:
        inputs = [(_text(a), _text(b)) for a, b in zip(*values, strict=True)]
    else:
        inputs = [_text(value) for value in values[0]]
    cells = None
    if labelled:
        told = [
            [cell(value, columns.classes.get(name)) for value in columns.get(name)]
            for name in choice.labels
        ]
        cells = list(zip(*told, strict=True))
    domains = [_text(v) for v in columns.get(choice.domain)] if choice.domain else None
    true = None
    if choice.true:
        classes = columns.classes.get(choice.true)
        true = [cell(value, classes) for value in columns.get(choice.true)]
    return RawSplit(inputs, list(columns.ids), cells, domains, true)


def _images(columns: Columns, name: str, values: Sequence[Any]) -> list[Any]:
    if name in columns.images:
        return [StoredImage(values, row, columns.roots) for row in range(len(values))]
    base = columns.base or Path()
    places = [base, *(p for p in (base / "images",) if p.is_dir())]
    found = []
    for value in values:
        paths = [place / _text(value) for place in places]
        found.append(next((p for p in paths if p.is_file()), paths[0]))
    return found


def cell(value: Any, classes: list[str] | None = None) -> Cell:
    """A label as text; "" where it is missing.

    Example:
        >>> [cell(value) for value in (3, 3.0, 0.5, True, None, float("nan"), [1, 2], " cat ")]
        ['3', '3', '0.5', '1', '', '', ('1', '2'), 'cat']
        >>> cell(1, ["cat", "dog"]), cell(-1, ["cat", "dog"])
        ('dog', '')
    """
    if isinstance(value, (list, tuple)):
        return tuple(str(cell(each, classes)) for each in value)
    if classes is not None and isinstance(value, int):
        return classes[value] if 0 <= value < len(classes) else ""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value).strip()


def _text(value: Any) -> str:
    return "" if value is None else str(value)
