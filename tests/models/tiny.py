"""Small real models and data for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tether.data.table import DataSource, Table
from tether.tuning.options import TuneConfig

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TETHER_SHARED") or ROOT.parent / "shared")
WORDS = "good bad fine awful film plot the a was is very not it and".split()

#: Run first in a fresh interpreter: tether can't be imported there.
BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tether":
            raise ImportError("tether is blocked")
sys.meta_path.insert(0, Block())
"""


def source(
    kind: str = "image", names: tuple[str, ...] = ("cat", "dog", "owl"), task: str = "single_label"
) -> DataSource:
    table = Table([np.zeros(64, np.float32)] * 4, np.zeros(4, np.int64), list("abcd"))
    tables = {"train": table, "validation": table}
    return DataSource("tiny", kind, task, list(names), tables)


def config(model: str, **options: Any) -> TuneConfig:
    return TuneConfig(model=model, **options)


def shared_weights(name: str) -> str:
    path = SHARED / "weights" / name
    if not path.is_file():
        pytest.skip(f"{name} is not there (TETHER_SHARED)")
    return str(path)


def bert_folder(folder: Path, *, with_head: bool = False) -> Path:
    """A tiny BERT with a WordPiece vocabulary, as transformers saves it."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertModel,
        BertTokenizerFast,
    )

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    told = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=24, num_labels=4,
    )  # fmt: skip
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        made = BertForSequenceClassification(told) if with_head else BertModel(told)
    made.save_pretrained(folder)
    return folder


def without_tether(code: str, *arguments: str) -> str:
    """Output of a program in a fresh interpreter that has no tether and no network."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + code, *arguments],
        capture_output=True, text=True, env=environment, cwd="/",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout
