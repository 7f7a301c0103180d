"""RandAugment of torchvision or timm behind one scale of strength, for images one by one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tether.optional import require

BACKENDS = ("torchvision", "timm")
#: Operations whose change does not depend on the strength.
FIXED = ("AutoContrast", "Equalize", "Invert")
BINS = 31


class RandomOperations:
    """An image -> the image after some random operations; can be pickled, for workers of a loader.

    PIL images (``L`` or ``RGB``) and, with torchvision, uint8 tensors ``[1 or 3, H, W]``. Draws
    from torch's global generator (with timm from Python's and NumPy's).

    Args:
        strength: from 0 to 1; :meth:`set_strength` reaches workers, too.
        num_ops: operations an image.
        backend: ``"torchvision"`` (magnitude ``round(30 strength)`` of 30) or ``"timm"``
            (``10 strength`` of 10, the set that grows with it, each operation applied for sure;
            its posterising keeps 4 bits at most).
        include_fixed_ops: draw operations, too, whose change does not depend on the strength.
    """

    def __init__(
        self, strength: float, num_ops: int, backend: str, include_fixed_ops: bool = True
    ) -> None:
        self.num_ops, self.backend, self.include_fixed_ops = num_ops, backend, include_fixed_ops
        # in shared memory, so that workers which live through the epochs see it change
        self._strength = torch.tensor(float(strength), dtype=torch.float64)
        self._strength.share_memory_()  # type: ignore[no-untyped-call]
        self._transform: Any = None

    @property
    def strength(self) -> float:
        """The present one."""
        return float(self._strength)

    def set_strength(self, strength: float) -> None:
        """Change it, cut at 0 and 1."""
        self._strength.fill_(min(max(strength, 0.0), 1.0))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_transform": None}

    def __call__(self, image: Any) -> Any:
        """The changed image, of the same type and size."""
        strength = self.strength
        if self.num_ops == 0 or (strength == 0.0 and not self.include_fixed_ops):
            return image
        if self._transform is None:
            make = _from_torchvision if self.backend == "torchvision" else _from_timm
            self._transform = make(self.num_ops, self.include_fixed_ops)
        if self.backend == "torchvision":
            self._transform.magnitude = round((BINS - 1) * strength)
        else:
            for operation in self._transform.ops:
                most = 9.9 if operation.name == "PosterizeIncreasing" else 10.0  # 1 bit is left
                operation.magnitude = min(10.0 * strength, most)
        if self.backend == "timm" and image.mode == "L":  # timm fills with a colour
            return self._transform(image.convert("RGB")).convert("L")
        return self._transform(image)


def _from_torchvision(num_ops: int, include_fixed_ops: bool) -> Any:
    base: Any = require("torchvision.transforms.v2", "vision", "randaugment").RandAugment
    space = {
        name: made
        for name, made in base._AUGMENTATION_SPACE.items()
        if include_fixed_ops or name not in FIXED
    }
    kind = type("RandAugment", (base,), {"_AUGMENTATION_SPACE": space})
    return kind(num_ops, 0, num_magnitude_bins=BINS)


def _from_timm(num_ops: int, include_fixed_ops: bool) -> Any:
    auto: Any = require("timm.data.auto_augment", "vision", "randaugment with backend=timm")
    names = [
        name for name in auto._RAND_INCREASING_TRANSFORMS if include_fixed_ops or name not in FIXED
    ]
    written = f"rand-m0-n{num_ops}-p1.0-inc1"
    return auto.rand_augment_transform(written, {"magnitude_std": 0.0}, transforms=names)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """The global generators of the host follow from a seed; afterwards they go on as before."""
    kept = torch.default_generator.get_state(), random.getstate(), np.random.get_state()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    try:
        yield
    finally:
        torch.default_generator.set_state(kept[0])
        random.setstate(kept[1])
        np.random.set_state(kept[2])


def change_images(images: Tensor, change: RandomOperations, seed: int) -> Tensor:
    """Each of uint8 images ``[N, 1 or 3, H, W]`` changed for itself, as a seed tells.

    Example:
        >>> change = RandomOperations(0.5, 2, "torchvision")
        >>> change_images(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), change, seed=0).shape
        torch.Size([2, 3, 4, 4])
    """
    with drawing(seed):
        if change.backend == "torchvision":
            return torch.stack([change(image) for image in images])
        return torch.stack([_through_pil(image, change) for image in images])


def _through_pil(image: Tensor, change: RandomOperations) -> Tensor:
    pil: Any = require("PIL.Image", "vision")
    planes = image.permute(1, 2, 0).contiguous().numpy()
    out = np.asarray(change(pil.fromarray(planes if len(image) == 3 else planes[..., 0])))
    return torch.from_numpy(out.copy()).view(planes.shape).permute(2, 0, 1)
