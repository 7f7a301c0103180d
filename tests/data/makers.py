"""Small data of every shape, written to a temporary folder."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tether.tuning.options import TuneConfig

SHARED = Path(os.environ.get("TETHER_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def shared(name):
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"no {name} in TETHER_SHARED")
    return path


def config(data, **options):
    return TuneConfig(data=str(data), **options)


def image(path, seed=0, size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def image_folder(root, counts, start=0):
    """``counts``: class -> number of images."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            start += 1
            image(root / name / f"{i}.png", start)
    return root


def table(path, header, rows, delimiter=","):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def texts(path, labels, header=("text", "label")):
    return table(path, header, [(f"text {path.stem} {i}", y) for i, y in enumerate(labels)])


def notice(source, kind, split=None):
    found = [n for n in source.notices if n.kind == kind and split in (None, n.split)]
    assert len(found) == 1, (kind, source.notices)
    return found[0]
