"""Data sets, models and runs that several tests of the job share."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.models.tiny import bert_folder
from tests.tuning.toys import image_folder, settings

WORDS = {"good": "praise", "bad": "blame", "was": "neither"}
FILL = "film plot the a is very it and".split()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As in the children that are forked: sums do not depend on the machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images of three colours; 24 train, 6 validate."""
    return image_folder(tmp_path_factory.mktemp("images"), per_class=10, pixels=32)


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT without a head."""
    return str(bert_folder(tmp_path_factory.mktemp("bert") / "bert"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews: one label, several labels, a number, and where each comes from."""
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    rng = np.random.default_rng(0)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "topics", "stars", "place"])
        for i in range(40):
            word = list(WORDS)[i % 3]
            others = rng.choice(FILL, 3).tolist()
            topics = [t for t in ("film", "plot", "it") if t in others] or ["a"]
            writer.writerow(
                [f"{word} {' '.join(others)} {i}", WORDS[word], ";".join(topics),
                 len(others[0]) / 2 + i % 3, ("here", "there")[i // 3 % 2]]
            )  # fmt: skip
    return path


@pytest.fixture
def of_texts(texts: Path, bert: str, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Settings of a short run of the tiny BERT."""

    def make(name: str = "run", **given: Any) -> dict[str, Any]:
        base = {"text_column": "text", "label_column": "label", "model_args": {}}
        return settings(texts, tmp_path / name, **{"model": bert, **base, **given})

    return make
