"""From labels as texts to numbers: which task they are, which classes there are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tether.data.checks import Problem
from tether.data.raw import Cell, RawData, RawSplit
from tether.errors import ConfigError
from tether.words import listed, printable

_INTEGER = re.compile(r"0|-?[1-9]\d*")
_WHOLE = re.compile(r"(-?\d+)\.0*")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_TRUTH = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0}
_LARGEST = float(np.finfo(np.float32).max)
Array = NDArray[np.generic]


@dataclass
class Encoded:
    """Labels as numbers.

    Attributes:
        task: ``"single_label"``, ``"multi_label"`` or ``"regression"``.
        class_names: in order of their index; names of the columns for a regression.
        labels: split -> labels, None where it has none; rows with a problem hold anything.
        problems: split -> what is wrong with some of them.
    """

    task: str
    class_names: list[str]
    labels: dict[str, Array | None]
    problems: dict[str, list[Problem]]


def encode_labels(raw: RawData, task: str, separator: str) -> Encoded:
    """Decide on the task and the classes, and turn the labels into numbers.

    Classes are those of the training data: sorted, by value if all of them are whole numbers (but
    class folders always by their names).

    Args:
        raw: the data, without samples that cannot be used.
        task: as the user says, ``"auto"``: by the labels.
        separator: between the labels of a multi-label cell.

    Raises:
        ConfigError: the labels do not fit the task, or there are not two different ones.
    """
    splits = dict(raw.splits)
    test = splits.get("test")
    if test is not None and test.cells is not None and not _any_label(test.cells):
        splits["test"] = replace(test, cells=None)  # nothing is measured on it
    cells = [row for split in splits.values() for row in split.cells or ()]
    task = decide_task(raw, cells, separator) if task == "auto" else task
    if raw.folder and task != "single_label":
        raise ConfigError(
            f"task {task}: class folders give each image one class; put the labels into a CSV "
            "file with a column of image paths"
        )
    if task == "regression":
        return _numbers(raw, splits)
    if task == "multi_label" and len(raw.label_names) > 1:
        return _indicators(raw, splits)
    if len(raw.label_names) > 1:
        raise ConfigError(
            f"task {task}: one label column is expected, not {listed(raw.label_names)}"
        )
    if task == "multi_label":
        return _several(raw, splits, separator)
    return _classes(raw, splits)


def true_labels(cells: Sequence[Cell], encoded: Encoded, column: str) -> Array:
    """Indices of the labels that are known to be right.

    Raises:
        ConfigError: the task is not ``"single_label"``, or a label is not one of the classes.
    """
    if encoded.task != "single_label":
        raise ConfigError(f"option true_label_column: labels of one class, not {encoded.task}")
    place = {name: index for index, name in enumerate(encoded.class_names)}
    texts = [str(cell) if str(cell) in place else as_whole(str(cell)) for cell in cells]
    unknown = next((text for text in texts if text not in place), None)
    if unknown is not None:
        raise ConfigError(
            f"option true_label_column: no training sample has the label '{printable(unknown)}' "
            f"that column {column!r} holds"
        )
    return np.array([place[text] for text in texts], dtype=np.int64)


def _any_label(cells: Sequence[tuple[Cell, ...]]) -> bool:
    return any(any(row) for row in cells)


def decide_task(raw: RawData, cells: Sequence[tuple[Cell, ...]], separator: str) -> str:
    """What the labels look like.

    Raises:
        ConfigError: several columns hold neither 0/1 nor numbers.
    """
    flat = {cell for row in cells for cell in row if cell}
    texts = {cell for cell in flat if isinstance(cell, str)}
    if len(texts) < len(flat):  # lists
        return "multi_label"
    if len(raw.label_names) > 1:
        if all(text.lower() in _TRUTH or as_whole(text) in ("0", "1") for text in texts):
            return "multi_label"
        if all(_NUMBER.fullmatch(text) for text in texts):
            return "regression"
        raise ConfigError(
            f"label columns {listed(raw.label_names)}: 0 and 1 (several labels a sample) or "
            f"numbers are expected, not {listed(sorted(texts)[:3])}"
        )
    if raw.folder or raw.classes is not None:
        return "single_label"
    if separator and any(separator in text for text in texts):
        return "multi_label"
    numbers = [text for text in texts if _NUMBER.fullmatch(text)]
    if len(numbers) == len(texts - {"nan", "NaN"}) and any(
        not float(text).is_integer() for text in numbers
    ):
        return "regression"
    return "single_label"


def as_whole(text: str) -> str:
    """``"3.0"`` as ``"3"``; any other text as it is."""
    found = _WHOLE.fullmatch(text)
    return str(int(found[1])) if found else text


def sorted_names(names: Iterable[str]) -> list[str]:
    """Distinct names in order: by value if all are whole numbers, else as texts.

    Example:
        >>> sorted_names(["10", "9", "9"]), sorted_names(["10", "9", "b"])
        (['9', '10'], ['10', '9', 'b'])
    """
    distinct = set(names)
    if all(_INTEGER.fullmatch(name) for name in distinct):
        return sorted(distinct, key=int)
    return sorted(distinct)


# -- the tasks -------------------------------------------------------------------------------------


def _train_cells(splits: dict[str, RawSplit], raw: RawData) -> list[tuple[Cell, ...]]:
    cells = splits["train"].cells
    if cells is None or (cells and not _any_label(cells)):
        raise ConfigError(
            f"the training data have no labels: {listed(raw.label_names)} is empty everywhere"
        )
    return cells


def _classes(raw: RawData, splits: dict[str, RawSplit]) -> Encoded:
    train = _train_cells(splits, raw)
    if any(isinstance(row[0], tuple) for row in train):
        raise ConfigError("task single_label: the labels are lists; use --task multi_label")
    every = [row[0] for s in splits.values() for row in s.cells or () if isinstance(row[0], str)]
    whole = not raw.folder and all(_INTEGER.fullmatch(as_whole(text)) for text in every if text)
    read = as_whole if whole else str
    distinct = {read(str(row[0])) for row in train if row[0]}
    # class folders as torchvision and timm sort them
    names = raw.classes or (sorted(distinct) if raw.folder else sorted_names(distinct))
    place = {name: i for i, name in enumerate(names)}
    result = Encoded("single_label", names, {}, {})
    for split, data in splits.items():
        if data.cells is None:
            result.labels[split], result.problems[split] = _none(split, data)
            continue
        labels, problems = np.zeros(len(data), dtype=np.int64), []
        for row, (text, *_) in enumerate(data.cells):
            found = place.get(read(str(text)))
            if found is None:
                problems.append(_problem(row, str(text)))
            else:
                labels[row] = found
        result.labels[split], result.problems[split] = labels, problems
    return result


def _several(raw: RawData, splits: dict[str, RawSplit], separator: str) -> Encoded:
    def parts(cell: Cell) -> list[str]:
        texts = cell if isinstance(cell, tuple) else cell.split(separator) if separator else [cell]
        return [text for text in (part.strip() for part in texts) if text]

    train = _train_cells(splits, raw)
    names = raw.classes or sorted_names(name for row in train for name in parts(row[0]))
    place = {name: i for i, name in enumerate(names)}
    result = Encoded("multi_label", names, {}, {})
    for split, data in splits.items():
        if data.cells is None:
            result.labels[split], result.problems[split] = _none(split, data)
            continue
        labels = np.zeros((len(data), len(names)), dtype=np.float32)
        problems = []
        for row, (cell, *_) in enumerate(data.cells):
            unknown = [name for name in parts(cell) if name not in place]
            if unknown:
                problems.append(_problem(row, unknown[0]))
            else:
                labels[row, [place[name] for name in parts(cell)]] = 1
        result.labels[split], result.problems[split] = labels, problems
    return result


def _indicators(raw: RawData, splits: dict[str, RawSplit]) -> Encoded:
    return _columns(raw, splits, "multi_label")


def _numbers(raw: RawData, splits: dict[str, RawSplit]) -> Encoded:
    result = _columns(raw, splits, "regression")
    if len(raw.label_names) == 1:  # one number a sample: [N]
        result.labels = {s: None if y is None else y[:, 0] for s, y in result.labels.items()}
    return result


def _columns(raw: RawData, splits: dict[str, RawSplit], task: str) -> Encoded:
    _train_cells(splits, raw)
    result = Encoded(task, list(raw.label_names), {}, {})
    for split, data in splits.items():
        if data.cells is None:
            result.labels[split], result.problems[split] = _none(split, data)
            continue
        labels = np.zeros((len(data), len(raw.label_names)), dtype=np.float32)
        problems = []
        for row, cells in enumerate(data.cells):
            if any(cell in ("", "nan", "NaN") for cell in cells):
                problems.append(_problem(row, ""))
                continue
            for column, cell in enumerate(cells):
                value = _value(cell, task, raw.label_names[column], data.ids[row])
                if abs(value) > _LARGEST:
                    why = f"its label '{printable(cell)}' is too large for 32-bit numbers"
                    problems.append(Problem("large_label", row, why))
                    break
                labels[row, column] = value
        result.labels[split], result.problems[split] = labels, problems
    return result


def _value(cell: Cell, task: str, column: str, where: str) -> float:
    text = cell if isinstance(cell, str) else str(list(cell))
    if task == "multi_label":
        found = _TRUTH.get(as_whole(text).lower())
        if found is not None:
            return found
        wanted = "0 or 1"
    else:
        if _NUMBER.fullmatch(text):
            return float(text)
        wanted = "a number"
    raise ConfigError(
        f"{printable(where)}: label column {column!r} holds '{printable(text)}'; task {task} "
        f"expects {wanted}"
    )


def _problem(row: int, text: str) -> Problem:
    if not text:
        return Problem("missing_label", row, "it has no label")
    return Problem("unknown_label", row, f"no training sample has its label '{printable(text)}'")


def _none(split: str, data: RawSplit) -> tuple[None, list[Problem]]:
    """Test data may lack labels as a whole; elsewhere each sample is a problem."""
    rows = range(len(data)) if split != "test" else ()
    return None, [_problem(row, "") for row in rows]
