"""Suspects and decisions for other tools: tasks for Label Studio, or a plain CSV file."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from tether.errors import ConfigError
from tether.files import write_text
from tether.labels.journal import FILE_NAME, Entry, fold, read_journal
from tether.labels.review.samples import LARGE, UnreadableError
from tether.labels.review.suspects import Review

FORMATS = ("csv", "label-studio")
COLUMNS = (
    "id", "split", "given", "suggested", "score", "confidence", "reasons", "decision", "label",
)  # fmt: skip
_LOCAL = "/data/local-files/?d="


def export(
    review: Review, output: Path, *, form: str = "csv", corrections: Path | None = None,
    embed: bool = False, root: Path | None = None, limit: int | None = None,
) -> list[Path]:  # fmt: skip
    """Write the suspects, with what was decided about them so far.

    Args:
        review: the suspects.
        output: the file. Beside Label Studio's tasks stands ``NAME.xml``, its labelling
            configuration.
        form: ``"csv"`` or ``"label-studio"``.
        corrections: the journal; by default ``RUN/labels/corrections.csv`` where there is one.
        embed: put pictures into the tasks instead of naming their files.
        root: folder that Label Studio serves local files from; by default that of the data.
        limit: how many suspects, from the most suspicious on; None: all.

    Returns:
        the files that were written.

    Raises:
        ConfigError: no such form, a file that cannot be written, or an image outside ``root``.
    """
    if form not in FORMATS:
        raise ConfigError(f"format '{form}' is none of {' and '.join(FORMATS)}")
    if output.is_dir():
        raise ConfigError(f"output {output} is a folder; name a file")
    path = corrections or review.folder / FILE_NAME
    holding = fold(read_journal(path)) if corrections or path.is_file() else {}
    count = len(review.suspects) if limit is None else limit
    if form == "csv":
        texts = {output: csv_text(review, holding, count)}
    else:
        tasks = label_studio_tasks(review, holding, count, embed=embed, root=root)
        texts = {
            output: json.dumps(tasks, indent=1) + "\n",
            output.with_suffix(".xml"): label_studio_config(review),
        }
    try:
        for file, text in texts.items():
            write_text(file, text)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from None
    return list(texts)


def csv_text(review: Review, holding: Mapping[str, Entry], count: int) -> str:
    """One line a suspect; ``tether labels apply`` takes the file again, with its ``label``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for suspect in review.suspects[:count]:
        entry = holding.get(suspect.id)
        writer.writerow([
            suspect.id, suspect.split, suspect.given, suspect.suggested,
            "" if suspect.score is None else f"{suspect.score:.6g}",
            "" if suspect.confidence is None else f"{suspect.confidence:.6g}",
            "; ".join(suspect.reasons), entry.decision if entry else "",
            entry.label if entry else "",
        ])  # fmt: skip
    return text.getvalue()


# -- Label Studio ----------------------------------------------------------------------------------


def label_studio_tasks(
    review: Review, holding: Mapping[str, Entry], count: int, *, embed: bool = False,
    root: Path | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Tasks as Label Studio imports them; the suggestion is a prediction, decisions annotations."""
    tasks = []
    for suspect in review.suspects[:count]:
        number = review.samples.number[suspect.id]
        if review.samples.kind == "image":
            data = {"image": _image(review, number, embed, root)}
        else:
            data = {"text": "\n\n".join(review.samples.text(number))}
        task: dict[str, Any] = {
            "data": {
                **data, "id": suspect.id, "split": suspect.split, "given": suspect.given,
                "reasons": "; ".join(suspect.reasons),
            },
            "predictions": [
                {
                    "model_version": "tether", "score": suspect.confidence,
                    "result": [_choice(review, suspect.suggested)],
                }
            ],
        }  # fmt: skip
        entry = holding.get(suspect.id)
        if entry is not None and entry.decision != "skip":
            task["annotations"] = [{"result": [_choice(review, entry.label)]}]
        tasks.append(task)
    return tasks


def _choice(review: Review, label: str) -> dict[str, Any]:
    return {
        "from_name": "label", "to_name": "input", "type": "choices",
        "value": {"choices": review.label_names(label)},
    }  # fmt: skip


def _image(review: Review, number: int, embed: bool, root: Path | None) -> str:
    path = review.samples.path(number)
    if path is not None and not embed:
        base = (root or _data_folder(review)).absolute()
        inside = Path(os.path.abspath(path))
        if not inside.is_relative_to(base):
            raise ConfigError(
                f"image {path} lies outside {base}: name the folder that Label Studio serves with "
                "--root, or put the pictures into the file with --embed"
            )
        return _LOCAL + quote(inside.relative_to(base).as_posix())
    try:
        data, media_type = review.samples.picture(number, LARGE)
    except UnreadableError:
        return ""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _data_folder(review: Review) -> Path:
    path = Path(review.data).expanduser()
    return path if path.is_dir() else path.parent


def label_studio_config(review: Review) -> str:
    """The labelling configuration that fits the tasks."""
    several = "multiple" if review.task == "multi_label" else "single"
    source = "Image" if review.samples.kind == "image" else "Text"
    lines = [f"    <Choice value={quoteattr(name)}/>" for name in review.class_names]
    return "\n".join([
        "<View>",
        f'  <{source} name="input" value="${source.lower()}"/>',
        '  <Text name="about" value="given: $given ($reasons)"/>',
        f'  <Choices name="label" toName="input" choice="{several}" showInLine="true">',
        *lines,
        "  </Choices>",
        "</View>",
        "",
    ])  # fmt: skip
