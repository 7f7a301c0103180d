"""Data with wrong labels for ``benchmarks.labels``: human mistakes, and noise put in on purpose."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARED = Path(os.environ.get("TETHER_SHARED", Path(__file__).parents[2] / "shared"))
HUMAN = ("aggre", "random1", "worst")
SYNTHETIC = ("clean", "symmetric:0.1", "symmetric:0.2", "symmetric:0.4", "pair:0.3", "instance:0.3")

MOBILENET: dict[str, Any] = {
    "model": "timm:mobilenetv2_035", "weights": f"{SHARED}/weights/mobilenetv2_035.safetensors",
    "model_args": {"pad_type": "same", "bn_eps": 1e-3, "mean": 0.5, "std": 0.5},
    "image_size": 64, "epochs": 4, "batch_size": 32, "lr": 3e-4, "head_lr_mult": 10.0,
    "warmup_ratio": 0.1, "augment": "light", "eval_batch_size": 64, "freeze_norm": "all",
}  # fmt: skip
MINILM: dict[str, Any] = {
    "epochs": 3, "batch_size": 16, "lr": 3e-4, "head_lr_mult": 10.0, "warmup_ratio": 0.1,
    "eval_batch_size": 64, "max_length": 40,
    "freeze": "*embeddings*,*layer.0.*,*layer.1.*,*layer.2.*",
}  # fmt: skip
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """Samples of a case.

    Attributes:
        column: name of the column of inputs.
        inputs: paths of images, or texts.
        labels: the right ones.
        given: those to train on.
        names: of the classes.
        held_out: inputs and right labels to validate on.
    """

    column: str
    inputs: Sequence[str]
    labels: Ints
    given: Ints
    names: Sequence[str]
    held_out: tuple[Sequence[str], Ints]


def settings(case: str) -> dict[str, Any]:
    """Options of ``tether tune`` for a case."""
    if case == "trec":
        from benchmarks.real_runs import sentence_encoder

        return {**MINILM, "model": sentence_encoder()}
    return dict(MOBILENET)


def load(case: str, noise: str, seed: int, size: int, work: Path) -> Samples:
    """The samples of a case, some of their labels wrong.

    Args:
        case: ``"cifar10n"``, ``"clothing"`` or ``"trec"``.
        noise: a level of cifar10n, ``"clean"``, or ``NAME:RATE``.
        seed: which samples, and which labels are wrong.
        size: how many samples.
        work: where images are written to.
    """
    if case == "cifar10n":
        return _cifar10n(noise, seed, size, work)
    rng = np.random.default_rng(seed)
    inputs, labels, names, held_out = {"clothing": _clothing, "trec": _trec}[case]()
    chosen = np.sort(rng.permutation(len(labels))[:size])
    inputs, labels = [inputs[i] for i in chosen], labels[chosen]
    given = put_wrong(labels, noise, len(names), seed, lambda: numbers_of(case, inputs))
    column = "text" if case == "trec" else "image"
    return Samples(column, inputs, labels, given, names, held_out)


def put_wrong(labels: Ints, noise: str, classes: int, seed: int, numbers: Any) -> Ints:
    """The labels with synthetic noise; ``numbers`` gives inputs ``[n, d]`` for instance noise."""
    from tether.noise import instance_noise, pair_noise, symmetric_noise

    if noise == "clean":
        return labels
    name, rate = noise.split(":")
    given: dict[str, Any] = {"num_classes": classes, "seed": seed}
    if name == "instance":
        noisy = instance_noise(labels, numbers(), float(rate), scale="standardise", **given)
    else:
        noisy = {"symmetric": symmetric_noise, "pair": pair_noise}[name](
            labels, float(rate), **given
        )
    return noisy.labels.numpy().astype(np.int64)


def numbers_of(case: str, inputs: Sequence[str]) -> NDArray[np.float32]:
    """What instance noise looks at: pixels, or counts of hashed words."""
    if case == "trec":
        rows = np.zeros((len(inputs), 256), np.float32)
        for row, text in enumerate(inputs):
            for word in text.casefold().split():
                rows[row, hash_of(word) % 256] += 1
        return rows
    from PIL import Image

    small = [Image.open(path).convert("RGB").resize((16, 16)) for path in inputs]
    return np.stack([np.asarray(image, np.float32).ravel() / 255 for image in small])


def hash_of(word: str) -> int:
    """The same number in every process."""
    import zlib

    return zlib.crc32(word.encode())


def _cifar10n(noise: str, seed: int, size: int, work: Path) -> Samples:
    from PIL import Image

    held = np.load(SHARED / "data" / "cifar10n" / "cifar10n.npz")
    names = [str(name) for name in held["class_names"]]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(held["train_clean"]))[:size])
    folder = work / "cifar10n-images"
    folder.mkdir(parents=True, exist_ok=True)

    def paths(prefix: str, images: Any, rows: Any) -> list[str]:
        found = []
        for row in rows:
            path = folder / f"{prefix}-{row}.png"
            if not path.exists():
                Image.fromarray(images[row]).save(path)
            found.append(str(path))
        return found

    labels = held["train_clean"].astype(np.int64)[chosen]
    given = labels
    if noise in HUMAN:
        given = held[f"train_{noise}"].astype(np.int64)[chosen]
    elif noise != "clean":
        given = put_wrong(labels, noise, len(names), seed, None)
    test = np.arange(0, len(held["test_labels"]), 11)  # of all classes: they come in turn
    return Samples(
        "image", paths("train", held["train_images"], chosen), labels, given, names,
        (paths("test", held["test_images"], test), held["test_labels"].astype(np.int64)[test]),
    )  # fmt: skip


def _clothing() -> tuple[list[str], Ints, list[str], tuple[list[str], Ints]]:
    root = SHARED / "data" / "clothing"
    names = sorted(path.name for path in (root / "train").iterdir())

    def read(split: str) -> tuple[list[str], Ints]:
        found = [(str(p), k) for k, name in enumerate(names)
                 for p in sorted((root / split / name).iterdir())]  # fmt: skip
        return [path for path, _ in found], np.array([k for _, k in found], dtype=np.int64)

    return *read("train"), names, read("validation")


def _trec() -> tuple[list[str], Ints, list[str], tuple[list[str], Ints]]:
    def read(split: str) -> tuple[list[str], Ints]:
        with open(SHARED / "data" / "trec" / f"{split}.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [r["text"] for r in rows], np.array([int(r["label"]) for r in rows], dtype=np.int64)

    return *read("train"), [f"kind {k}" for k in range(6)], read("validation")


def write_tables(
    folder: Path, samples: Samples, train: Ints, test: Ints | None = None, most: int = 200
) -> Path:
    """A folder of CSV files: training rows, held-out samples as validation, other rows as test."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs, labels = samples.held_out
    _write(folder / "validation.csv", samples, inputs[:: max(1, len(inputs) // most)],
           labels[:: max(1, len(labels) // most)])  # fmt: skip
    _write(folder / "train.csv", samples, [samples.inputs[i] for i in train], samples.given[train])
    if test is not None:
        _write(folder / "test.csv", samples, [samples.inputs[i] for i in test], samples.given[test])
    return folder


def _write(path: Path, samples: Samples, inputs: Sequence[str], labels: Ints) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow([samples.column, "label"])
        for one, label in zip(inputs, labels, strict=True):
            out.writerow([one, samples.names[label]])


def tuned(data: Path, run: Path, case: str, seed: int, **more: Any) -> Mapping[str, Any]:
    """Train as the case says."""
    import torch

    torch.set_num_threads(1)
    from tether.tuning.job import tune

    given = {**settings(case), "data": str(data), "output_dir": str(run), "seed": seed,
             "device": "cpu", "save_total_limit": 1, "export": "none", **more}  # fmt: skip
    if (run / "DONE").exists():
        from tether.tuning.result import Result

        return Result.read(run).as_json()
    return tune(given, overwrite=True).as_json()


if __name__ == "__main__":
    sys.exit("this is a part of python -m benchmarks.labels")
