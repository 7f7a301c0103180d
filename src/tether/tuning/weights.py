"""All weights of a model in one safetensors file, whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tether.engine.reference import canonical, copy_whole_, unwrap, whole
from tether.files import replaced_file


def save_weights(
    model: nn.Module, path: Path, about: dict[str, float], *, write: bool = True
) -> None:
    """Write all weights and buffers in one file, with what they stand for.

    Args:
        model: the model, also wrapped; where it is sharded every process calls this.
        path: the safetensors file.
        about: numbers that :func:`read_about` gives back.
        write: False on the processes that only help to gather.
    """
    state = unwrap(model).state_dict().items()
    tensors = {canonical(name): whole(t).cpu().contiguous() for name, t in state}
    if write:
        metadata = {"about": json.dumps(about)}
        with replaced_file(path) as fresh:
            save_file(tensors, fresh, metadata=metadata)


def load_weights(model: nn.Module, path: Path, without: str | None = None) -> None:
    """Fill a model with what :func:`save_weights` wrote.

    Args:
        model: names that it lacks are passed over, and so are other shapes.
        path: the safetensors file.
        without: names that begin so stay as they are.
    """
    saved = load_file(path)
    with torch.no_grad():
        for raw, tensor in unwrap(model).state_dict().items():
            name = canonical(raw)
            kept = without is not None and name.startswith(without)
            if name in saved and not kept and saved[name].shape == tensor.shape:
                copy_whole_(tensor, saved[name])


def load_head_rows(model: nn.Module, path: Path, head: str, rows: int) -> None:
    """Give the first rows of a head that has grown what they were before.

    Args:
        model: its head may be sharded no more than the rest.
        path: the safetensors file of :func:`save_weights`.
        head: dotted name of the head.
        rows: outputs that there were.
    """
    saved = load_file(path)
    with torch.no_grad():
        for raw, tensor in unwrap(model).state_dict().items():
            name = canonical(raw)
            before = saved.get(name)
            if before is not None and name.startswith(f"{head}.") and len(before) == rows:
                tensor[:rows].copy_(before)


def read_about(path: Path) -> dict[str, float]:
    """What a file of weights stands for."""
    with safe_open(path, "pt") as file:
        about: dict[str, float] = json.loads(file.metadata()["about"])
        return about
