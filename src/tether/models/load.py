"""Find the library that a model's name belongs to, and load it with a head for the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file

from tether.data.table import DataSource
from tether.errors import ConfigError
from tether.files import read_json
from tether.models import hf_models, own_models, timm_models, torchvision_models
from tether.models.export import FACTS, WEIGHTS, model_folder, read_facts
from tether.models.spec import LoadedModel
from tether.words import nearest

if TYPE_CHECKING:
    from tether.tuning.options import TuneConfig

_LOADERS: dict[str, Callable[[str, TuneConfig, DataSource], LoadedModel]] = {
    "timm": timm_models.load,
    "hf": hf_models.load,
    "torchvision": torchvision_models.load,
    "tether": own_models.load,
    "demo": own_models.load,
}


def load_model(config: TuneConfig, source: DataSource) -> LoadedModel:
    """Load ``config.model`` with a new head that has an output for each of the data's classes.

    ``timm:NAME``, ``hf:NAME``, ``torchvision:NAME``, ``tether:NAME`` and ``demo:NAME`` name the
    library; a bare name is looked up on the hub as one of transformers, ``timm/NAME`` as one of
    timm. A directory may hold a model of transformers (``config.json`` with ``model_type``), of
    timm (with ``architecture``), one that tether exported, or a run of tether (then its
    ``model/``).

    The new head follows from ``config.seed`` alone: weights N(0, 0.02²), bias zero. A head whose
    class names are exactly the data's, in their order, is kept instead (no ``keys.head``); any
    other goes to ``source_head``. The global random state is left as it was.

    Args:
        config: ``model``, ``weights``, ``model_args``, ``image_size``, ``max_length`` and
            ``seed`` are read.
        source: what was read of the data: their kind, their task and their classes.

    Raises:
        ConfigError: no such model, weights that do not belong to it or cannot be had, or a model
            that cannot read such data. One message says what to do.
    """
    if not config.model:
        raise ConfigError(
            "no model was named: give timm:NAME, hf:NAME, torchvision:NAME, demo:NAME, a hub "
            "name or a directory"
        )
    prefix, colon, rest = config.model.partition(":")
    if colon and prefix in _LOADERS:
        if not rest:
            raise ConfigError(f"model {config.model!r}: a name is missing after the colon")
        return _LOADERS[prefix](rest, config, source)
    place = Path(config.model).expanduser()
    if place.is_dir():
        return _from_folder(place, config, source)
    if config.model.startswith((".", "/", "~")) or place.exists():
        what = "is a file; weights go to --weights" if place.exists() else "does not exist"
        raise ConfigError(f"model {config.model}: the directory {what}")
    if colon:
        raise ConfigError(
            f"model {config.model!r}: unknown library {prefix!r}{nearest(prefix, _LOADERS)} "
            f"(known: {', '.join(_LOADERS)})"
        )
    if config.model.startswith("timm/"):
        return timm_models.load(config.model, config, source)
    return hf_models.load(config.model, config, source)


def _from_folder(place: Path, config: TuneConfig, source: DataSource) -> LoadedModel:
    folder = model_folder(place)
    if not (folder / "config.json").is_file():
        held = sorted(path.name for path in folder.iterdir())[:5]
        raise ConfigError(
            f"model {place} has no config.json, so what it holds is unknown (there is "
            f"{', '.join(held) or 'nothing'}); for a file of weights, name the model and pass "
            "--weights FILE"
        )
    told = read_json(folder / "config.json")
    if "model_type" in told:
        return hf_models.load(str(folder), config, source)
    if "architecture" in told:
        return timm_models.load(f"local-dir:{folder}", config, source)
    if (folder / FACTS).is_file():
        return _exported(folder, config, source)
    raise ConfigError(
        f"model {place}: its config.json has neither model_type (transformers) nor architecture "
        "(timm), and tether did not export it"
    )


def _exported(folder: Path, config: TuneConfig, source: DataSource) -> LoadedModel:
    """A network of torchvision or of tether: made anew, with the folder's backbone."""
    facts = read_facts(folder)
    prefix, _, name = str(facts["name"]).partition(":")
    if prefix not in _LOADERS:
        raise ConfigError(f"{folder / FACTS} names the unknown model {facts['name']!r}")
    image = facts.get("image") or {}
    told = {k: image[k] for k in ("mean", "std", "crop_pct", "interpolation") if k in image}
    again = replace(
        config,
        model=str(facts["name"]),
        model_args={**told, **facts["args"], **config.model_args},
        weights=config.weights or str(folder / WEIGHTS),
        image_size=config.image_size or (image["size"][0] if image else 0),
    )
    loaded = _LOADERS[prefix](name, again, source)
    same = facts["class_names"] == source.class_names and facts["task"] == source.task
    if same and not config.weights and loaded.keys is not None:
        keys, state = loaded.keys, load_file(folder / WEIGHTS)
        loaded.model.load_state_dict({k: state[k] for k in keys.head}, strict=False)
        keys.taken, keys.head, keys.discarded = keys.taken + keys.head, [], []
        loaded.source_head = None
    return loaded
