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
    """Write what the head of a pretrained model sees of every sample, as data of their own.

    With ``--data FOLDER --model tether:linear`` a linear probe is trained on them, with
    ``tether:mlp`` a perceptron, without a forward through the pretrained model; images are seen
    without random changes.

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
    """What the head sees of each sample, ``[N, D]`` float32, in evaluation mode.

    Args:
        loaded: a model; a head that sees a row for each token gives the first token's.
        table: the samples.
        batch_size: samples of a forward.
    """
    encode, collate = evaluation_encoder(loaded), Collator(loaded.pad)
    model = loaded.model.eval()
    seen: list[Tensor] = []

    def take(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append(inputs[0])

    hook = model.get_submodule(loaded.head).register_forward_pre_hook(take)
    try:
        for start in range(0, len(table), batch_size):
            part = table.inputs[start : start + batch_size]
            model(**collate.inputs([encode(each) for each in part]))
    finally:
        hook.remove()
    rows = [each if each.ndim == 2 else each.flatten(1, -2)[:, 0] for each in seen]
    return torch.cat(rows).float().numpy()
