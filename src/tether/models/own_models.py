"""Networks of this package: the demo's, residual networks for CIFAR, perceptrons on features."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from tether.data.table import DataSource
from tether.demo.task import DigitNetwork, few_shot_task, noisy_task
from tether.errors import ConfigError
from tether.models.build import (
    adjusted,
    check_kind,
    first_argument,
    fresh_head,
    like_linear,
    seeded,
    split_args,
)
from tether.models.cifar_resnet import CifarResNet
from tether.models.export import WEIGHTS, image_of
from tether.models.mlp import MultilayerPerceptron
from tether.models.spec import ImagePreprocess, KeyReport, LoadedModel
from tether.models.torchvision_models import save_plain
from tether.models.weights import load_backbone, read_weights
from tether.optional import require
from tether.words import nearest

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

KNOWN = (
    "digits",
    "linear",
    "mlp",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
)
HOW_TO_LOAD = """\
from tether.models import load_exported

loaded = load_exported("FOLDER")
model, class_names = loaded.model, loaded.class_names"""
_CIFAR = ImagePreprocess(
    (32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", crop_pct=1.0
)


def load(name: str, config: TuneConfig, source: DataSource) -> LoadedModel:
    """``digits``, ``cifar_resnet20`` and its deeper relatives, ``linear`` or ``mlp``, new head.

    Raises:
        ConfigError: an unknown name, other data, or a network whose weights were not given.
    """
    if name not in KNOWN:
        raise ConfigError(f"tether has no network {name!r}{nearest(name, KNOWN, most=3)}")
    if name in ("linear", "mlp"):
        return _perceptron(name, config, source)
    args, image_args, pretrained = split_args(config.model_args)
    if args:
        raise ConfigError(f"{name} takes no model_args {', '.join(args)}")
    if name == "digits":
        return _digits(config, source)
    check_kind(f"tether:{name}", ("image",), source)
    model = _cifar(name, len(source.class_names), config.seed)
    keys, source_head = KeyReport(head=["linear.weight", "linear.bias"]), None
    if config.weights:
        keys, source_head = load_backbone(
            model, read_weights(config.weights), ["linear"], origin=f"weights {config.weights}"
        )
    elif pretrained is not False:
        raise ConfigError(
            f"tether:{name} comes without weights: pass --weights FILE.safetensors, or "
            "--model-args pretrained=false to start from random weights"
        )
    fresh_head(model.linear, config.seed)
    image = adjusted(_CIFAR, image_args, size=config.image_size)
    loaded = _loaded(model, f"tether:{name}", "linear", source.task, source.class_names, image)
    loaded.keys, loaded.source_head = keys, source_head
    return loaded


def load_saved(folder: Path, facts: Mapping[str, Any]) -> LoadedModel:
    """What :func:`load` made and its ``save`` wrote."""
    names, full = list(facts["class_names"]), str(facts["name"])
    name = full.partition(":")[2]
    model: nn.Module
    if name == "digits":
        with seeded(0):
            model = DigitNetwork()
            model.head = like_linear(model.head, len(names))
    elif name in ("linear", "mlp"):
        model = MultilayerPerceptron(outputs=len(names), **facts["args"])
    else:
        model = _cifar(name, len(names), 0)
    model.load_state_dict(load_file(folder / WEIGHTS))
    return _loaded(model, full, facts["head"], facts["task"], names, image_of(dict(facts)))


def _cifar(name: str, outputs: int, seed: int) -> CifarResNet:
    depth = re.fullmatch(r"cifar_resnet(\d+)", name)
    if depth is None:
        raise ConfigError(f"tether has no network {name!r}{nearest(name, KNOWN, most=3)}")
    with seeded(seed):
        return CifarResNet(int(depth[1]), outputs)


def _digits(config: TuneConfig, source: DataSource) -> LoadedModel:
    """The demo's pretrained network, under the head that its task gives it."""
    check_kind("demo:digits", ("vector",), source)
    width = np.asarray(source.tables["train"].inputs[0]).size
    if width != 64:
        raise ConfigError(f"demo:digits reads rows of 64 numbers, the data have {width}")
    require("sklearn", "labels")
    task = few_shot_task if source.name.partition(":")[2] == "digits-few" else noisy_task
    model = deepcopy(task(config.seed).pretrained)
    if len(source.class_names) != model.head.out_features:
        model.head = like_linear(model.head, len(source.class_names))
        fresh_head(model.head, config.seed)
    loaded = _loaded(model, "demo:digits", "head", source.task, source.class_names, None)
    if config.weights:
        loaded.keys, loaded.source_head = load_backbone(
            model, read_weights(config.weights), ["head"], origin=f"weights {config.weights}"
        )
    else:
        taken = [k for k in model.state_dict() if not k.startswith("head.")]
        loaded.keys = KeyReport(taken=taken, head=["head.weight", "head.bias"])
    return loaded


_DEFAULTS = {"layers": 3, "hidden": 256, "dropout": 0.0}


def _perceptron(name: str, config: TuneConfig, source: DataSource) -> LoadedModel:
    """Rows of numbers under a linear head, or under a perceptron; all of it is drawn anew."""
    check_kind(f"tether:{name}", ("vector",), source)
    if config.weights:
        raise ConfigError(f"tether:{name} is drawn anew: it takes no --weights")
    if name == "linear" and config.model_args:
        raise ConfigError("tether:linear takes no model_args; tether:mlp takes layers, hidden")
    unknown = [key for key in config.model_args if key not in _DEFAULTS]
    if unknown:
        raise ConfigError(
            f"tether:{name} has no model_args {unknown[0]!r}{nearest(unknown[0], _DEFAULTS)} "
            f"(known: {', '.join(_DEFAULTS)})"
        )
    args = {**_DEFAULTS, **({"layers": 1} if name == "linear" else config.model_args)}
    for key, least in (("layers", 1), ("hidden", 1)):
        if not isinstance(args[key], int) or args[key] < least:
            raise ConfigError(f"model_args {key}={args[key]!r}: a whole number, at least {least}")
    if not isinstance(args["dropout"], (int, float)) or not 0 <= args["dropout"] < 1:
        raise ConfigError(f"model_args dropout={args['dropout']!r}: at least 0, below 1")
    args["inputs"] = int(np.asarray(source.tables["train"].inputs[0]).size)
    with seeded(config.seed):
        model = MultilayerPerceptron(outputs=len(source.class_names), **args)
    fresh_head(model.head, config.seed)
    loaded = _loaded(
        model, f"tether:{name}", "head", source.task, source.class_names, None, args=args
    )
    loaded.keys = KeyReport(head=["head.weight", "head.bias"])
    return loaded


def _loaded(
    model: nn.Module, name: str, head: str, task: str, class_names: list[str],
    image: ImagePreprocess | None, args: Mapping[str, Any] | None = None,
) -> LoadedModel:  # fmt: skip
    loaded = LoadedModel(
        model=model, library="tether", name=name, kind="image" if image else "vector",
        input_name=first_argument(model), head=head, image=image, how_to_load=HOW_TO_LOAD,
        task=task, class_names=list(class_names),
        save=lambda folder: save_plain(loaded, dict(args or {}), folder),
    )  # fmt: skip
    return loaded
