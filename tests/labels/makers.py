"""Runs with suspects, as ``tether labels find`` leaves them, without training."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from tether.data import load_data
from tether.files import write_json, write_text
from tether.labels.review.suspects import COLUMNS
from tether.tuning.config import dump_config
from tether.tuning.options import TuneConfig
from tether.tuning.result import Result

CLASSES = ("cat", "dog", "owl <b>")
NASTY = (
    "<script>window.hurt=1<", '"quoted" & \'so\'', "שלום \u202eabc", "😀 emoji", "a,b;c|d", "ü é",
)  # fmt: skip


def image_data(root: Path, each: int = 20) -> Path:
    """Three classes of noise in red, green or blue; some names are hard to show."""
    rng = np.random.default_rng(0)
    for kind, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 90, (24, 32, 3)) + 160 * np.eye(3, dtype=np.int64)[kind]
            odd = f"{i} {NASTY[i]}" if i < len(NASTY) and "|" not in NASTY[i] else str(i)
            Image.fromarray(pixels.astype(np.uint8)).resize((96, 72)).save(
                root / name / f"{odd}.png"
            )
    return root


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def text_data(path: Path, each: int = 20) -> Path:
    """Texts of three classes, the first of them hard to show."""
    return table(path, [
        {"text": f"{NASTY[i % len(NASTY)]} text {i} of a {name}", "label": name}
        for i in range(each) for name in CLASSES
    ])  # fmt: skip


def make_run(folder: Path, data: Path | str, number: int | None = None, **options: Any) -> Path:
    """A finished run; its suspects are the training samples one after another.

    The label that is suggested is the class after the given one.
    """
    config = TuneConfig(model="demo:digits", data=str(data), output_dir=str(folder), **options)
    source = load_data(config)
    folder.mkdir(parents=True)
    write_text(folder / "config.yaml", dump_config(config))
    result = Result(str(folder), "accuracy", {}, {}, 1.0, 1.0, 1, 1.0, False)
    write_json(folder / "result.json", result.as_json())
    write_text(folder / "DONE", "")
    names, rows = source.class_names, []
    samples = [(s, i) for s, t in source.tables.items() for i in range(len(t)) if s == "train"]
    of_class: dict[str, list[str]] = {name: [] for name in names}
    labels = {}
    for split, i in samples:
        given = source.tables[split].labels[i]
        if source.task == "multi_label":
            there = [names[k] for k in np.flatnonzero(given)]
            left = [n for n in names if n not in there]
            pair = ";".join(there), ";".join((there + left[:1]) if left else there[:1])
        else:
            pair = names[int(given)], names[(int(given) + 1) % len(names)]
            of_class[pair[0]].append(source.tables[split].ids[i])
        labels[split, i] = pair
    for place, (split, i) in enumerate(samples[:number]):
        given, suggested = labels[split, i]
        name = source.tables[split].ids[i]
        neighbours = [[n for n in of_class.get(c, ()) if n != name][:4] for c in (given, suggested)]
        rows.append({
            "id": name, "split": split, "row": i, "given": given, "suggested": suggested,
            "score": f"{1 - place / len(samples):.4f}", "confidence": f"{0.999 - place / 1e4:.4f}",
            "reasons": "confident learning|high loss", "neighbours_given": "|".join(neighbours[0]),
            "neighbours_suggested": "|".join(neighbours[1]), "duplicate_of": "",
        })  # fmt: skip
    assert set(rows[0]) == set(COLUMNS)
    table(folder / "labels" / "suspects.csv", rows)
    write_json(folder / "labels" / "summary.json", {"fingerprints": dict(source.fingerprints)})
    return folder


def suspects_of(run: Path) -> list[dict[str, str]]:
    with (run / "labels" / "suspects.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@contextmanager
def serving(run: Path, *options: str) -> Iterator[SimpleNamespace]:
    """The real command in a process of its own; gives process, address and token."""
    command = [sys.executable, "-m", "tether", "labels", "review", str(run), *options]
    process = subprocess.Popen(
        [*command, "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        found = re.fullmatch(r"(http://127\.0\.0\.1:(\d+))/\?token=(\S+)\n", line)
        assert found, line + process.stderr.read()
        yield SimpleNamespace(
            process=process, address=line.strip(), base=found[1], port=int(found[2]), token=found[3]
        )
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
