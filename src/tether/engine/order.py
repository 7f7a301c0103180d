"""Order and compatibility of the methods in a recipe: one table, never the user's list order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tether.errors import TetherError
from tether.method import Method

#: A method stands in the band of the first moment it overrides, or that its record names.
BANDS = (
    "select", "augment", "mix", "attack", "relabel", "weigh", "penalise", "edit", "turn", "pull",
    "project", "average",
)  # fmt: skip
_MOMENT_BANDS = {
    "transform_batch": "mix",
    "transform_targets": "relabel",
    "weight_samples": "weigh",
    "penalty": "penalise",
    "edit_gradients": "edit",
    "after_step": "project",
}


def overrides(method: Method, moment: str) -> bool:
    """Whether a method acts at a moment."""
    return getattr(type(method), moment) is not getattr(Method, moment)


def band(method: Method) -> str:
    named = method.info.band
    if named:
        return named
    found = [b for moment, b in _MOMENT_BANDS.items() if overrides(method, moment)]
    return found[0] if found else "penalise"


def arrange(methods: Method | Iterable[Method]) -> dict[str, Method]:
    """Expand bundles, order by band and name, and give every method a unique name.

    Raises:
        TetherError: something is no method, two methods cannot be combined, or one object is
            given twice.
    """
    flat: list[Method] = []
    for given in [methods] if isinstance(methods, (Method, type, str)) else methods:
        if isinstance(given, type) and issubclass(given, Method):
            raise TetherError(f"{given.__name__} is a class: write {given.__name__}(...)")
        if not isinstance(given, Method):
            raise TetherError(f"{given!r} is not a tether method: see tether.create_method")
        if not hasattr(type(given), "info"):
            raise TetherError(f"{type(given).__name__} is not registered: use @register(...)")
        flat.extend(given.expand())
    if len({id(m) for m in flat}) < len(flat):
        raise TetherError("one method object is given twice: make a second one")
    flat.sort(key=lambda m: (BANDS.index(band(m)), m.info.name))
    _check_combination(flat)
    named: dict[str, Method] = {}
    for method in flat:
        name, count = method.info.name, 2
        while name in named:
            name, count = f"{method.info.name}_{count}", count + 1
        named[name] = method
    return named


def _check_combination(methods: Sequence[Method]) -> None:
    names = [m.info.name for m in methods]
    _check_mixing(methods)
    for position, method in enumerate(methods):
        others = names[:position] + names[position + 1 :]
        for rival in method.info.conflicts:
            if rival in others:
                raise TetherError(
                    f"{method.info.name!r} and {rival!r} cannot be combined: both claim the same "
                    "part of the step; leave one out"
                )
    replacing = [m.info.name for m in methods if overrides(m, "sample_loss")]
    if len(replacing) > 1:
        raise TetherError(f"only one method may replace the loss: {' and '.join(replacing)}")


def _check_mixing(methods: Sequence[Method]) -> None:
    """Blended rows are no sample's own, so that not every method can go by them."""
    mixing = [m.info.name for m in methods if m.info.mixes]
    if len(mixing) > 1:
        raise TetherError(
            f"{' and '.join(map(repr, mixing))} cannot be combined: both mix samples, and a mix of "
            "mixed rows has targets that neither knows; leave one out"
        )
    for method in methods if mixing else ():
        known = {"index": "the sample", "domains": "the domain", "views": "further views"}
        asked = [text for need, text in known.items() if need in method.info.needs]
        if asked and not (method.info.mixes or method.info.takes_mixed):
            raise TetherError(
                f"{method.info.name!r} and {mixing[0]!r} cannot be combined: {method.info.name} "
                f"goes by {asked[0]} of each row, and mixed rows are of two samples; leave one out"
            )
