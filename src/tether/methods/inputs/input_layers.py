"""Where a model takes its inputs: the layer of its words, the width of its images or rows."""

from __future__ import annotations

from typing import Any

from torch import nn


def input_embedding(model: nn.Module) -> str | None:
    """Name of the layer that turns words into vectors; None where a model has none.

    What the model tells itself (``get_input_embeddings``), else its first embedding layer.

    Example:
        >>> input_embedding(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)))
        '0'
    """
    kinds = (nn.Embedding, nn.EmbeddingBag)
    tell: Any = getattr(model, "get_input_embeddings", None)
    try:
        told = tell() if callable(tell) else None
    except NotImplementedError:
        told = None
    layers = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}
    names = [name for name, layer in layers.items() if layer is told] or list(layers)
    return names[0] if names and (told is None or isinstance(told, kinds)) else None


def input_width(model: nn.Module) -> tuple[str, int] | None:
    """``("image", channels)`` or ``("row", numbers)``, as the model's first layer takes them.

    Example:
        >>> input_width(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
        ('row', 64)
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return "image", module.in_channels
        if isinstance(module, nn.Linear):
            return "row", module.in_features
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            return None
    return None
