"""What the runs of a study share, computed once on each machine: decoded images, features.

A run reads its data from a folder of arrays (:mod:`tether.data.cache`) instead of from their
files: images decoded, or, where the network below the head is frozen, what the head sees.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from tether.compare.entries import FEATURE_OPTIONS
from tether.compare.fingerprints import located
from tether.data.cache import ABOUT, cache_images, cached
from tether.files import read_json
from tether.tuning.config import load_config
from tether.tuning.options import TuneConfig
from tether.tuning.run_folder import locked

_DATA = (
    "data", "task", "text_column", "image_column", "label_column", "label_separator",
    "domain_column", "true_label_column", "on_bad_sample",
)  # fmt: skip


def shared_data(
    config: TuneConfig, features_of: Mapping[str, Any], prints: Mapping[str, str], kind: str,
    folder: Path,
) -> TuneConfig:  # fmt: skip
    """The options of a run on what is shared; as they are where nothing is gained.

    Args:
        config: options of the run, paths filled in.
        features_of: options of the network whose features are trained on; empty: of none.
        prints: split -> hash of its contents, so that a cache never serves other data.
        kind: of the data: ``"image"``, ``"text"`` or ``"vector"``.
        folder: where caches are kept.
    """
    given = located(features_of)
    if not given and is_probe(config) and kind in ("image", "text"):
        given = {name: getattr(config, name) for name in FEATURE_OPTIONS}
        config = replace(
            config, model="tether:linear", weights="", model_args={}, image_size=0, freeze="",
            channels_last=False,
        )  # fmt: skip
    if config.domain_column:
        return config
    if given:
        from tether.models.features import cache_features

        network = load_config({**{name: getattr(config, name) for name in _DATA}, **given})
        place = folder / f"features-{_key(network, FEATURE_OPTIONS, prints)}"
        with alone(place):
            cache_features(network, place)
    elif kind == "image" and Path(config.data).suffix != ".npz":
        place = folder / f"images-{_key(config, (), prints)}"
        with alone(place):
            cache_images(config, place)
    else:
        return config
    about = read_json(place / ABOUT)
    return cached(config, place, about["task"], true=about["true_labels"])


def is_probe(config: TuneConfig) -> bool:
    """Whether nothing below the head is trained or looked at, so that features stay the same."""
    return config.freeze == "backbone" and not config.methods and not config.unlabelled


def _key(config: TuneConfig, options: tuple[str, ...], prints: Mapping[str, str]) -> str:
    parts = {name: getattr(config, name) for name in (*_DATA, *options)}
    if parts.get("weights"):
        about = Path(parts["weights"]).stat()
        parts["weights"] = [parts["weights"], about.st_size, about.st_mtime_ns]
    text = json.dumps([parts, dict(prints)], sort_keys=True, default=str)
    return blake2b(text.encode(), digest_size=8).hexdigest()


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """One process at a time fills a place; the others wait for it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.parent / f".{place.name}.lock", "a") as lock:
        while not locked(lock):
            time.sleep(0.1)
        yield
