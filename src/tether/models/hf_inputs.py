"""How models of transformers are fed: token lists that are padded late, and pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import Tensor

from tether.models.spec import ImagePreprocess

_RESAMPLING = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # numbers of Pillow
_UNBOUNDED = 10**6  # tokenizers without a limit tell an absurd number


class TextEncoder:
    """Makes token lists of one text, and a padded batch of several such lists.

    Args:
        tokenizer: of transformers.
        max_length: tokens that are kept; cut to what the model has positions for.
        accepted: arguments of the model; other entries of the tokenizer are left out.
        config: the model's configuration.
    """

    draws = False

    def __init__(
        self, tokenizer: Any, max_length: int, accepted: frozenset[str], config: Any
    ) -> None:
        limits = [max_length]
        if tokenizer.model_max_length < _UNBOUNDED:
            limits.append(int(tokenizer.model_max_length))
        positions = getattr(config, "max_position_embeddings", None)
        if isinstance(positions, int) and positions > 0:
            offset = 2 if config.model_type in _SHIFTED else 0
            limits.append(positions - offset)
        self.tokenizer = tokenizer
        self.max_length = min(limits)
        self.accepted = accepted
        # It says that padding later is slower: a whole batch at once cannot be had from a data set.
        told = getattr(tokenizer, "deprecation_warnings", None)
        if told is not None:
            told["Asking-to-pad-a-fast-tokenizer"] = True

    def __call__(self, text: Any) -> dict[str, list[int]]:
        """Token lists by name, of a text or of a pair of texts."""
        first, second = text if isinstance(text, (tuple, list)) else (text, None)
        made = self.tokenizer(first, second, truncation=True, max_length=self.max_length)
        return {name: list(made[name]) for name in made if name in self.accepted}

    def pad(self, batch: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Tensors ``[N, T]`` by name, T being the longest list of the batch."""
        padded = self.tokenizer.pad(list(batch), return_tensors="pt")
        return {name: padded[name] for name in batch[0]}


#: Their positions start behind the padding token's.
_SHIFTED = frozenset("roberta xlm-roberta camembert longformer mpnet data2vec-text".split())


def preprocessing(name: str, config: Any) -> ImagePreprocess:
    """What the model's image processor does, in our terms; usual values where it has none."""
    from transformers import AutoImageProcessor

    size = _side(getattr(config, "image_size", None)) or 224
    channels = getattr(config, "num_channels", 3) or 3
    plain = ImagePreprocess((size, size), (0.5,) * channels, (0.5,) * channels, channels=channels)
    try:
        reader: Any = AutoImageProcessor
        told = reader.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, ImportError, RuntimeError):
        return plain
    target, cropped = _box(told.size), None
    if getattr(told, "do_center_crop", False) and getattr(told, "crop_size", None):
        cropped = _box(told.crop_size)
    share = getattr(told, "crop_pct", None) or 1.0
    if cropped is not None and target is not None:
        share = min(1.0, min(cropped) / min(target))
    normalised = getattr(told, "do_normalize", True)
    names = {number: how for how, number in _RESAMPLING.items()}
    return ImagePreprocess(
        size=cropped or target or plain.size,
        mean=tuple(told.image_mean) if normalised else (0.0,) * channels,
        std=tuple(told.image_std) if normalised else (1.0,) * channels,
        interpolation=names.get(int(getattr(told, "resample", 3) or 0), "bicubic"),
        crop_pct=share,
        channels=channels,
    )


def _side(value: Any) -> int | None:
    return int(value[0]) if isinstance(value, (list, tuple)) else value


def _box(size: Any) -> tuple[int, int] | None:
    """(height, width) of the ways in which processors write a size."""
    if isinstance(size, int):
        return size, size
    told = dict(size)
    if told.get("height") and told.get("width"):
        return int(told["height"]), int(told["width"])
    edge = told.get("shortest_edge")
    return (int(edge), int(edge)) if edge else None


def save_preprocessing(
    folder: Path, encoder: TextEncoder | None, image: ImagePreprocess | None
) -> None:
    """Write the tokenizer, or an image processor that does what evaluation did.

    Two things are that library's own and cannot be set: it resizes tensors, so that a pixel may
    be one grey level off, and of an odd margin it always cuts the smaller half first, so that
    some images are shifted by a pixel.
    """
    if encoder is not None:
        tokenizer = deepcopy(encoder.tokenizer)
        tokenizer.model_max_length = encoder.max_length  # pipelines cut there as well
        tokenizer.save_pretrained(folder)
    if image is not None:
        from transformers import CLIPImageProcessor

        height, width = image.size
        # This class resizes the short side and cuts out the centre, which is what we do.
        CLIPImageProcessor(
            size={"shortest_edge": math.floor(min(height, width) / image.crop_pct)},
            crop_size={"height": height, "width": width},
            resample=_RESAMPLING[image.interpolation],
            image_mean=list(image.mean),
            image_std=list(image.std),
            do_convert_rgb=image.channels == 3,
        ).save_pretrained(folder)
