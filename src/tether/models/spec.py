"""What a loaded model tells of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class ImagePreprocess:
    """How a vision model wants its pixels; the same for training, evaluation and export.

    Attributes:
        size: (height, width) of the input.
        mean: of each channel, on the scale 0 to 1.
        std: of each channel.
        interpolation: ``"bilinear"``, ``"bicubic"`` or ``"nearest"``.
        crop_pct: share of the resized image that the centre crop keeps.
        channels: 3, or 1 for grey images.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    channels: int = 3


@dataclass
class KeyReport:
    """Which keys of a weights file were taken.

    Attributes:
        taken: names that were loaded.
        head: names of the new head, which no file gives.
        missing: other names of the model that the file lacks.
        unexpected: names in the file that the model does not have, or has in another shape.
        discarded: names of the file's own head, which went to ``LoadedModel.source_head``.
    """

    taken: list[str] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)


@dataclass
class LoadedModel:
    """A model with a head for the data, and all that is needed to feed, save and describe it.

    Attributes:
        model: called with the batch's entries by name; gives logits, or an object with
            ``.logits``.
        library: ``"timm"``, ``"transformers"``, ``"torchvision"``, ``"tether"``.
        name: how it was called for.
        kind: ``"image"``, ``"text"`` or ``"vector"``.
        input_name: name of the forward's first argument (``"x"``, ``"pixel_values"``,
            ``"input_ids"``).
        head: dotted name of the last linear layer.
        encode_text: text or pair of texts -> lists by name (``input_ids``, ...), not padded.
        pad: such dicts of a batch -> tensors by name.
        image: how images are preprocessed.
        keys: which keys of a weights file were taken.
        source_head: the discarded pretrained head, where the file had one.
        task: ``"single_label"``, ``"multi_label"`` or ``"regression"``.
        class_names: what the outputs stand for, in order.
        save: writes the folder that loads without tether.
        how_to_load: the lines of Python that load that folder.
    """

    model: nn.Module
    library: str
    name: str
    kind: str
    input_name: str
    head: str
    save: Callable[[Path], None]
    how_to_load: str
    encode_text: Callable[[Any], dict[str, list[int]]] | None = None
    pad: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]] | None = None
    image: ImagePreprocess | None = None
    keys: KeyReport | None = None
    source_head: nn.Module | None = None
    task: str = "single_label"
    class_names: list[str] = field(default_factory=list)
