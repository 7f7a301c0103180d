"""Parts of a study as they are written: models, data sets, and methods under a label."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tether.compare.space import Range, read_range
from tether.errors import ConfigError
from tether.tuning.method_spec import entry, normal_methods
from tether.tuning.table import FIELDS, entries
from tether.tuning.values import split_top
from tether.words import nearest

PROBE = "linear probe"
#: Options of a run that the comparison sets itself.
OURS = (
    "model", "data", "methods", "output_dir", "seed", "export", "eval_metric", "noise", "shots",
    "report_to", "patience",
)  # fmt: skip
#: Options that say which network makes features, and how it sees its inputs.
FEATURE_OPTIONS = ("model", "weights", "model_args", "image_size", "max_length")
_PLUS = re.compile(r"\+(?=\s*[A-Za-z_])")


@dataclass(frozen=True)
class Named:
    """A model or a data set.

    Attributes:
        name: short, for tables.
        settings: the options of ``tether tune`` that make it.
        features_of: of a model that is trained on the features of a frozen one: the options that
            make that one (``model``, ``weights``, ...).
    """

    name: str
    settings: Mapping[str, Any]
    features_of: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """One line of the comparison: methods that act together, under a label.

    Attributes:
        label: name in tables.
        methods: as ``tether tune`` takes them; none: plain fine-tuning.
        settings: further options of its runs.
        space: its own ranges, which win over the registry's.
    """

    label: str
    methods: tuple[Any, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Range] = field(default_factory=dict)


def read_options(given: Any, where: str, only_not: tuple[str, ...] = OURS) -> dict[str, Any]:
    """Options of ``tether tune``, without those that the comparison sets itself."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"expected 'option: value' lines{where}, got {given!r}")
    found = entries(given, where)
    for key in found:
        if key in only_not:
            raise ConfigError(f"option {key} cannot stand{where}: the comparison sets it")
    return found


def read_named(what: str, key: str, given: Any, where: str) -> tuple[Named, ...]:
    """Models or data sets: names, or mappings with options of their own."""
    found = []
    for one in as_list(given, mapping=False):
        if isinstance(one, Mapping):
            rest = dict(one)
            own = str(rest.pop("name", "") or "")
            of = _features_of(rest.pop("features_of", None), where) if key == "model" else {}
            ours = tuple(name for name in OURS if name != key)
            settings = read_options(rest, f" under {what}{where}", ours)
            if not settings.get(key):
                raise ConfigError(f"{what}: an entry has no {key}:{where}: {one!r}")
        else:
            own, settings, of = "", {key: str(one)}, {}
        found.append(Named(own or short_name(settings[key]), settings, of))
    return tuple(found)


def _features_of(given: Any, where: str) -> dict[str, Any]:
    """A model's name, or a mapping with its options."""
    if given is None:
        return {}
    place = f" under features_of{where}"
    ours = tuple(name for name in OURS if name != "model")
    found = read_options({"model": given} if isinstance(given, str) else given, place, ours)
    for name in found:
        if name not in FEATURE_OPTIONS:
            hint = nearest(name, FEATURE_OPTIONS, before=": ", listing=True)
            raise ConfigError(f"option {name} does not bear on features{place}{hint}")
    if not found.get("model"):
        raise ConfigError(f"features_of: a model is missing{where}")
    return found


def short_name(text: str) -> str:
    """A model or data set by the end of its path or name.

    Example:
        >>> short_name("$TETHER_SHARED/data/trec"), short_name("timm:resnet18.a1_in1k")
        ('trec', 'resnet18.a1_in1k')
    """
    end = Path(text.rpartition(":")[2] or text).name
    return re.sub(r"\.(csv|tsv|parquet|json|jsonl|npz|safetensors)$", "", end) or text


def read_entries(given: Any, where: str) -> tuple[Entry, ...]:
    """The methods of a study: a text, a list, or a mapping from labels."""
    if isinstance(given, str):
        given = split_methods(given)
    if isinstance(given, Mapping):  # label -> what it is
        given = [{label: about} for label, about in given.items()]
    if not isinstance(given, (list, tuple)):
        raise ConfigError(f"methods: expected a list{where}, got {given!r}")
    return tuple(_entry(one, where) for one in given)


def split_methods(text: str) -> list[str]:
    """``a,b:x=1,y=2,c+d`` at the commas between methods.

    Example:
        >>> split_methods("plain, elr:weight=3,beta=0.7, adarand+elr")
        ['plain', 'elr:weight=3,beta=0.7', 'adarand+elr']
    """
    found: list[str] = []
    for part in split_top(text):
        is_option = "=" in part and ":" not in part.partition("=")[0]
        if is_option and found:
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    return found


def _entry(given: Any, where: str) -> Entry:
    if isinstance(given, Entry):
        return given
    if isinstance(given, str):
        return replace(_written(given, where), label=given.strip())
    if not isinstance(given, Mapping) or len(given) != 1:
        raise ConfigError(f"methods: {given!r} is no method{where}: write NAME or LABEL: {{…}}")
    label, about = next(iter(given.items()))
    label = str(label).strip()
    if about is None:
        return _entry(label, where)
    if isinstance(about, str):
        return replace(_written(about, where), label=label)
    if not isinstance(about, Mapping):
        raise ConfigError(f"methods: {label}: expected settings{where}, got {about!r}")
    known = ("methods", "settings", "space")
    for key in about:
        if str(key) not in known:
            hint = nearest(str(key), known, before=": ", listing=True)
            raise ConfigError(f"methods: {label}: unknown key {key!r}{where}{hint}")
    base = _written(label, where) if about.get("methods") is None else None
    methods = base.methods if base else _methods(about["methods"], where)
    place = f" under methods: {label}{where}"
    settings = {**(base.settings if base else {}), **read_options(about.get("settings", {}), place)}
    space = about.get("space") or {}
    if not isinstance(space, Mapping):
        raise ConfigError(f"space: expected 'option: range' lines{place}, got {space!r}")
    ranges = {str(key): read_range(str(key), value) for key, value in space.items()}
    return Entry(label, methods, settings, _own_ranges(ranges, methods, label))


def _written(text: str, where: str) -> Entry:
    """``a+b:x=1``; ``plain`` and ``linear probe`` are entries without methods."""
    name = text.strip()
    if name.replace("_", " ") == PROBE:
        return Entry(name, (), {"freeze": "backbone", "head_lr_mult": 1.0})
    return Entry(name, _methods(_PLUS.split(name), where))


def _methods(given: Any, where: str) -> tuple[Any, ...]:
    if isinstance(given, str):
        given = _PLUS.split(given)
    parts = [p for one in as_list(given, mapping=False) for p in _pieces(one)]
    return tuple(normal_methods(parts, f" (methods{where})"))


def _pieces(one: Any) -> list[Any]:
    return [part.strip() for part in _PLUS.split(one)] if isinstance(one, str) else [one]


def _own_ranges(
    ranges: Mapping[str, Range], methods: tuple[Any, ...], label: str
) -> dict[str, Range]:
    """Ranges by ``METHOD.option`` or by an option of the runs; a lone method needs no name."""
    names = [entry(one)[0] for one in methods]
    found = {}
    for key, value in ranges.items():
        full = key
        if "." not in key and key not in FIELDS and len(names) == 1:
            full = f"{names[0]}.{key}"
        name = full.partition(".")[0]
        if full not in FIELDS and name not in names:
            hint = nearest(key, [*FIELDS, *(f"{n}." for n in names)])
            raise ConfigError(
                f"methods: {label}: space {key!r} names neither METHOD.option nor an option of "
                f"tether tune{hint}"
            )
        found[full] = value
    return found


def as_list(given: Any, mapping: bool = True) -> list[Any]:
    """A list as it is, a text at its commas, anything else alone."""
    if isinstance(given, str):
        return split_top(given) if given.strip() else [""]
    if isinstance(given, Mapping) and not mapping:
        return [given]
    return list(given) if isinstance(given, (list, tuple)) else [given]
