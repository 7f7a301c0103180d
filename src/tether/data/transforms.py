"""Images as a model takes them: upright, resized, cropped, randomly changed, normalised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tether.data.images import open_image, to_mode
from tether.errors import ConfigError
from tether.optional import require

if TYPE_CHECKING:
    from PIL.Image import Image

    from tether.models.spec import ImagePreprocess

AUGMENTS = ("default", "none", "light", "colour", "randaugment")
_SCALES = {"light": 0.5, "default": 0.35, "colour": 0.35, "randaugment": 0.35}
_RATIO = (3 / 4, 4 / 3)
_SHARPER = 4  # a JPEG is decoded no smaller than so many times the model's size


class ImageEncoder:
    """A path, stored image or PIL image -> the model's normalised pixels, ``[C, H, W]`` float32.

    Args:
        preprocess: how the model wants its pixels.
        augment: random changes, one of ``AUGMENTS``.
        input_name: name of the entry that holds them.
        change: a further random change of the cropped image.
    """

    def __init__(
        self, preprocess: ImagePreprocess, augment: str, input_name: str,
        change: Callable[[Any], Any] | None = None,
    ) -> None:  # fmt: skip
        if preprocess.channels not in (1, 3):
            raise ConfigError(f"images have 1 or 3 channels, the model asks for "
                              f"{preprocess.channels}")  # fmt: skip
        if augment not in AUGMENTS:
            raise ConfigError(f"option augment: one of {', '.join(AUGMENTS)}, not {augment!r}")
        self.preprocess, self.augment, self.input_name = preprocess, augment, input_name
        self.draws = augment != "none" or change is not None
        v2 = require("torchvision.transforms.v2", "vision")
        self.interpolation = v2.InterpolationMode(preprocess.interpolation)
        self.changes = _changes(v2, augment, preprocess.channels, self.interpolation)
        self.changes += [] if change is None else [change]
        mean, std = (
            np.broadcast_to(np.asarray(values, np.float32), preprocess.channels)[:, None, None]
            for values in (preprocess.mean, preprocess.std)
        )
        # x / 255, minus mean, over std: one product and one sum for each pixel
        self.factor, self.shift = 1 / (255 * std), -mean / std

    def __call__(self, source: Any) -> dict[str, Tensor]:
        """The pixels of an image, by the name of the input."""
        image = open_image(source)
        if self.augment == "none":
            image = centred(to_mode(image, self.preprocess.channels), self.preprocess,
                            self.interpolation)  # fmt: skip
        else:
            height, width = self.preprocess.size
            image.draft(None, (_SHARPER * width, _SHARPER * height))
            image = self._random_crop(to_mode(image, self.preprocess.channels))
        for change in self.changes:
            image = change(image)
        return {self.input_name: self.normalise(image)}

    def normalise(self, image: Image) -> Tensor:
        """Pixels of an image that has the model's size and channels."""
        pixels = np.asarray(image)
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        # on 96 pixels a side NumPy takes a third of torch's time, bytes put in order first
        values = np.ascontiguousarray(planes).astype(np.float32)
        values *= self.factor
        values += self.shift
        return torch.from_numpy(values)

    def _random_crop(self, image: Image) -> Image:
        """A part of random size and shape at a random place, resized; half of them mirrored."""
        width, height = image.size
        left, top, across, down = crop_box(width, height, _SCALES[self.augment])
        size = (self.preprocess.size[1], self.preprocess.size[0])
        box = (left, top, left + across, top + down)
        image = image.resize(size, _resampling(self.preprocess.interpolation), box)
        if torch.rand(()).item() < 0.5:
            image = image.transpose(_pil().Transpose.FLIP_LEFT_RIGHT)
        return image


def image_encoder(
    preprocess: ImagePreprocess,
    *,
    train: bool,
    augment: str,
    input_name: str,
    change: Callable[[Any], Any] | None = None,
) -> Callable[[Any], dict[str, Tensor]]:
    """What turns an image into a model's input; it can be pickled, so that workers have it.

    In evaluation, and with ``augment="none"``, the image is resized so that its centre crop of
    the model's size keeps ``crop_pct`` of it. Otherwise a random part is resized and mirrored in
    half of the cases:

    - ``light``: from half of the area on;
    - ``default``: from 35 % on, with mild changes of brightness, contrast and saturation;
    - ``colour``: stronger ones with the hue, a tenth of the images grey;
    - ``randaugment``: as ``default``, then two operations of RandAugment at magnitude 9.

    Randomness is drawn from torch's global generator.

    Args:
        preprocess: how the model wants its pixels.
        train: False gives the evaluation's transform whatever ``augment`` says.
        augment: random changes.
        input_name: name of the entry that holds the pixels.
        change: a further random change, image -> image, before normalisation.

    Raises:
        ConfigError: an unknown ``augment``, or torchvision or Pillow is missing.
    """
    require("PIL.Image", "vision")
    return ImageEncoder(preprocess, augment if train else "none", input_name, change)


def centred(image: Image, preprocess: ImagePreprocess, interpolation: Any) -> Image:
    """Resized with antialiasing, and the centre cropped."""
    functional = require("torchvision.transforms.v2.functional", "vision")
    height, width = preprocess.size
    high, wide = (math.floor(side / preprocess.crop_pct) for side in (height, width))
    if high == wide:
        target = [high]  # the short side
    else:
        scale = max(high / image.height, wide / image.width)
        target = [max(high, round(scale * image.height)), max(wide, round(scale * image.width))]
    image = functional.resize(image, target, interpolation=interpolation, antialias=True)
    cropped: Image = functional.center_crop(image, [height, width])
    return cropped


def crop_box(width: int, height: int, smallest: float) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random part: its area from ``smallest`` on, near square.

    The law is that of torchvision's ``RandomResizedCrop``; all draws are made at once, since
    small ones cost what a resize does.
    """
    draws = torch.rand(22).tolist()
    low, high = math.log(_RATIO[0]), math.log(_RATIO[1])
    for area, ratio in zip(draws[0:20:2], draws[1:20:2], strict=True):
        part = width * height * (smallest + (1 - smallest) * area)
        shape = math.exp(low + (high - low) * ratio)
        across, down = round(math.sqrt(part * shape)), round(math.sqrt(part / shape))
        if 0 < across <= width and 0 < down <= height:
            left = int(draws[20] * (width - across + 1))
            top = int(draws[21] * (height - down + 1))
            return left, top, across, down
    across = min(width, max(1, round(height * _RATIO[1])))  # long and thin: the centre
    down = min(height, max(1, round(width / _RATIO[0])))
    return (width - across) // 2, (height - down) // 2, across, down


def _changes(v2: Any, augment: str, channels: int, interpolation: Any) -> list[Any]:
    """What follows the crop, on the small image."""
    if augment in ("none", "light"):
        return []
    if augment == "colour":
        jitter = {"saturation": 0.4, "hue": 0.05} if channels == 3 else {}
        grey = [v2.RandomGrayscale(0.1)] if channels == 3 else []
        return [v2.ColorJitter(brightness=0.4, contrast=0.4, **jitter), *grey]
    jitter = {"saturation": 0.2} if channels == 3 else {}
    mild = [v2.ColorJitter(brightness=0.2, contrast=0.2, **jitter)]
    if augment == "randaugment":
        mild.append(v2.RandAugment(2, 9, interpolation=interpolation))
    return mild


def _resampling(interpolation: str) -> Any:
    return getattr(_pil().Resampling, interpolation.upper())


def _pil() -> Any:
    return require("PIL.Image", "vision")
