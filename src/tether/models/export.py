"""The exported folder: what the library needs to load it, and what tether notes beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tether.errors import ConfigError
from tether.files import read_json, replaced_folder, write_json
from tether.models.folder import writes
from tether.models.spec import ImagePreprocess, LoadedModel

FACTS = "tether.json"  # libraries overlook it; predicting needs it
FORMAT = 1
WEIGHTS = "model.safetensors"


def facts_of(loaded: LoadedModel, **more: Any) -> dict[str, Any]:
    """What :data:`FACTS` says of a model; ``more`` are facts of one library."""
    return {
        "format": FORMAT,
        "library": loaded.library,
        "name": loaded.name,
        "kind": loaded.kind,
        "task": loaded.task,
        "class_names": list(loaded.class_names),
        "input_name": loaded.input_name,
        "head": loaded.head,
        "image": asdict(loaded.image) if loaded.image else None,
        "how_to_load": loaded.how_to_load.splitlines(),
        **more,
    }


def image_of(facts: dict[str, Any]) -> ImagePreprocess | None:
    """The preprocessing that facts tell."""
    told = facts.get("image")
    if told is None:
        return None
    fixed = {k: tuple(told[k]) for k in ("size", "mean", "std")}
    return ImagePreprocess(**{**told, **fixed})


def save_folder(
    folder: Path, facts: dict[str, Any], write: Callable[[Path], None], gather: Callable[[], object]
) -> None:
    """Write a model's folder as a whole, on the first rank only.

    Args:
        folder: replaced if it is there.
        facts: for :data:`FACTS`.
        write: puts the library's own files into a folder.
        gather: called on the other ranks, so that sharded tensors can be collected.
    """
    if not writes():
        gather()
        return
    with replaced_folder(folder) as fresh:
        write(fresh)
        write_json(fresh / FACTS, facts)


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts of an exported folder.

    Raises:
        ConfigError: it is not a folder that tether exported.
    """
    if not (folder / FACTS).is_file():
        raise ConfigError(
            f"{folder} is no model that tether exported: it has no {FACTS} (give a run folder, or "
            "the folder model/ in it)"
        )
    facts = read_json(folder / FACTS)
    if facts.get("format") != FORMAT:
        raise ConfigError(
            f"{folder / FACTS} has format {facts.get('format')!r}, this version of tether reads "
            f"{FORMAT}"
        )
    return facts


def model_folder(folder: str | Path) -> Path:
    """The model's folder of a run folder; any other folder is itself.

    Raises:
        ConfigError: a run folder without a model, or no folder at all.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    if (folder / "config.json").is_file():
        return folder
    if (folder / "model" / "config.json").is_file():
        return folder / "model"
    if (folder / "config.yaml").is_file():
        raise ConfigError(
            f"{folder} is a run folder without model/: the run did not finish, or ran with "
            "--export none"
        )
    return folder


def load_exported(folder: str | Path) -> LoadedModel:
    """Load what ``LoadedModel.save`` wrote, with its head, in evaluation mode.

    Args:
        folder: an exported model, or a run folder with ``model/`` in it.

    Raises:
        ConfigError: tether did not export it, or its library is not installed.
    """
    from tether.models import hf_models, own_models, timm_models, torchvision_models

    at = model_folder(folder)
    facts = read_facts(at)
    loaders = {
        "timm": timm_models.load_saved,
        "transformers": hf_models.load_saved,
        "torchvision": torchvision_models.load_saved,
        "tether": own_models.load_saved,
    }
    load = loaders.get(str(facts.get("library")))
    if load is None:
        raise ConfigError(f"{at / FACTS} names the unknown library {facts.get('library')!r}")
    loaded = load(at, facts)
    loaded.model.eval()
    return loaded
