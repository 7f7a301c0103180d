"""Predictions of an exported model, as a CSV file."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tether.data import load_data
from tether.data.collate import Collator
from tether.data.hub import is_saved
from tether.data.images import is_image_name
from tether.data.table import SPLITS, DataSource, Notice, Table
from tether.data.transforms import image_encoder
from tether.errors import ConfigError
from tether.files import replaced_file
from tether.models.build import first_line
from tether.models.export import load_exported, model_folder
from tether.models.inputs import read_all_splits, read_inputs
from tether.models.spec import LoadedModel
from tether.tuning.options import TuneConfig

Numbers = NDArray[np.floating[Any]]
_ABOVE = 0.5  # a label of several is predicted from this probability on


def predict(
    run: str | Path,
    data: str | Path,
    *,
    output: str | Path | None = None,
    batch_size: int = 64,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Predict with a run's model, and write a CSV file.

    Its columns: ``id``; ``label`` where the data tell one; ``predicted`` and ``confidence``; and
    ``p_CLASS`` for every class. Several labels: ``predicted`` are those from probability 0.5 on,
    with the ``label_separator`` of the run between them, without ``confidence``. Regression:
    ``predicted_TARGET`` for every target.

    Args:
        run: a run folder, or an exported model's folder.
        data: images, texts or a table, with or without labels
            (:func:`tether.models.inputs.read_inputs`), or anything else that ``--data`` takes:
            then every sample of every split.
        output: the file; by default ``predictions.csv`` in the current folder.
        batch_size: samples of a forward.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:NUMBER"``.
        overrides: options that differ from those of the run, such as ``text_column``.

    Returns:
        the file, which is written whole or not at all.

    Raises:
        ConfigError: no such model, data that it cannot read, or an unreadable sample (unless
            ``on_bad_sample`` is ``"skip"``: then it is left out, with a warning).
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    folder = model_folder(run)
    config = _config(folder, overrides or {})
    loaded = load_exported(folder)
    table, given, notices = read_for_model(str(data), loaded, config)
    for notice in notices:
        few = ", ".join(notice.examples)
        warnings.warn(f"{notice.count} {notice.what}: {few}", stacklevel=2)
    logits = run_model(loaded, table, batch_size=batch_size, device=device)
    target = Path(output) if output is not None else Path("predictions.csv")
    separator = config.label_separator or ";"
    _write(target, table.ids, given, None, logits, loaded.class_names, loaded.task, separator)
    return target


def write_predictions(
    path: Path, table: Table, logits: Numbers, class_names: Sequence[str], task: str,
    *, separator: str = ";",
) -> None:  # fmt: skip
    """Write the predictions for a table whose labels are numbers.

    Args:
        path: the CSV file; the columns are those of :func:`predict`, and ``true_label`` where
            wrong labels were put in for an experiment.
        table: the samples.
        logits: ``[N, K]``, in the same order.
        class_names: of the K outputs.
        task: ``"single_label"``, ``"multi_label"`` or ``"regression"``.
        separator: between several labels of a cell: the data's own.
    """
    given = _named(table.labels, class_names, task, separator)
    true = _named(table.true_labels, class_names, task, separator)
    _write(path, table.ids, given, true, logits, class_names, task, separator)


# -- reading ---------------------------------------------------------------------------------------


def _config(folder: Path, overrides: Mapping[str, Any]) -> TuneConfig:
    """The settings of the run that the model's folder lies in, or the defaults."""
    from tether.tuning.config import load_config  # the job above imports this module

    settings = folder.parent / "config.yaml"
    inside = folder.name == "model" and settings.is_file()
    return load_config(settings if inside else None, overrides=overrides)


Found = tuple[Table, "list[str] | None", list[Notice]]


def read_for_model(data: str, loaded: LoadedModel, config: TuneConfig) -> Found:
    """Samples that a model reads, with or without labels.

    Args:
        data: as in :func:`predict`.
        loaded: the model.
        config: the options on reading are read.

    Returns:
        the table, without labels; the labels as they are written in the data, None without any;
        and what was noticed.

    Raises:
        ConfigError: no such data, or the model cannot read them.
    """
    path = Path(data).expanduser()
    if path.is_file() or (path.is_dir() and _has_images(path)):
        return read_inputs(path, loaded.kind, config, class_names=loaded.class_names)
    if data.startswith("demo:"):
        source = load_data(TuneConfig(data=data, seed=config.seed))
        _check_kind(data, source.kind, loaded)
        return _all_splits(source)
    kind, table, given, notices = read_all_splits(replace(config, data=data))
    _check_kind(data, kind, loaded)
    return table, given, notices


def _check_kind(data: str, kind: str, loaded: LoadedModel) -> None:
    if kind != loaded.kind:
        raise ConfigError(f"the model reads {loaded.kind}s, the data {data} are {kind}s")


def _has_images(folder: Path) -> bool:
    """Else it is a data set that was saved in another form."""
    return not is_saved(folder) and any(is_image_name(p.name) for p in folder.rglob("*"))


def _all_splits(source: DataSource) -> Found:
    inputs: list[Any] = []
    ids: list[str] = []
    given: list[str] = []
    for split in (name for name in SPLITS if name in source.tables):
        table = source.tables[split]
        inputs.extend(table.inputs)
        ids.extend(f"{split}/{name}" for name in table.ids)
        named = _named(table.labels, source.class_names, source.task, ";")
        given.extend(named or [""] * len(table))
    dropped = [n for n in source.notices if n.what.endswith("left out")]
    return Table(inputs, None, ids), given if any(given) else None, dropped


# -- running ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _RowEncoder:
    """A row of numbers as the model's input."""

    name: str
    draws = False  # tether.data.keyed need set up no random numbers

    def __call__(self, row: Any) -> dict[str, Tensor]:
        return {self.name: torch.as_tensor(row, dtype=torch.float32)}


def evaluation_encoder(loaded: LoadedModel) -> Callable[[Any], dict[str, Any]]:
    """What turns a raw input into the model's in evaluation: nothing random."""
    if loaded.kind == "image":
        assert loaded.image is not None
        return image_encoder(
            loaded.image, train=False, augment="none", input_name=loaded.input_name
        )
    if loaded.kind == "text":
        assert loaded.encode_text is not None
        return loaded.encode_text
    return _RowEncoder(loaded.input_name)


def run_model(
    loaded: LoadedModel, table: Table, *, batch_size: int, device: str = "auto"
) -> NDArray[np.float32]:
    """Logits ``[N, K]`` of the samples, in evaluation mode.

    Args:
        loaded: the model; it stays on the device.
        table: the samples.
        batch_size: samples of a forward.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:NUMBER"``.

    Raises:
        ConfigError: an unreadable sample, or no such device.
    """
    place = _device(device)
    model, encode = loaded.model.to(place).eval(), evaluation_encoder(loaded)
    collate = Collator(loaded.pad)
    parts = []
    for start in range(0, len(table), batch_size):
        samples = []
        for at in range(start, min(start + batch_size, len(table))):
            try:
                samples.append(encode(table.inputs[at]))
            except (OSError, ValueError, SyntaxError) as error:  # Pillow's, for damaged files
                raise ConfigError(f"{table.ids[at]} cannot be read: {first_line(error)}") from error
        parts.append(_forward(model, collate.inputs(samples), place))
    return np.concatenate(parts)


def _device(name: str) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if found is None:
        raise ConfigError(f"device {name!r}: auto, cpu, cuda or cuda:NUMBER")
    if name != "cpu" and int(found[1] or 0) >= count:
        raise ConfigError(f"device {name}: torch finds {count} CUDA devices here; use cpu or auto")
    return torch.device(name)


def _forward(model: Any, batch: dict[str, Tensor], place: torch.device) -> NDArray[np.float32]:
    with torch.inference_mode():
        out = model(**{name: value.to(place) for name, value in batch.items()})
    logits: Tensor = getattr(out, "logits", out)
    return np.asarray(logits.float().cpu().numpy().reshape(len(logits), -1), dtype=np.float32)


# -- writing ---------------------------------------------------------------------------------------


def _named(
    labels: NDArray[Any] | None, class_names: Sequence[str], task: str, separator: str
) -> list[str] | None:
    """Numbers of a table's labels as texts."""
    if labels is None:
        return None
    if task == "single_label":
        return [class_names[int(k)] if int(k) >= 0 else "" for k in labels]
    if task == "multi_label":
        return [_joined(class_names, row > _ABOVE, separator) for row in labels]
    return [separator.join(f"{float(v):.9g}" for v in np.atleast_1d(row)) for row in labels]


def _joined(class_names: Sequence[str], chosen: Sequence[Any], separator: str) -> str:
    return separator.join(name for name, yes in zip(class_names, chosen, strict=True) if yes)


def _write(
    path: Path, ids: Sequence[str], given: list[str] | None, true: list[str] | None,
    logits: Numbers, class_names: Sequence[str], task: str, separator: str,
) -> None:  # fmt: skip
    logits = np.asarray(logits, dtype=np.float64).reshape(len(ids), -1)
    if logits.shape[1] != len(class_names):
        raise ValueError(f"{logits.shape[1]} outputs for {len(class_names)} classes")
    head, cells = _predicted(logits, class_names, task, separator)
    columns = ["id"] + ["label"] * (given is not None) + ["true_label"] * (true is not None)
    with replaced_file(path) as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(columns + head)
        for at, name in enumerate(ids):
            known = [texts[at] for texts in (given, true) if texts is not None]
            out.writerow([name, *known, *cells[at]])


def _predicted(
    logits: NDArray[np.float64], class_names: Sequence[str], task: str, separator: str
) -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and a row of cells a sample."""
    if task == "regression":
        return [f"predicted_{name}" for name in class_names], [
            [f"{v:.9g}" for v in row] for row in logits
        ]
    shares = [f"p_{name}" for name in class_names]
    if task == "multi_label":
        chances = 0.5 * (1.0 + np.tanh(0.5 * logits))  # the sigmoid, without overflow
        return ["predicted", *shares], [
            [_joined(class_names, row >= _ABOVE, separator), *(f"{p:.8g}" for p in row)]
            for row in chances
        ]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    chances = powers / powers.sum(axis=1, keepdims=True)
    return ["predicted", "confidence", *shares], [
        [class_names[int(row.argmax())], f"{row.max():.8g}", *(f"{p:.8g}" for p in row)]
        for row in chances
    ]
