"""The register of methods: one record a method, from which docs, CLI and contract tests come."""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from tether.method import Method

KINDS = ("weights", "features", "targets", "inputs", "gradients", "layers", "adapters")
NEEDS = (
    "features",  # the head's input
    "class_labels",  # class indices, class probabilities or multi-hot targets
    "index",  # the rows of the samples, and the size of the training set
    "reference",  # the pretrained weights w0
    "train_data",  # a pass over the training data before the first step
    "valid_data",  # validation data
    "epochs",  # to know in which epoch a step lies
    "horizon",  # the length of training: epochs or total_steps
    "source_head",  # the discarded head of the pretrained model
    "inputs",  # the arguments of the model's call
    "views",  # further views of each sample, augmented independently
    "domains",  # a domain index for each sample
    "unlabelled",  # a batch of inputs without labels
    "unlabelled_views",  # further views of each unlabelled input
    "pairs",  # a batch of preference pairs
)
#: Needs that come with each batch: entries of a dict batch, or arguments of ``reg.loss``.
ENTRIES = ("views", "domains", "unlabelled", "unlabelled_views", "pairs")
COSTS = ("free", "light", "forward", "heavy")
RANGES = ("log", "uniform", "int", "choice")


@dataclass(frozen=True)
class MethodInfo:
    """The record of a method.

    Attributes:
        name: registered name, lower case with underscores.
        cls: the class.
        kind: the room where it acts, one of ``KINDS``.
        paper: source, for example ``"arXiv:2403.10097"``.
        needs: what it asks of the engine, out of ``NEEDS``.
        cost: ``"free"`` (no work in the step), ``"light"`` (at most 5-10 % of a step),
            ``"forward"`` (further forwards or backwards), ``"heavy"`` (more).
        neutral: options under which training is bit-identical to plain fine-tuning.
        example: options for tests and documentation where a constructor has required ones.
        stochastic: draws random numbers.
        batch_statistics: normalises over the batch, so that accumulation and several ranks pool
            differently from one large batch.
        views: with the need ``"views"``: how many views of a sample it works on, the one that the
            loss is computed on among them; ``batch.extras["views"]`` holds the others.
        pooling: how token features become one row a sequence (``"mean"``), None: refuses tokens.
        losses: kinds of loss it works with; empty: all.
        conflicts: registered names it cannot be combined with.
        mixes: makes rows that are blends of several samples. At most one such method in a recipe,
            and none beside one that knows a row for one sample (needs ``"index"``, ``"domains"``
            or ``"views"``), but for those that say ``takes_mixed``.
        takes_mixed: is right on blended rows as well; ``batch.extras["mix"]`` says how they were
            blended, ``batch.extras["unmixed"]`` has the model's arguments before it.
        band: its place in the order of a step where its moments don't tell it (``"pull"`` before
            ``"project"``); see ``tether.engine.order``.
        exempt: contract checks it is excused from, with the reason (printed in the docs).
        search_space: option -> range for fair comparisons: ``("log", low, high)``,
            ``("uniform", low, high)``, ``("int", low, high)`` or ``("choice", a, b, ...)``.
    """

    name: str
    cls: type[Method]
    kind: str
    paper: str = ""
    needs: tuple[str, ...] = ()
    cost: str = "light"
    neutral: Mapping[str, Any] = field(default_factory=dict)
    example: Mapping[str, Any] = field(default_factory=dict)
    stochastic: bool = False
    batch_statistics: bool = False
    views: int = 2
    pooling: str | None = None
    losses: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    mixes: bool = False
    takes_mixed: bool = False
    band: str = ""
    exempt: Mapping[str, str] = field(default_factory=dict)
    search_space: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """First line of the class's docstring."""
        return (inspect.getdoc(self.cls) or "").partition("\n")[0]

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """Options of the constructor, in order."""
        parameters = dict(inspect.signature(self.cls).parameters)
        parameters.pop("self", None)
        return parameters


_METHODS: dict[str, MethodInfo] = {}
_loaded = False
_loading = threading.RLock()
M = TypeVar("M", bound="type[Method]")


def register(name: str, *, kind: str, **record: Any) -> Callable[[M], M]:
    """Enter a method class in the register, under ``name``; see :class:`MethodInfo`.

    Raises:
        ValueError: the name is taken or badly formed, or the record names unknown needs.
    """
    if not name.isidentifier() or name != name.lower():
        raise ValueError(f"method name {name!r}: use lower case with underscores")
    if kind not in KINDS:
        raise ValueError(f"method {name!r}: kind {kind!r} is not one of {', '.join(KINDS)}")
    unknown = set(record.get("needs", ())) - set(NEEDS)
    if unknown:
        raise ValueError(f"method {name!r}: unknown needs {sorted(unknown)}; known: {NEEDS}")
    if record.get("cost", "light") not in COSTS:
        raise ValueError(f"method {name!r}: cost must be one of {', '.join(COSTS)}")
    if record.get("views", 2) < 2:
        raise ValueError(f"method {name!r}: views counts the sample's own one: at least 2")
    for option, values in record.get("search_space", {}).items():
        if values[0] not in RANGES:
            raise ValueError(f"method {name!r}: the range of {option!r} is one of {RANGES}")

    def enter(cls: M) -> M:
        taken = _METHODS.get(name)
        if taken is not None and taken.cls.__qualname__ != cls.__qualname__:
            raise ValueError(
                f"method name {name!r} is taken by {taken.cls.__module__}.{taken.cls.__qualname__}"
            )
        cls.info = _METHODS[name] = MethodInfo(name=name, cls=cls, kind=kind, **record)
        return cls

    return enter


def _load() -> None:
    """Import our methods, then third parties' (entry points in the group ``tether.methods``)."""
    global _loaded
    with _loading:  # a second thread waits until all are there
        if _loaded:
            return
        _loaded = True  # a module that asks for the methods while it is loaded gets those so far
        import_module("tether.methods")
        for point in entry_points(group="tether.methods"):
            point.load()


def list_methods(pattern: str = "*", *, kind: str | None = None) -> list[str]:
    """Names of the registered methods that match a wildcard, sorted.

    Example:
        >>> list_methods("*_constraint")
        ['distance_constraint', 'layerwise_constraint', 'rate_constraint']
    """
    _load()
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
    return sorted(
        name
        for name, info in _METHODS.items()
        if fnmatch.fnmatchcase(name, pattern) and kind in (None, info.kind)
    )


def method_info(name: str) -> MethodInfo:
    """The record of a registered method; an unknown name raises with the nearest one."""
    _load()
    if name not in _METHODS:
        near = difflib.get_close_matches(name, _METHODS, n=1)
        count = f"tether.list_methods() gives the {len(_METHODS)} there are"
        hint = f"did you mean {near[0]!r}?" if near else count
        raise ValueError(f"unknown method {name!r}: {hint}")
    return _METHODS[name]


def create_method(name: str, **options: Any) -> Method:
    """Make a method from its registered name and options; unknown options raise with a hint.

    Example:
        >>> create_method("feature_norm", weight=0.5)
        FeatureNormPenalty(weight=0.5)
    """
    info = method_info(name)
    known = info.options
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"options: {', '.join(known)}"
            raise ValueError(f"method {name!r} has no option {option!r}: {hint}")
    missing = [p.name for p in known.values() if p.default is p.empty and p.name not in options]
    if missing:
        raise ValueError(f"method {name!r} needs the option {missing[0]!r}")
    return info.cls(**options)
