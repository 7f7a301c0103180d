"""Features of a frozen pretrained model, computed once and kept for many runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tether.data.cache import is_cache, write_cache
from tether.data.collate import Collator
from tether.data.load import read_tables
from tether.data.table import Table
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
def features_of(loaded: LoadedModel, table: Table, batch_size: int = 64) -> Any:
    """Features of each sample, ``[N, D]`` float32, in evaluation mode.

    They are what the head sees; of a text encoder of transformers, the mean of its last hidden
    states over the tokens, which sentence encoders are trained for (the head of a stock classifier
    sees the first token alone).

    Args:
        loaded: a model.
        table: the samples.
        batch_size: samples of a forward.
    """
    encode, collate = evaluation_encoder(loaded), Collator(loaded.pad)
    model = loaded.model.eval()
    encoder = _text_encoder(loaded)
    seen: list[Any] = []
    if encoder is None:
        hook = model.get_submodule(loaded.head).register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0])
        )
    else:
        hook = encoder.register_forward_hook(lambda module, inputs, out: seen.append(out[0]))
    rows: list[Tensor] = []
    try:
        for start in range(0, len(table), batch_size):
            part = table.inputs[start : start + batch_size]
            batch = collate.inputs([encode(each) for each in part])
            model(**batch)
            rows.append(_pooled(seen.pop(), batch.get("attention_mask")))
    finally:
        hook.remove()
    return torch.cat(rows).float().numpy()


def _text_encoder(loaded: LoadedModel) -> nn.Module | None:
    """The part of a text model of transformers that gives a hidden state for each token."""
    if loaded.kind != "text" or loaded.library != "transformers":
        return None
    found = getattr(loaded.model, str(getattr(loaded.model, "base_model_prefix", "")), None)
    return found if isinstance(found, nn.Module) else None


def _pooled(seen: Tensor, mask: Tensor | None) -> Tensor:
    """A row a sample: the mean over its tokens, or the only one."""
    if seen.ndim == 2:
        return seen
    rows = seen.flatten(1, -2)
    if mask is None or mask.shape != rows.shape[:2]:
        return rows[:, 0]
    weight = mask.to(rows.dtype).unsqueeze(-1)
    return (rows * weight).sum(1) / weight.sum(1).clamp(min=1)
