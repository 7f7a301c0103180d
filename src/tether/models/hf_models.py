"""Models of transformers: classifiers of texts and of images."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tether.data.table import DataSource
from tether.engine.taps import find_head
from tether.errors import ConfigError, TetherError
from tether.models.build import (
    adjusted,
    check_kind,
    first_argument,
    first_line,
    fresh_head,
    hub_access,
    like_linear,
    seeded,
    shown,
    split_args,
)
from tether.models.export import facts_of, image_of, save_folder
from tether.models.folder import plain_state
from tether.models.hf_inputs import TextEncoder, preprocessing, save_preprocessing
from tether.models.spec import ImagePreprocess, KeyReport, LoadedModel
from tether.models.weights import load_backbone, read_weights
from tether.optional import require
from tether.words import nearest

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

_CLASSES = {"text": "SequenceClassification", "image": "ImageClassification"}
_PROBLEMS = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
          "pytorch_model.bin.index.json")  # fmt: skip


def load(name: str, config: TuneConfig, source: DataSource) -> LoadedModel:
    """A transformers classifier with a new head, its tokenizer or its preprocessing.

    Args:
        name: a hub name or a folder.
        config: ``weights``, ``model_args`` (they change the model's configuration),
            ``max_length``, ``image_size`` and ``seed`` are read.
        source: the data: texts or images, and the classes.

    Raises:
        ConfigError: no such model, one for other data, or arguments it does not know.
    """
    transformers = require("transformers", "text")
    check_kind(f"hf:{name}", ("text", "image"), source)
    args, image_args, pretrained = split_args(config.model_args)
    with nullcontext() if Path(name).is_dir() else hub_access():
        told = _configuration(transformers, name, args)
        _check_reads(transformers, told, name, source.kind)
        random = bool(config.weights) or pretrained is False
        old_names = list((getattr(told, "id2label", None) or {}).values())
        old_task = getattr(told, "problem_type", None)
        model, missing = _make(transformers, name, told, source.kind, config.seed, random)
        tokenizer = _tokenizer(transformers, name, model) if source.kind == "text" else None
        image = preprocessing(name, told) if source.kind == "image" else None
    head = _head(model, name)
    own = not random and not any(key.startswith(f"{head}.") for key in missing)
    kept = own and old_names == source.class_names and old_task in (None, _PROBLEMS[source.task])
    source_head = deepcopy(model.get_submodule(head)) if own and not kept else None
    if not kept:
        model.set_submodule(head, like_linear(model.get_submodule(head), len(source.class_names)))
        fresh_head(model.get_submodule(head), config.seed)
    _describe(model, source)
    keys = KeyReport(head=[f"{head}.{k}" for k in model.get_submodule(head).state_dict()])
    if not random:
        keys = _report(model, head, missing, own, kept)
    if config.weights:
        keys, source_head = load_backbone(
            model, read_weights(config.weights), [head], origin=f"weights {config.weights}"
        )
    if image is not None:
        _check_size(model, told, config.image_size, name)
        image = adjusted(image, image_args, size=config.image_size)
    loaded = _loaded(model, f"hf:{shown(name)}", head, source.task, source.class_names, tokenizer,
                     image, config.max_length)  # fmt: skip
    loaded.keys, loaded.source_head = keys, source_head
    return loaded


def load_saved(folder: Path, facts: Mapping[str, Any]) -> LoadedModel:
    """What :func:`load` made and its ``save`` wrote."""
    transformers = require("transformers", "text")
    kind = str(facts["kind"])
    told = _configuration(transformers, str(folder), {})
    model, _ = _make(transformers, str(folder), told, kind, 0, random=False)
    tokenizer = _tokenizer(transformers, str(folder), model) if kind == "text" else None
    return _loaded(
        model, facts["name"], facts["head"], facts["task"], facts["class_names"], tokenizer,
        image_of(dict(facts)), facts["max_length"],
    )  # fmt: skip


# -- making ----------------------------------------------------------------------------------------


def _configuration(transformers: Any, name: str, args: Mapping[str, Any]) -> Any:
    taken = {"num_labels", "id2label", "label2id", "problem_type"} & set(args)
    if taken:
        raise ConfigError(f"model_args {', '.join(sorted(taken))}: set by the data; leave out")
    try:
        told, unused = transformers.AutoConfig.from_pretrained(
            name, trust_remote_code=False, return_unused_kwargs=True, **args
        )
    except Exception as error:
        raise ConfigError(_absent(name, error)) from error
    unused = {k: v for k, v in unused.items() if k in args}
    if unused:
        known = [k for k in told.to_dict() if not k.startswith("_")]
        wrong = next(iter(unused))
        raise ConfigError(
            f"hf:{name} has no setting {wrong!r} (model_args){nearest(wrong, known, most=3)}"
        )
    return told


def _absent(name: str, error: Exception) -> str:
    first = first_line(error)
    if Path(name).is_dir():
        return f"{name} cannot be loaded with transformers: {first}"
    near = ""
    if "/" not in name:
        try:
            import timm

            if timm.models.is_model(name.partition(".")[0]):
                near = f" (timm has a model of that name: timm:{name})"
        except (ImportError, RuntimeError):
            near = ""
    return (
        f"the model {name!r} cannot be had from the hub: {first}{near}. Without network, give a "
        "local folder with config.json and model.safetensors as MODEL"
    )


def _check_reads(transformers: Any, told: Any, name: str, kind: str) -> None:
    """Refuse a model of pictures for texts, and the reverse."""
    auto = transformers.models.auto.modeling_auto
    known = {
        "text": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        "image": auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    }
    if type(told) in known[kind]:
        return
    other = "image" if kind == "text" else "text"
    does = f"it reads {other}s" if type(told) in known[other] else "it does neither"
    raise ConfigError(
        f"hf:{name} ({told.model_type}) cannot classify the data, which are {kind}s: {does}; "
        f"choose a model that has an AutoModelFor{_CLASSES[kind]}"
    )


def _make(
    transformers: Any, name: str, told: Any, kind: str, seed: int, random: bool
) -> tuple[Any, set[str]]:
    """The model with the head it came with, and the names that no file gave."""
    auto = getattr(transformers, f"AutoModelFor{_CLASSES[kind]}")
    if not random and Path(name).is_dir() and not any((Path(name) / f).is_file() for f in _FILES):
        raise ConfigError(
            f"{name} has no weights (model.safetensors): pass --weights FILE, or "
            "--model-args pretrained=false to start from random weights"
        )
    try:
        with seeded(seed), quiet(transformers):
            if random:
                model = auto.from_config(told, trust_remote_code=False)
                return model.float(), set()
            model, info = auto.from_pretrained(
                name, config=told, dtype=torch.float32, output_loading_info=True,
                trust_remote_code=False,
            )  # fmt: skip
    except Exception as error:
        raise ConfigError(_absent(name, error)) from error
    return model, set(info["missing_keys"])


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """No bars and no warnings about keys: our report says it in our words."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _head(model: nn.Module, name: str) -> str:
    try:
        return find_head(model, None, model.config.num_labels)[0]  # type: ignore[union-attr, arg-type]
    except TetherError as error:
        raise ConfigError(f"hf:{name} has no linear head: {error}") from error


def _tokenizer(transformers: Any, name: str, model: Any) -> Any:
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        first = first_line(error)
        raise ConfigError(
            f"{name} has no tokenizer that can be loaded ({first}); its folder must hold the "
            "files of one, for example tokenizer.json and tokenizer_config.json"
        ) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ConfigError(f"the tokenizer of {name} has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise ConfigError(
            f"the tokenizer of {name} has {len(tokenizer)} tokens, the model "
            f"{model.get_input_embeddings().num_embeddings}: they do not belong together"
        )
    return tokenizer


def _describe(model: Any, source: DataSource) -> None:
    """Let the model's configuration tell of the data's classes."""
    told, names = model.config, source.class_names
    told.num_labels = model.num_labels = len(names)
    told.id2label = dict(enumerate(names))
    told.label2id = {name: index for index, name in enumerate(names)}
    told.problem_type = _PROBLEMS[source.task]


def _check_size(model: Any, told: Any, size: int, name: str) -> None:
    fixed = getattr(told, "image_size", None)
    fixed = fixed[0] if isinstance(fixed, (list, tuple)) else fixed
    positions = any("position_embedding" in key for key in model.state_dict())
    if size and fixed and positions and size != fixed:
        raise ConfigError(
            f"hf:{name} has positions for images of {fixed} pixels; image_size {size} does not "
            "fit them, so leave it out (timm's vision transformers can be resized)"
        )


def _report(model: nn.Module, head: str, missing: set[str], own: bool, kept: bool) -> KeyReport:
    names = list(model.state_dict())
    mine = [k for k in names if k.startswith(f"{head}.")]
    rest = [k for k in names if k not in mine]
    return KeyReport(
        taken=[k for k in rest if k not in missing] + (mine if kept else []),
        head=[] if kept else mine,
        missing=[k for k in rest if k in missing],
        discarded=mine if own and not kept else [],
    )


# -- saving ----------------------------------------------------------------------------------------


def _how_to_load(kind: str) -> str:
    reader = "AutoTokenizer" if kind == "text" else "AutoImageProcessor"
    name = "tokenizer" if kind == "text" else "processor"
    auto = f"AutoModelFor{_CLASSES[kind]}"
    return (
        f"from transformers import {auto}, {reader}\n\n"
        f'model = {auto}.from_pretrained("FOLDER").eval()\n'
        f'{name} = {reader}.from_pretrained("FOLDER")\n'
        "class_names = model.config.id2label"
    )


def _loaded(
    model: Any, name: str, head: str, task: str, class_names: list[str], tokenizer: Any,
    image: ImagePreprocess | None, max_length: int,
) -> LoadedModel:  # fmt: skip
    accepted = frozenset(inspect.signature(model.forward).parameters)
    encoder = None
    if tokenizer is not None:
        encoder = TextEncoder(tokenizer, max_length, accepted, model.config)
    kind = "image" if encoder is None else "text"
    loaded = LoadedModel(
        model=model, library="transformers", name=name, kind=kind,
        input_name="input_ids" if encoder else first_argument(model), head=head, image=image,
        how_to_load=_how_to_load(kind), encode_text=encoder, pad=encoder.pad if encoder else None,
        task=task, class_names=list(class_names),
        save=lambda folder: _save(loaded, encoder, max_length, folder),
    )  # fmt: skip
    return loaded


def _save(loaded: LoadedModel, encoder: TextEncoder | None, max_length: int, folder: Path) -> None:
    model: Any = loaded.model
    sharded = any(hasattr(p, "full_tensor") for p in model.parameters())
    state = plain_state(model) if sharded else None

    def write(fresh: Path) -> None:
        with quiet(require("transformers", "text")):
            model.save_pretrained(fresh, state_dict=state)
        save_preprocessing(fresh, encoder, loaded.image)

    # Every rank has gathered above already.
    save_folder(folder, facts_of(loaded, max_length=max_length), write, lambda: None)
