"""Images as they come: opened, turned upright, brought to the channels of the model, examined."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tether.optional import require

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
    ".pbm",
)  # fmt: skip


class StoredImage:
    """An image inside a parquet file or a data set: its bytes are fetched when they are needed.

    Args:
        store: row -> bytes, or a mapping with ``bytes`` and ``path``.
        row: its place there.
        roots: folders of the data set; a ``path`` without bytes must lie in one of them, since
            what a file from elsewhere names is not opened wherever it points.
    """

    __slots__ = ("roots", "row", "store")

    def __init__(self, store: Sequence[Any], row: int, roots: Sequence[Path] = ()) -> None:
        self.store, self.row, self.roots = store, row, roots

    def read_bytes(self) -> bytes:
        """The encoded image.

        Raises:
            OSError: there is none, or it lies outside the data set.
        """
        cell = self.store[self.row]
        if isinstance(cell, dict):
            cell = cell.get("bytes") or cell.get("path")
        if isinstance(cell, str):
            return self._inside(cell).read_bytes()
        if not cell:
            raise OSError("the image is missing")
        return bytes(cell)

    def _inside(self, path: str) -> Path:
        for root in self.roots:
            place = Path(os.path.normpath(root / path))
            if place.is_relative_to(root):
                return place
        raise OSError(f"it names a file outside the data set, {Path(path).name}")


class MappedImage:
    """A decoded image that lies in a file mapped into memory.

    Args:
        pixels: ``[H, W, C]`` or ``[H, W]`` uint8.
        key: hash of the content that it was decoded from.
    """

    __slots__ = ("key", "pixels")

    def __init__(self, pixels: NDArray[np.uint8], key: bytes) -> None:
        self.pixels, self.key = pixels, key

    def open(self) -> Image:
        """As a PIL image."""
        image: Image = require("PIL.Image", "vision").fromarray(np.asarray(self.pixels))
        return image


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(SUFFIXES)


def open_image(source: Any) -> Image:
    """A PIL image of a path, a stored or mapped image, or a PIL image; files not decoded yet.

    Raises:
        OSError: there is no such file, or it holds no image.
        ConfigError: Pillow is not installed.
    """
    images = require("PIL.Image", "vision")
    if isinstance(source, images.Image):
        image: Image = source
        return image
    if isinstance(source, MappedImage):
        return source.open()
    if isinstance(source, (str, Path)):
        opened: Image = images.open(source)
        return opened
    stored: Image = images.open(io.BytesIO(source.read_bytes()))
    return stored


def to_mode(image: Image, channels: int) -> Image:
    """The image upright, as RGB (or grey for one channel).

    The orientation that a camera noted is applied. Transparent parts become white, what they
    mostly stand on; 16-bit grey is brought to 8 bits instead of cut off at 255.
    """
    mode = "L" if channels == 1 else "RGB"
    if image.getexif().get(0x0112, 1) != 1:
        image = require("PIL.ImageOps", "vision").exif_transpose(image)
    if image.mode == mode:
        return image
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        images = require("PIL.Image", "vision")
        image = image.convert("RGBA")
        image = images.alpha_composite(images.new("RGBA", image.size, "white"), image)
    elif image.mode.startswith(("I", "F")):
        image = _eight_bits(image)
    return image.convert(mode)


def _eight_bits(image: Image) -> Image:
    values = np.asarray(image, dtype=np.float64)
    top = float(values.max(initial=0.0))
    if top > 255:
        values = values / 257  # 65535 becomes 255
    elif image.mode == "F" and top <= 1:
        values = values * 255
    eight: Image = require("PIL.Image", "vision").fromarray(
        values.round().clip(0, 255).astype(np.uint8)
    )
    return eight


def content_hash(data: bytes) -> bytes:
    """Sixteen bytes that stand for a content."""
    return blake2b(data, digest_size=16).digest()


def examine_all(sources: Sequence[Any]) -> list[tuple[bytes, str]]:
    """For each image the hash of its content, and why it cannot be read ("" where it can).

    Every image is decoded to its end; a file that was not changed is not looked at twice.
    """
    require("PIL.Image", "vision")
    if len(sources) < 32:
        return [examine(source) for source in sources]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the lock
        return list(pool.map(examine, sources))


def examine(source: Any) -> tuple[bytes, str]:
    """Hash of an image's content, and why it cannot be read ("" where it can)."""
    try:
        if isinstance(source, Path):
            about = source.stat()
            return _examine_file(str(source), about.st_mtime_ns, about.st_size)
        if isinstance(source, MappedImage):  # examined when it was decoded
            return source.key, ""
        if hasattr(source, "read_bytes"):
            return _examine_bytes(source.read_bytes())
        source.load()
        return content_hash(repr((source.mode, source.size)).encode() + source.tobytes()), ""
    except Exception as error:  # decoders raise what they like: OSError, SyntaxError, struct.error
        return b"", _reason(error)


@lru_cache(maxsize=1 << 20)
def _examine_file(path: str, changed: int, size: int) -> tuple[bytes, str]:
    return _examine_bytes(Path(path).read_bytes())


def _examine_bytes(data: bytes) -> tuple[bytes, str]:
    key = content_hash(data)
    try:
        image = open_image(_Bytes(data))
        # A JPEG is then decoded at an eighth of its size: the whole file is read all the same.
        image.draft(None, (1, 1))
        image.load()
    except Exception as error:
        return key, _reason(error)
    return key, ""


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read_bytes(self) -> bytes:
        return self.data


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    name = type(error).__name__
    if name == "UnidentifiedImageError":
        return "it is not an image"
    return str(error) or name
