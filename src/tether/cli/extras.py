"""The extras of the package, and what of them is installed."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Imported name -> distribution, where they differ.
DISTRIBUTIONS = {"PIL": "pillow", "ot": "POT", "sklearn": "scikit-learn", "yaml": "pyyaml"}
COMMON = ("text", "vision", "cli")
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_BOUND = re.compile(r"(>=|<=|==|!=|~=|<|>)\s*([\w.*+!-]+)")


@dataclass(frozen=True)
class Requirement:
    """A distribution that another one asks for.

    Attributes:
        name: the distribution.
        versions: the allowed ones, as written.
        installed: the one that is there; empty: none.
    """

    name: str
    versions: str
    installed: str

    @property
    def met(self) -> bool:
        """Whether a version that fits is installed."""
        return bool(self.installed) and fits(self.installed, self.versions)


def requirements(distribution: str, extra: str = "") -> list[Requirement]:
    """What an installed distribution asks for: always, or for one of its extras."""
    from importlib import metadata

    found = []
    for line in metadata.requires(distribution) or []:
        named, parts = _EXTRA.search(line), _REQUIREMENT.match(line)
        if parts is not None and (named[1] if named else "") == extra:
            found.append(Requirement(parts[1], parts[2].strip(), version_of(parts[1])))
    return found


def extras() -> dict[str, list[Requirement]]:
    """Extra -> what it asks for; development's own is left out."""
    from importlib import metadata

    names = metadata.metadata("tether").get_all("Provides-Extra") or []
    return {name: requirements("tether", name) for name in names if name != "dev"}


def extra_of(package: str) -> str:
    """The extra that brings a package, by its imported name; empty where none does."""
    name = DISTRIBUTIONS.get(package, package).replace("_", "-").lower()
    found = [
        extra for extra, asked in extras().items() if any(one.name.lower() == name for one in asked)
    ]
    # Several bring it: the one that most people want.
    return next((extra for extra in (*COMMON, *found) if extra in found), "")


def version_of(name: str) -> str:
    """Installed version of a distribution; empty where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def fits(version: str, bounds: str) -> bool:
    """Whether a version lies within bounds such as ``>=5,<6``.

    Example:
        >>> fits("5.1.0", ">=5,<6"), fits("2.14.1+cpu", "==2.14.1"), fits("2.9", ">=2.14.0")
        (True, True, False)
    """
    for sign, bound in _BOUND.findall(bounds):
        there, asked = _numbers(version), _numbers(bound)
        if sign == "==" or bound.endswith("*"):
            there = there[: len(asked)]
        size = max(len(there), len(asked))
        a, b = (numbers + (0,) * (size - len(numbers)) for numbers in (there, asked))
        fine = {
            ">=": a >= b, "<=": a <= b, "==": a == b, "!=": a != b, ">": a > b, "<": a < b,
            "~=": a >= b and a[: len(asked) - 1] == b[: len(asked) - 1],
        }  # fmt: skip
        if not fine[sign]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
