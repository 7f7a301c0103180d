"""Small networks that look at inputs, for methods that learn what to do with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.methods.inputs.input_layers import input_width
from tether.optional import require

#: Width of what the small encoders give.
SMALL = 32
#: Names of encoders of images.
POLICIES = ("resnet10t", "small_conv")


def image_encoder(channels: int) -> nn.Sequential:
    """Two strided convolutions and a mean over places: ``[N, C, H, W] -> [N, 32]``."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(16, SMALL, 3, stride=2, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip


def row_encoder(numbers: int) -> nn.Sequential:
    """Two layers: ``[N, ...] -> [N, 32]``."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(numbers, 64), nn.ReLU(), nn.Linear(64, SMALL), nn.ReLU()
    )


def resnet10t(channels: int) -> tuple[nn.Module, int]:
    """The residual network of 10 layers of timm, from random numbers, and its width.

    Its norms are over each sample by itself, so that a batch of one is fine and ranks agree.
    """
    timm: Any = require("timm", "vision", 'policy="resnet10t"')
    norm = timm.layers.GroupNorm1
    encoder = timm.create_model(
        "resnet10t", pretrained=False, num_classes=0, in_chans=channels, norm_layer=norm
    )
    return encoder, int(encoder.num_features)


def interval_policy(model: nn.Module, who: str, *, inputs: int = 1) -> nn.Module:
    """A small encoder and three logits a row, all near 0 at first.

    Args:
        model: its first layer tells what the inputs are.
        who: the method that asks.
        inputs: how many of them come side by side.
    """
    kind, width = known_inputs(model, who)
    encoder = image_encoder(inputs * width) if kind == "image" else row_encoder(inputs * width)
    last = nn.Linear(100, 3)
    nn.init.normal_(last.weight, std=1e-3)
    nn.init.zeros_(last.bias)
    return nn.Sequential(encoder, nn.Linear(SMALL, 100), last)


class MaskPolicy(nn.Module):
    """An encoder and two heads, for both parameters of every cell: ``[N, 2 cells]``."""

    def __init__(self, encoder: nn.Module, width: int, cells: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU(),
                nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU(),
                nn.Linear(width, cells),
            )
            for _ in range(2)
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        """Both outputs side by side."""
        features = self.encoder(images)
        return torch.cat([head(features) for head in self.heads], dim=1)


def mask_policy(name: str, model: nn.Module, who: str, cells: int) -> MaskPolicy:
    """A policy by the name of its encoder, one of ``POLICIES``."""
    channels = known_inputs(model, who, images=True)[1]
    if name == "resnet10t":
        return MaskPolicy(*resnet10t(channels), cells)
    return MaskPolicy(image_encoder(channels), SMALL, cells)


def known_inputs(model: nn.Module, who: str, *, images: bool = False) -> tuple[str, int]:
    """``("image", channels)`` or ``("row", numbers)``, from the model's first layer.

    Raises:
        TetherError: they cannot be told, or are no images where those are wanted.
    """
    found = input_width(model)
    if found is None or (images and found[0] != "image"):
        wanted = "channels of its images" if images else "width of its inputs"
        raise TetherError(
            f"method {who!r}: the {wanted} cannot be told from the model's first layer (texts "
            "have none: mixup takes them); give policy=a module of your own"
        )
    return found


def call_policy(policy: nn.Module, given: Tensor, who: str) -> Tensor:
    """The policy's output, with a clear error where the inputs do not fit it."""
    try:
        output: Tensor = policy(given)
    except RuntimeError as error:
        raise TetherError(
            f"method {who!r}: its policy cannot take inputs of shape {tuple(given.shape)} "
            f"({error}); give policy=a module of your own"
        ) from error
    return output
