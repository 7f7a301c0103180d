"""Models of timm: from its registry, the hub, or a folder in the hub's layout."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tether.data.table import DataSource
from tether.engine.reference import canonical
from tether.engine.taps import find_head, library_heads
from tether.errors import ConfigError
from tether.files import read_json, write_json
from tether.models.build import (
    adjusted,
    check_kind,
    first_argument,
    first_line,
    fresh_head,
    hub_access,
    seeded,
    shown,
    split_args,
)
from tether.models.export import FACTS, WEIGHTS, facts_of, image_of, save_folder
from tether.models.folder import plain_state
from tether.models.spec import ImagePreprocess, KeyReport, LoadedModel
from tether.models.weights import load_backbone, read_weights
from tether.optional import require
from tether.words import nearest

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

HOW_TO_LOAD = """\
import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
settings = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**settings, is_training=False)
class_names = model.pretrained_cfg["label_names"]"""


def load(name: str, config: TuneConfig, source: DataSource) -> LoadedModel:
    """A timm model with a new head.

    Args:
        name: a name of the registry, ``hf-hub:REPOSITORY``, or ``local-dir:FOLDER``.
        config: ``weights``, ``model_args``, ``image_size`` and ``seed`` are read. The
            ``model_args`` mean, std, crop_pct and interpolation are for the preprocessing and
            ``pretrained=false`` asks for random weights; all others go to the constructor.
        source: the data, for the number and the names of the classes.

    Raises:
        ConfigError: an unknown name, arguments that do not fit, or weights that cannot be had.
    """
    timm = require("timm", "vision")
    check_kind(f"timm:{name}", ("image",), source)
    place = _place(timm, name)
    args, image_args, pretrained = split_args(config.model_args)
    outputs = len(source.class_names)
    model = _create(place, config.seed, outputs, args)
    if config.image_size and model.pretrained_cfg.get("fixed_input_size"):
        args.setdefault("img_size", config.image_size)
        model = _create(place, config.seed, outputs, args)
    args = {**_saved_args(place, model), **args}
    heads = _heads(model)
    keys, source_head, kept = KeyReport(head=sorted(_head_keys(model, heads))), None, False
    if config.weights:
        state = read_weights(config.weights)
        keys, source_head = load_backbone(
            model, state, heads, origin=f"weights {config.weights}", convert=_converter(model)
        )
    elif pretrained is not False:
        given = _pretrained(place, name, args)
        keys, source_head, kept = _take(model, given, heads, source, place)
    if not kept:
        for head in heads:
            fresh_head(model.get_submodule(head), config.seed)
    size = config.image_size or _args_size(args)
    image = adjusted(_image(timm, model), image_args, size=size)
    loaded = _loaded(
        model,
        f"timm:{shown(place.removeprefix('local-dir:'))}",
        args,
        image,
        source.task,
        source.class_names,
    )
    loaded.keys, loaded.source_head = keys, source_head
    return loaded


def load_saved(folder: Path, facts: Mapping[str, Any]) -> LoadedModel:
    """What :func:`load` made and its ``save`` wrote."""
    require("timm", "vision")
    args = dict(facts["args"])
    model = _create(f"local-dir:{folder}", 0, len(facts["class_names"]), args)
    model.load_state_dict(load_file(folder / WEIGHTS))
    image = image_of(dict(facts))
    assert image is not None
    return _loaded(model, facts["name"], args, image, facts["task"], facts["class_names"])


# -- making ----------------------------------------------------------------------------------------


def _place(timm: Any, name: str) -> str:
    """What ``timm.create_model`` is called with."""
    if name.startswith(("hf-hub:", "local-dir:")):
        return name
    if Path(name).is_dir():
        return f"local-dir:{name}"
    plain = name.removeprefix("timm/")
    if timm.models.is_model(plain.partition(".")[0]):
        return plain
    if "/" in name:
        return f"hf-hub:{name}"
    raise ConfigError(
        f"timm has no model {name!r}"
        + nearest(plain.partition(".")[0], timm.list_models(), most=3)
        + (" (a folder of that name is not there either)" if "." in name else "")
    )


def _create(place: str, seed: int, outputs: int | None, args: Mapping[str, Any]) -> Any:
    """A model with random weights; None outputs: as many as the pretrained one has."""
    import timm

    taken = {"num_classes", "features_only", "checkpoint_path", "pretrained_cfg"} & set(args)
    if taken:
        raise ConfigError(f"model_args {', '.join(sorted(taken))}: set by the data; leave out")
    size: dict[str, Any] = {} if outputs is None else {"num_classes": outputs}
    try:
        with _reach(place), seeded(seed):
            return timm.create_model(place, pretrained=False, **size, **args)
    except (TypeError, ValueError, AssertionError, RuntimeError, KeyError) as error:
        raise ConfigError(
            f"timm:{place} cannot be made with model_args {dict(args)}: {error}"
        ) from error
    except OSError as error:
        raise ConfigError(_absent(place, error)) from error


def _reach(place: str) -> Any:
    return hub_access() if place.startswith("hf-hub:") else nullcontext()


def _pretrained(place: str, name: str, args: Mapping[str, Any]) -> Any:
    """The same model as it was published, with its own head."""
    import timm

    try:
        with nullcontext() if place.startswith("local-dir:") else hub_access(), seeded(0):
            return timm.create_model(place, pretrained=True, **args)
    except Exception as error:
        raise ConfigError(_absent(name, error)) from error


def _absent(name: str, error: Exception) -> str:
    first = first_line(error)
    return (
        f"no pretrained weights for timm:{name}: {first}. Pass --weights FILE.safetensors, or a "
        "local folder with config.json and model.safetensors as MODEL, or "
        "--model-args pretrained=false to start from random weights"
    )


def _saved_args(place: str, model: Any) -> dict[str, Any]:
    """Constructor arguments that the folder or the hub's file brings along."""
    if place.startswith("local-dir:"):
        told = read_json(Path(place.partition(":")[2]) / "config.json").get("model_args", {})
    elif place.startswith("hf-hub:"):
        told = getattr(model, "_model_args", {})
    else:
        told = {}
    return {k: v for k, v in told.items() if k != "num_classes"}


def _args_size(args: Mapping[str, Any]) -> int:
    size = args.get("img_size") or 0
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def _heads(model: nn.Module) -> list[str]:
    told = {id(module) for module in library_heads(model)}
    names = [
        canonical(n)
        for n, m in model.named_modules()
        if id(m) in told and any(True for _ in m.parameters())
    ]
    return names or [find_head(model, None, None)[0]]


def _head_keys(model: nn.Module, heads: list[str]) -> set[str]:
    return {k for k in model.state_dict() if any(k.startswith(f"{head}.") for head in heads)}


def _take(
    model: nn.Module, given: Any, heads: list[str], source: DataSource, place: str
) -> tuple[KeyReport, nn.Module | None, bool]:
    """Copy the backbone; the head as well where its classes are exactly the data's."""
    state: dict[str, Tensor] = given.state_dict()
    keys, _ = load_backbone(model, state, heads, origin=f"timm:{place}")
    names = given.pretrained_cfg.get("label_names")
    facts = Path(place.partition(":")[2]) / FACTS
    task = read_json(facts).get("task") if facts.is_file() else source.task
    if names is not None and list(names) == source.class_names and task == source.task:
        fitting = {k: state[k] for k in keys.head if k in state}
        model.load_state_dict(fitting, strict=False)
        keys.taken, keys.head, keys.discarded = keys.taken + sorted(fitting), [], []
        return keys, None, True
    old = [m for m in library_heads(given) if any(True for _ in m.parameters())]
    return keys, deepcopy(old[0]) if old else None, False


def _converter(model: nn.Module) -> Any:
    """The library's own reading of older files (names, positions of another image size)."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    return None if convert is None else lambda state: convert(state, model)


def _image(timm: Any, model: Any) -> ImagePreprocess:
    told = timm.data.resolve_model_data_config(model)
    channels, height, width = told["input_size"]
    channels = getattr(model, "in_chans", None) or channels
    image = ImagePreprocess(
        size=(height, width), mean=tuple(told["mean"]), std=tuple(told["std"]),
        interpolation=told["interpolation"], crop_pct=told["crop_pct"],
    )  # fmt: skip
    return adjusted(image, {}, channels=channels)


# -- saving ----------------------------------------------------------------------------------------


def _loaded(
    model: Any, name: str, args: dict[str, Any], image: ImagePreprocess, task: str,
    class_names: list[str],
) -> LoadedModel:  # fmt: skip
    loaded = LoadedModel(
        model=model, library="timm", name=name, kind="image", input_name=first_argument(model),
        head=find_head(model, None, len(class_names))[0], how_to_load=HOW_TO_LOAD, image=image,
        task=task, class_names=list(class_names), save=lambda folder: _save(loaded, args, folder),
    )  # fmt: skip
    return loaded


def _save(loaded: LoadedModel, args: dict[str, Any], folder: Path) -> None:
    def write(fresh: Path) -> None:
        save_file(plain_state(loaded.model), fresh / WEIGHTS, metadata={"format": "pt"})
        write_json(fresh / "config.json", _hub_config(loaded, args))

    facts = facts_of(loaded, args=args)
    save_folder(folder, facts, write, lambda: plain_state(loaded.model))


def _hub_config(loaded: LoadedModel, args: dict[str, Any]) -> dict[str, Any]:
    """``config.json`` in the layout of timm's hub models."""
    model: Any = loaded.model
    image = loaded.image
    assert image is not None
    kept = ("pool_size", "first_conv", "classifier", "fixed_input_size", "min_input_size")
    told = {k: model.pretrained_cfg[k] for k in kept if model.pretrained_cfg.get(k) is not None}
    pretrained = {
        **told,
        "custom_load": False,
        "input_size": [image.channels, *image.size],
        "mean": list(image.mean),
        "std": list(image.std),
        "interpolation": image.interpolation,
        "crop_pct": image.crop_pct,
        "crop_mode": "center",
        "num_classes": len(loaded.class_names),
        "label_names": list(loaded.class_names),
    }
    config: dict[str, Any] = {
        "architecture": model.pretrained_cfg["architecture"],
        "num_classes": len(loaded.class_names),
        "num_features": int(model.num_features),
        "label_names": list(loaded.class_names),
        "pretrained_cfg": pretrained,
    }
    if isinstance(getattr(model, "global_pool", None), str):
        config["global_pool"] = model.global_pool
    if args:
        config["model_args"] = args
    return config
