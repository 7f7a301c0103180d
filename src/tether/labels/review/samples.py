"""Inputs of samples as a page can show them: small pictures, or texts."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tether.data.images import open_image, to_mode
from tether.optional import require
from tether.words import printable

if TYPE_CHECKING:
    from PIL.Image import Image

LARGE, SMALL = 640, 192
SIZES = (LARGE, SMALL)
_KEPT = 2048  # small pictures that are kept
_LONGEST_TEXT = 20_000


class UnreadableError(Exception):
    """A sample that cannot be shown; the message says why."""


class Samples:
    """The inputs of some samples, by number.

    Args:
        kind: ``"image"``, ``"text"`` or ``"vector"``.
        ids: of the samples; their places are their numbers.
        inputs: id -> input; one that is missing is told when it is to be shown.
    """

    def __init__(self, kind: str, ids: Sequence[str], inputs: Mapping[str, Any]) -> None:
        self.ids = list(ids)
        self.number = {name: number for number, name in enumerate(self.ids)}
        self._inputs = {name: inputs[name] for name in self.ids if name in inputs}
        first = next(iter(self._inputs.values()), None)
        drawn = kind == "image" or (kind == "vector" and _side(first) > 0)
        self.kind = "image" if drawn else "text"
        self._cached = lru_cache(maxsize=_KEPT)(self._picture)

    def __len__(self) -> int:
        return len(self.ids)

    def path(self, number: int) -> Path | None:
        """The file of a picture, where it is one."""
        value = self._inputs.get(self.ids[number])
        return value if isinstance(value, Path) else None

    def text(self, number: int) -> list[str]:
        """The paragraphs of a text; empty for a picture."""
        if self.kind == "image":
            return []
        name = self.ids[number]
        if name not in self._inputs:
            return ["(no longer in the data)"]
        value = self._inputs[name]
        parts = value if isinstance(value, tuple) else (value,)
        return [part[:_LONGEST_TEXT] if isinstance(part, str) else _row(part) for part in parts]

    def picture(self, number: int, size: int = LARGE) -> tuple[bytes, str]:
        """An encoded image with sides of at most ``size`` pixels, and its media type.

        Raises:
            UnreadableError: the image has gone or does not open.
        """
        return self._cached(number, size) if size <= SMALL else self._picture(number, size)

    def _picture(self, number: int, size: int) -> tuple[bytes, str]:
        name = self.ids[number]
        if name not in self._inputs:
            raise UnreadableError("it is no longer in the data")
        try:
            image = _drawn(self._inputs[name], size)
            return _encoded(image)
        except Exception as error:  # decoders raise what they like
            reason = "there is no such file" if isinstance(error, FileNotFoundError) else ""
            # without the path, which the page has no need to know
            why = reason or getattr(error, "strerror", None) or type(error).__name__
            raise UnreadableError(printable(why)) from None


def _drawn(value: Any, size: int) -> Image:
    if isinstance(value, np.ndarray):
        return _grey(value)
    image = open_image(value)
    if image is value:
        image = image.copy()
    image.draft("RGB", (size, size))  # a JPEG is then decoded at a fraction of its size
    image = to_mode(image, 3)
    image.thumbnail((size, size))
    return image


def _encoded(image: Image) -> tuple[bytes, str]:
    file = io.BytesIO()
    if max(image.size) <= 64:  # pixels that are looked at one by one
        image.save(file, "PNG")
        return file.getvalue(), "image/png"
    image.save(file, "JPEG", quality=85)
    return file.getvalue(), "image/jpeg"


def _side(value: Any) -> int:
    """Side of the square picture that a row of numbers is, or 0."""
    if not isinstance(value, np.ndarray) or value.ndim != 1 or value.size < 16:
        return 0
    side = math.isqrt(value.size)
    return side if side * side == value.size else 0


def _grey(row: Any) -> Image:
    side = _side(row)
    low, high = float(row.min()), float(row.max())
    grey = (row - low) / ((high - low) or 1.0) * 255
    image: Image = require("PIL.Image", "labels").fromarray(
        grey.reshape(side, side).round().astype(np.uint8)
    )
    return image


def _row(value: Any) -> str:
    return " ".join(f"{number:.4g}" for number in np.asarray(value).ravel()[:256])
