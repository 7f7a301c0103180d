"""Classification models of torchvision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tether.data.table import DataSource
from tether.engine.taps import find_head
from tether.errors import ConfigError, TetherError
from tether.files import write_json
from tether.models.build import (
    adjusted,
    check_kind,
    first_argument,
    fresh_head,
    seeded,
    split_args,
)
from tether.models.export import WEIGHTS, facts_of, image_of, save_folder
from tether.models.folder import plain_state
from tether.models.spec import ImagePreprocess, KeyReport, LoadedModel
from tether.models.weights import load_backbone, read_weights
from tether.optional import require
from tether.words import nearest

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

_WITH_AUXILIARY = ("googlenet", "inception_v3")  # in training they return a tuple
_IMAGENET = ImagePreprocess((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")


def load(name: str, config: TuneConfig, source: DataSource) -> LoadedModel:
    """A torchvision classifier with a new head.

    Args:
        name: as in ``torchvision.models.list_models``.
        config: as for :func:`tether.models.timm_models.load`; the ``model_args`` may choose the
            published weights, ``weights=IMAGENET1K_V1``.
        source: the data, for the number and the names of the classes.

    Raises:
        ConfigError: an unknown name, arguments that do not fit, or weights that cannot be had.
    """
    vision = require("torchvision", "vision")
    check_kind(f"torchvision:{name}", ("image",), source)
    known = vision.models.list_models(module=vision.models)
    if name not in known:
        raise ConfigError(f"torchvision has no classifier {name!r}{nearest(name, known, most=3)}")
    args, image_args, pretrained = split_args(config.model_args)
    entry = _entry(vision, name, args.pop("weights", "DEFAULT"))
    if name in _WITH_AUXILIARY:
        args.setdefault("aux_logits", False)
        args.setdefault("transform_input", bool(config.weights) or pretrained is not False)
    if config.image_size and name.startswith("vit_"):
        args.setdefault("image_size", config.image_size)
    model = _create(name, config.seed, len(source.class_names), args)
    head = _head(model, name, len(source.class_names))
    keys: KeyReport = KeyReport(
        head=sorted(k for k in model.state_dict() if k.startswith(f"{head}."))
    )
    source_head: nn.Module | None = None
    if config.weights or pretrained is not False:
        state = read_weights(config.weights) if config.weights else _published(entry, name)
        keys, source_head = load_backbone(
            model, state, [head], origin=f"weights {config.weights}" if config.weights else name,
            convert=_converter(model),
        )  # fmt: skip
    fresh_head(model.get_submodule(head), config.seed)
    image = adjusted(_image(entry), image_args, size=config.image_size)
    loaded = _loaded(model, name, args, image, source.task, source.class_names)
    loaded.keys, loaded.source_head = keys, source_head
    return loaded


def load_saved(folder: Path, facts: Mapping[str, Any]) -> LoadedModel:
    """What :func:`load` made and its ``save`` wrote."""
    require("torchvision", "vision")
    name, args = str(facts["name"]).partition(":")[2], dict(facts["args"])
    model = _create(name, 0, len(facts["class_names"]), args)
    model.load_state_dict(load_file(folder / WEIGHTS))
    image = image_of(dict(facts))
    assert image is not None
    return _loaded(model, name, args, image, facts["task"], facts["class_names"])


def _entry(vision: Any, name: str, which: str) -> Any:
    """The record of published weights: their address, classes and preprocessing."""
    weights = vision.models.get_model_weights(name)
    try:
        return weights[which] if which != "DEFAULT" else weights.DEFAULT
    except KeyError as error:
        there = ", ".join(weights.__members__)
        raise ConfigError(
            f"torchvision:{name} has no weights {which!r}; there are {there}"
        ) from error


def _create(name: str, seed: int, outputs: int, args: Mapping[str, Any]) -> nn.Module:
    import torchvision

    slow = {"init_weights": False} if name in _WITH_AUXILIARY else {}  # theirs takes seconds
    if "num_classes" in args:
        raise ConfigError("model_args num_classes: set by the data; leave out")
    try:
        with seeded(seed):
            made: nn.Module = torchvision.models.get_model(
                name, weights=None, num_classes=outputs, **slow, **args
            )
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"torchvision:{name} cannot be made with model_args {dict(args)}: {error}"
        ) from error
    return made


def _published(entry: Any, name: str) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = entry.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:
        raise ConfigError(
            f"the weights of torchvision:{name} cannot be had ({error}). Pass --weights FILE, or "
            "--model-args pretrained=false to start from random weights"
        ) from error
    return {k: v for k, v in state.items() if not k.startswith(("aux1.", "aux2.", "AuxLogits."))}


def _head(model: nn.Module, name: str, outputs: int) -> str:
    try:
        return find_head(model, None, outputs)[0]
    except TetherError as error:
        raise ConfigError(f"torchvision:{name} has no linear head: {error}") from error


def _converter(model: nn.Module) -> Any:
    """Positions of a vision transformer, for another image size."""
    size, patch = getattr(model, "image_size", None), getattr(model, "patch_size", None)
    if size is None or patch is None:
        return None
    from torchvision.models.vision_transformer import interpolate_embeddings

    return lambda state: interpolate_embeddings(size, patch, state)


def _image(entry: Any) -> ImagePreprocess:
    told = entry.transforms()
    crop, resized = getattr(told, "crop_size", None), getattr(told, "resize_size", None)
    if not crop or not resized:
        return _IMAGENET
    how = str(getattr(told.interpolation, "value", told.interpolation))
    return ImagePreprocess(
        size=(crop[0], crop[0]), mean=tuple(told.mean), std=tuple(told.std),
        interpolation=how, crop_pct=min(1.0, crop[0] / resized[0]),
    )  # fmt: skip


def how_to_load(name: str, outputs: int, args: Mapping[str, Any]) -> str:
    """The lines that load the folder with torchvision and safetensors alone."""
    extra = "".join(f", {k}={v!r}" for k, v in args.items())
    if name in _WITH_AUXILIARY:
        extra += ", init_weights=False"
    return (
        "import json\n"
        "import torchvision\n"
        "from safetensors.torch import load_file\n\n"
        f'model = torchvision.models.get_model("{name}", num_classes={outputs}{extra}).eval()\n'
        'model.load_state_dict(load_file("FOLDER/model.safetensors"))\n'
        'class_names = json.load(open("FOLDER/config.json", encoding="utf-8"))["class_names"]'
    )


def _loaded(
    model: nn.Module, name: str, args: dict[str, Any], image: ImagePreprocess, task: str,
    class_names: list[str],
) -> LoadedModel:  # fmt: skip
    loaded = LoadedModel(
        model=model, library="torchvision", name=f"torchvision:{name}", kind="image",
        input_name=first_argument(model), head=_head(model, name, len(class_names)), image=image,
        how_to_load=how_to_load(name, len(class_names), args), task=task,
        class_names=list(class_names), save=lambda folder: save_plain(loaded, args, folder),
    )  # fmt: skip
    return loaded


def save_plain(loaded: LoadedModel, args: Mapping[str, Any], folder: Path) -> None:
    """``model.safetensors`` and a ``config.json`` that says how to rebuild the network."""
    facts = facts_of(loaded, args=dict(args))

    def write(fresh: Path) -> None:
        save_file(plain_state(loaded.model), fresh / WEIGHTS, metadata={"format": "pt"})
        write_json(fresh / "config.json", facts)

    save_folder(folder, facts, write, lambda: plain_state(loaded.model))
