"""What the pages on ``tether tune`` talk of, small: photographs, texts, models, commands."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.markdown import ROOT, code_blocks
from tests.models.tiny import bert_folder

PAGES = (
    "README.md", "docs/index.md", "docs/tune.md", "docs/tune_training.md", "docs/diagnose.md",
    "docs/encode.md", "docs/labels.md", "docs/labels_review.md", "docs/compare.md",
    "docs/continual.md", "docs/average.md",
)  # fmt: skip
NOT_RUN = "not run"
_LAUNCHERS = re.compile(r"^(?:torchrun|accelerate launch) .*?-m tether ")


def make_workspace(folder: Path) -> None:
    """Write the files that the commands of the pages name."""
    rng = np.random.default_rng(0)
    for name, classes in (
        ("photos", ("cat", "dog", "owl")), ("new_photos", ("",)), ("animals", ("hen", "fox")),
        ("tools", ("axe", "saw")),
    ):  # fmt: skip
        for kind, label in enumerate(classes):
            _images(folder / name / label, 6, kind, rng)
    _table(folder / "photos.csv", ("path", "class", "camera"), [
        (f"photos/{label}/{i}.jpg", label, ("north", "south")[i % 2])
        for label in ("cat", "dog", "owl") for i in range(6)
    ])  # fmt: skip
    texts = [f"the film was {word} and {other}" for word in ("good", "bad") for other in "abcdefgh"]
    _table(folder / "reviews.csv", ("text", "label", "stars"), [
        (text, ("positive", "negative")["bad" in text], 1 + i % 5) for i, text in enumerate(texts)
    ])  # fmt: skip
    _table(folder / "films.csv", ("plot", "genres"), [
        (text, ("drama", "comedy", "drama;comedy", "")[i % 4]) for i, text in enumerate(texts)
    ])  # fmt: skip
    (folder / "new_texts.txt").write_text("a fine film\nnot good\n", encoding="utf-8")
    labels = np.arange(24) % 3
    np.savez(
        folder / "pictures.npz", train_clean=labels,
        train_human=np.where(np.arange(24) < 6, (labels + 1) % 3, labels),
        train_images=rng.integers(0, 255, (24, 32, 32, 3), dtype=np.uint8),
    )  # fmt: skip
    bert_folder(folder / "minilm")
    _backbone(folder / "mobilenetv2_035.safetensors")


def _images(folder: Path, number: int, kind: int, rng: Any) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for i in range(number):
        pixels = rng.integers(0, 90, (40, 48, 3)) + np.array([kind == k for k in range(3)]) * 160
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg")


def _table(path: Path, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _backbone(path: Path) -> None:
    """Random weights of the network that the pages load, without its classifier."""
    import timm
    from safetensors.torch import save_file

    model = timm.create_model("mobilenetv2_035", num_classes=0)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)


def commands(page: str) -> Iterator[tuple[list[str], bool]]:
    """Words of each ``tether`` command of a page without ``tether``, and whether it runs here."""
    for block in code_blocks(ROOT / page, "sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(_LAUNCHERS.sub("tether ", line), comments=True)
            launched = words and not line.startswith("tether ")
            if words[:1] == ["tether"]:
                yield words[1:], not block.mark.startswith(NOT_RUN) and not launched


def files(page: str) -> Iterator[tuple[str, str]]:
    """Name and text of the YAML files of a page; the first line names the file."""
    for block in code_blocks(ROOT / page, "yaml"):
        named = re.match(r"# (\S+\.yaml)", block.code)
        assert named is not None, f"{page}: a YAML block does not begin with '# NAME.yaml'"
        yield named[1], block.code
