"""Small data sets on disk, and settings to train on them in seconds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

WORDS = {"who": "person", "where": "place", "many": "number"}


def image_folder(root: Path, per_class: int = 12, pixels: int = 40, splits=("",)) -> Path:
    """Three classes that differ in colour; PNG files."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in splits:
        for channel, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(per_class):
                pixel = rng.integers(0, 160, (pixels, pixels, 3), dtype=np.uint8)
                pixel[..., channel] = np.minimum(pixel[..., channel] + 60, 255)
                Image.fromarray(pixel).save(folder / f"{i}.png")
    return root


def text_file(path: Path, rows: int = 48) -> Path:
    """Questions of three kinds, as a CSV."""
    rng = np.random.default_rng(0)
    fill = "is was the a that thing much of in it".split()
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(rows):
            word = list(WORDS)[i % 3]
            others = " ".join(rng.choice(fill, 4))
            writer.writerow([f"{word} {others} {i}", WORDS[word]])
    return path


def settings(data: Path | str, output: Path, **given: Any) -> dict[str, Any]:
    """A short run of a tiny vision transformer on images, of the digits network on digits."""
    base: dict[str, Any] = {
        "data": str(data), "output_dir": str(output), "epochs": 2, "batch_size": 8, "seed": 1,
        "lr": 2e-3, "device": "cpu",
    }  # fmt: skip
    if str(data).startswith("demo:"):
        base |= {"model": "demo:digits", "lr": 0.01}
    else:
        base |= {
            "model": "timm:test_vit", "image_size": 32,
            "model_args": {"pretrained": False, "drop_rate": 0.2},
        }  # fmt: skip
    return base | given
