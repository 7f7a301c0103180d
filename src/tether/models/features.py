"""Features of a frozen pretrained model, computed once and kept for many runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tether.data.cache import is_cache, write_cache
from tether.data.collate import Collator
from tether.data.load import read_tables
from tether.data.table import Table
from tether.errors import ConfigError
from tether.models.load import load_model
from tether.models.predict import evaluation_encoder
from tether.models.spec import LoadedModel

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig


def cache_features(config: TuneConfig, folder: Path, *, batch_size: int = 64) -> Path:
    """Write the features of a frozen pretrained model, as data of their own.

    With ``--data FOLDER --model tether:linear`` a linear probe is trained on them, with
    ``tether:mlp`` a perceptron, without a forward through the pretrained model; images are seen
    without random changes (:func:`features_of` says what features are).

    Args:
        config: the options of the groups Model and Data are read.
        folder: where to; as it is if it is there already.
        batch_size: samples of a forward.

    Returns:
        the folder.

    Raises:
        ConfigError: model or data are not there, or do not fit.
    """
    if is_cache(folder):
        return folder
    source, _ = read_tables(config)
    loaded = load_model(config, source)

    def arrays(split: str, table: Table, fresh: Path) -> None:
        np.save(fresh / f"{split}_features.npy", features_of(loaded, table, batch_size))

    return write_cache(
        source, folder, arrays, {"of": "features", "model": loaded.name, "head": loaded.head}
    )


@torch.inference_mode()
def features_of(
    loaded: LoadedModel, table: Table, batch_size: int = 64, *, tokens: str = "first"
) -> Any:
    """Features of each sample, ``[N, D]`` float32, in evaluation mode.

    They are what the head sees; of a text encoder of transformers, the mean of its last hidden
    states over the tokens: sentence encoders are trained for it, and the layer between it and the
    head is often drawn anew, so that it says nothing of the texts before training.

    Args:
        loaded: a model.
        table: the samples.
        batch_size: samples of a forward.
        tokens: what a head that sees one row a token gives: ``"first"`` or ``"mean"``.

    Raises:
        ConfigError: a sample that can no longer be read.
    """
    encode, collate = evaluation_encoder(loaded), Collator(loaded.pad)
    model = loaded.model.eval()
    place = next(model.parameters()).device
    last = not isinstance(model.get_submodule(loaded.head), nn.Conv2d)
    rows: list[Tensor] = []
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
            mask = batch.get("attention_mask")
            rows.append(_pooled(heard.pop(), mask, tokens, last).float().cpu())
            heard.clear()
    return torch.cat(rows).numpy()


@contextmanager
def _heard(loaded: LoadedModel) -> Iterator[list[Tensor]]:
    """A list that every forward adds the features to."""
    heard: list[Tensor] = []
    encoder = getattr(loaded.model, "base_model", None)
    if loaded.kind == "text" and isinstance(encoder, nn.Module) and encoder is not loaded.model:
        hook = encoder.register_forward_hook(lambda module, inputs, out: heard.append(out[0]))
    else:
        hook = loaded.model.get_submodule(loaded.head).register_forward_pre_hook(
            lambda module, inputs: heard.append(inputs[0])
        )
    try:
        yield heard
    finally:
        hook.remove()


def _pooled(seen: Tensor, mask: Tensor | None, tokens: str, last: bool) -> Tensor:
    """A row a sample: of maps the mean over positions, of tokens their mean or the first one."""
    if seen.ndim == 4:
        return seen.mean((1, 2) if last else (2, 3))
    if seen.ndim < 3:
        return seen.flatten(1)
    if mask is None or mask.shape != seen.shape[:2]:
        return seen.mean(1) if tokens == "mean" else seen[:, 0]
    weight = mask.to(seen.dtype).unsqueeze(-1)
    return (seen * weight).sum(1) / weight.sum(1).clamp(min=1)
