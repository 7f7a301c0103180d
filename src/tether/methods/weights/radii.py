"""Radii of depth groups: from measured distances, from a file; groups by wildcard."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from pathlib import Path

from tether.errors import TetherError


def radii_from_distances(distances: Mapping[str, float], ratio: float) -> dict[str, float]:
    """Radii as a share of the distances that an unconstrained run travelled.

    Args:
        distances: depth group -> distance from the pretrained weights.
        ratio: share of it, > 0; 0.3 to 0.7 is usual.

    Raises:
        ValueError: ``ratio`` is not positive, or a distance is negative.

    Example:
        >>> radii_from_distances({"layer1": 2.0, "layer4": 8.0}, 0.5)
        {'layer1': 1.0, 'layer4': 4.0}
    """
    if not ratio > 0:
        raise ValueError(f"ratio must be > 0, got {ratio!r}")
    for group, distance in distances.items():
        if not distance >= 0:
            raise ValueError(f"the distance of {group!r} must be >= 0, got {distance!r}")
    return {group: ratio * distance for group, distance in distances.items()}


def read_radii(path: str | Path) -> dict[str, float]:
    """Radii of depth groups from a JSON or YAML file (a mapping, or one under ``radii``)."""
    text = Path(path).read_text(encoding="utf-8")
    if Path(path).suffix.lower() == ".json":
        content = json.loads(text)
    else:
        try:
            import yaml
        except (ImportError, RuntimeError) as error:
            raise TetherError(
                f"{path}: reading YAML needs pyyaml; install it or use JSON"
            ) from error
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(
                f"{path}: not valid YAML: {str(error).partition(chr(10))[0]}"
            ) from None
    content = content.get("radii", content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of depth group to radius")
    return check_radii(content, str(path))


def check_radii(radii: Mapping[str, float], where: str) -> dict[str, float]:
    """The radii as floats; anything but numbers >= 0 is refused."""
    for group, radius in radii.items():
        if isinstance(radius, bool) or not isinstance(radius, (int, float)) or not radius >= 0:
            raise ValueError(f"{where}: the radius of {group!r} must be a number >= 0: {radius!r}")
    return {str(group): float(radius) for group, radius in radii.items()}


def match_group(name: str, patterns: Mapping[str, str], default: str) -> str:
    """Group of the first wildcard that fits the name, else ``default``."""
    for pattern, group in patterns.items():
        if fnmatch.fnmatchcase(name, pattern):
            return group
    return default
