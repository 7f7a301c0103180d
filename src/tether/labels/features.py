"""What a network sees in each sample: before its head, with the weights of a run or its first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tether.data.collate import Collator
from tether.data.table import Table
from tether.errors import ConfigError
from tether.models.predict import evaluation_encoder
from tether.models.spec import LoadedModel
from tether.tuning.opened import OpenedRun, fill

Array = NDArray[np.float32]


@torch.inference_mode()
def features_of(loaded: LoadedModel, table: Table, *, batch_size: int = 64) -> Array:
    """A row for each sample ``[n, d]``, in evaluation mode.

    For texts it is the mean over the tokens of the encoder's last layer: the layer between it and
    the head is often drawn anew, and so says nothing of the texts before training. Otherwise it
    is the input of the head.

    Args:
        loaded: the model.
        table: the samples.
        batch_size: samples of a forward.

    Raises:
        ConfigError: a sample that can no longer be read.
    """
    encode, collate = evaluation_encoder(loaded), Collator(loaded.pad)
    model, found = loaded.model.eval(), []
    place = next(model.parameters()).device
    with _heard(loaded) as heard:
        for start in range(0, len(table), batch_size):
            samples = []
            for row in range(start, min(start + batch_size, len(table))):
                try:
                    samples.append(encode(table.inputs[row]))
                except (OSError, ValueError, SyntaxError) as error:  # Pillow's, for damaged files
                    raise ConfigError(f"{table.ids[row]} cannot be read: {error}") from error
            batch = {name: value.to(place) for name, value in collate.inputs(samples).items()}
            model(**batch)
            found.append(_rows(heard.pop(), batch.get("attention_mask")).float().cpu())
            heard.clear()
    return np.asarray(torch.cat(found).numpy())


@contextmanager
def _heard(loaded: LoadedModel) -> Iterator[list[Tensor]]:
    """A list that every forward adds the features to."""
    heard: list[Tensor] = []
    encoder = getattr(loaded.model, "base_model", None)
    if loaded.kind == "text" and isinstance(encoder, nn.Module) and encoder is not loaded.model:

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            heard.append(output[0] if isinstance(output, tuple) else output.last_hidden_state)

        hook = encoder.register_forward_hook(keep)
    else:

        def take(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            heard.append(inputs[0])

        hook = loaded.model.get_submodule(loaded.head).register_forward_pre_hook(take)
    try:
        yield heard
    finally:
        hook.remove()


def _rows(features: Tensor, mask: Tensor | None) -> Tensor:
    """One row a sample: tokens ``[N, T, d]`` and maps ``[N, d, H, W]`` are averaged."""
    if features.ndim == 3:
        keep = torch.ones(features.shape[:2]) if mask is None else mask
        keep = keep.to(features)[..., None]
        return (features * keep).sum(1) / keep.sum(1).clamp(min=1.0)
    return features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)


@contextmanager
def first_weights(opened: OpenedRun) -> Iterator[LoadedModel]:
    """The run's model with the weights that it began with; afterwards its own are back."""
    loaded = opened.assembly.loaded
    held = {name: tensor.detach().clone() for name, tensor in loaded.model.state_dict().items()}
    fill(loaded.model, opened.reference, "the weights that the run began with")
    try:
        yield loaded
    finally:
        fill(loaded.model, held, "the weights of the run")
