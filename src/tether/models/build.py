"""What all libraries share: seeded construction, the new head, preprocessing arguments, the hub."""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import nn

from tether.data.table import DataSource
from tether.errors import ConfigError
from tether.models.spec import ImagePreprocess
from tether.optional import require

HEAD_STD = 0.02  # small logits: the first gradients do not tear at the layers below
_HEAD_STREAM = 0x7E7E  # keeps the head's numbers apart from other uses of the same seed
_PREPROCESS_KEYS = ("mean", "std", "crop_pct", "interpolation")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's CPU generator starts from ``seed`` inside, and is as before afterwards."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        yield


@torch.no_grad()
def fresh_head(head: nn.Module, seed: int) -> None:
    """Weights N(0, 0.02²) and bias zero, from ``seed`` alone."""
    generator = torch.Generator().manual_seed((seed ^ _HEAD_STREAM) % 2**63)
    for name, parameter in head.named_parameters():
        if name.rpartition(".")[2] == "bias":
            parameter.zero_()
        else:
            drawn = torch.randn(parameter.shape, generator=generator) * HEAD_STD
            parameter.copy_(drawn)


def like_linear(old: nn.Module, outputs: int) -> nn.Linear:
    """A linear layer with the inputs of ``old`` and so many outputs."""
    if not isinstance(old, nn.Linear):
        raise ConfigError(
            f"the model's last layer is a {type(old).__name__}; a head of another size can only "
            "be put in the place of a linear layer"
        )
    with torch.random.fork_rng(devices=()):
        return nn.Linear(old.in_features, outputs, bias=old.bias is not None)


def truth(value: Any) -> bool:
    """A switch that may have stayed a text on its way through the command line."""
    if isinstance(value, str):
        return value.strip().lower() not in ("", "0", "false", "no", "off", "none")
    return bool(value)


def split_args(args: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], bool | None]:
    """Parts of ``model_args``: for the constructor, for preprocessing, and ``pretrained``."""
    model = {k: v for k, v in args.items() if k not in (*_PREPROCESS_KEYS, "pretrained")}
    images = {k: v for k, v in args.items() if k in _PREPROCESS_KEYS}
    told = args.get("pretrained")
    return model, images, None if told is None else truth(told)


def adjusted(
    image: ImagePreprocess, args: Mapping[str, Any], *, size: int = 0, channels: int | None = None
) -> ImagePreprocess:
    """The library's preprocessing with what the user says otherwise.

    Raises:
        ConfigError: a mean, std, crop_pct or interpolation that makes no sense.
    """
    channels = channels or image.channels
    changes: dict[str, Any] = {"channels": channels}
    for key in ("mean", "std"):
        given = args.get(key, getattr(image, key))
        values = tuple(given) if isinstance(given, (list, tuple)) else (given,)
        if len(values) not in (1, channels) and key not in args:
            values = (sum(values) / len(values),)
        try:
            numbers = tuple(float(v) for v in values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"model_args {key}={given!r}: a number is expected") from error
        if len(numbers) not in (1, channels) or (key == "std" and min(numbers) <= 0):
            raise ConfigError(
                f"model_args {key}={given!r}: give one number for all {channels} channels or one "
                "for each; a std is above 0"
            )
        changes[key] = numbers * channels if len(numbers) == 1 else numbers
    if "crop_pct" in args:
        share = args["crop_pct"]
        if not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ConfigError(f"model_args crop_pct={share!r}: a number above 0, at most 1")
        changes["crop_pct"] = float(share)
    if "interpolation" in args:
        changes["interpolation"] = str(args["interpolation"])
    how = changes.get("interpolation", image.interpolation)
    if how not in ("bilinear", "bicubic", "nearest"):
        if "interpolation" in args:
            raise ConfigError(f"model_args interpolation={how!r}: bilinear, bicubic or nearest")
        changes["interpolation"] = "bicubic"  # lanczos, random and others of the libraries
    if size:
        changes["size"] = (size, size)
    return replace(image, **changes)


@contextmanager
def hub_access() -> Iterator[bool]:
    """Whether the hub answers; where it does not, only files already downloaded are used.

    Without this look, the client's repeated attempts take most of a minute.
    """
    constants: Any = require("huggingface_hub.constants", "text")
    before = constants.HF_HUB_OFFLINE
    reached = not before and _answers(constants.ENDPOINT)
    try:
        constants.HF_HUB_OFFLINE = not reached
        yield reached
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(endpoint: str, seconds: float = 4.0) -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True  # the name need not resolve here
    place = urlparse(endpoint)
    port = place.port or (80 if place.scheme == "http" else 443)
    try:
        with socket.create_connection((place.hostname or "", port), timeout=seconds):
            return True
    except OSError:
        return False


def check_kind(name: str, kinds: tuple[str, ...], source: DataSource) -> None:
    """Refuse data that the model cannot read.

    Raises:
        ConfigError: the model reads something else, or there is nothing to predict.
    """
    words = {"image": "images", "text": "texts", "vector": "rows of numbers"}
    if source.kind not in kinds:
        reads = " or ".join(words[kind] for kind in kinds)
        raise ConfigError(
            f"{name} reads {reads}, but the data {source.name} are {words[source.kind]}"
        )
    if not source.class_names:
        raise ConfigError(f"the data {source.name} have no classes to make a head for")


def first_argument(model: nn.Module) -> str:
    """Name of the forward's first argument."""
    return next(iter(inspect.signature(model.forward).parameters))


def first_line(error: Exception) -> str:
    """The beginning of a library's message, without its full stop."""
    return str(error).strip().partition("\n")[0].rstrip(". ") or type(error).__name__


def shown(place: str) -> str:
    """What a model is called in files that travel: of a folder only its name."""
    path = Path(place)
    if not path.is_dir():
        return place
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name
