"""Radii as a share of the measured distances, in a file that the constraints take."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tether.encode.profile import Profile, measured_profile
from tether.errors import ConfigError

if TYPE_CHECKING:
    from tether.tuning.opened import OpenedRun

SUFFIXES = (".yaml", ".yml", ".json")
#: Significant figures of a radius.
DIGITS = 6


@dataclass(frozen=True)
class Constraints:
    """Radii for ``layerwise_constraint`` and ``regsl``, and what they were made of.

    Attributes:
        profile: the measured distances.
        ratio: share of them.
        head_ratio: share of the norm of the head; infinite where the head is free.
        radii: depth group -> radius of each of its weight tensors, ``head`` among them where it is
            bound.
    """

    profile: Profile
    ratio: float
    head_ratio: float
    radii: dict[str, float]

    @property
    def norm_option(self) -> dict[str, str]:
        """What the constraint must be told besides; nothing where its default does."""
        return {} if self.profile.norm == "fro" else {"norm": self.profile.norm}

    def write(self, path: str | Path) -> None:
        """Write YAML with comments, or JSON, whole or not at all.

        Raises:
            ConfigError: the name ends in something else, or the folder cannot be written to.
        """
        from tether.files import write_text

        path = check_output(path)
        text = self.as_json() if path.suffix.lower() == ".json" else self.as_yaml(path.name)
        try:
            write_text(path, text)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None

    def as_yaml(self, name: str = "constraints.yaml") -> str:
        """The text of a YAML file; its comments say where the numbers come from.

        Args:
            name: of the file, for the line that says how it is used.
        """
        p = self.profile
        free = math.isinf(self.head_ratio)
        more = "".join(f",{key}={value}" for key, value in self.norm_option.items())
        lines = [
            "# Radii for the depth groups of a network, written by tether encode.",
            f"#   run    {p.run} ({p.weights} weights, epoch {p.epoch:g}; distances from "
            f"{p.source})",
            f"#   norm   {p.norm}",
            f"#   ratio  {self.ratio:g} of the typical distance of a weight tensor of the group "
            f"({'largest' if p.norm == 'mars' else 'root mean square'})",
        ]
        if p.head is not None:
            how = "free" if free else f"{self.head_ratio:g} of its norm"
            lines.append(f"#   head   {how}; its norm was {_short(p.head)}")
        lines += [
            f"# Use: tether tune ... --method layerwise_constraint:radii={name}{more}",
            "radii:",
        ]
        measured = {**p.distances, **({} if p.head is None else {"head": p.head})}
        for group, radius in self.radii.items():
            key = json.dumps(group, ensure_ascii=False)
            lines.append(f"  {key}: {_yaml(radius)}  # moved {_short(measured[group])}")
        return "\n".join(lines) + "\n"

    def about(self) -> dict[str, Any]:
        """What the radii were made of, as plain values."""
        p = self.profile
        return {
            "run": p.run, "weights": p.weights, "epoch": p.epoch, "norm": p.norm,
            "ratio": self.ratio,
            "head_ratio": None if math.isinf(self.head_ratio) else self.head_ratio,
            "distances": p.distances, "head_norm": p.head,
        }  # fmt: skip

    def as_json(self) -> str:
        """The same as JSON."""
        return json.dumps({"about": self.about(), "radii": self.radii}, indent=2) + "\n"


def encode(
    run: str | Path | OpenedRun | Profile,
    *,
    ratio: float = 0.5,
    head_ratio: float = math.inf,
    weights: str = "best",
    norm: str = "fro",
) -> Constraints:
    """The measured profile of a run as radii of the depth groups; what ``tether encode`` does.

    A plain run goes far where its layers have to change and nowhere else. A share of the distance
    of each group as its radius keeps that shape in the next run and leaves no room to memorise.

    Args:
        run: a run folder, an opened run, or a profile that was measured before.
        ratio: share of the distances, above 0; 0.3 to 0.7 is usual.
        head_ratio: share of the norm of the head's weights, above 0; infinite leaves the head free.
        weights: ``"best"`` or ``"last"``.
        norm: ``"fro"`` or ``"mars"``.

    Raises:
        ConfigError: no finished run, nothing moved, or a ratio that is not above 0.

    Example:
        >>> profile = Profile("runs/a", "best", 3.0, "fro", {"l1": 2.0, "l2": 8.0}, 1.0, "weights")
        >>> encode(profile, ratio=0.5).radii
        {'l1': 1.0, 'l2': 4.0}
    """
    from tether.methods.weights.radii import radii_from_distances

    for name, value in (("ratio", ratio), ("head_ratio", head_ratio)):
        if not value > 0:
            raise ConfigError(f"option {name}: must be above 0, got {value:g}; 0.3 to 0.7 is usual")
    if math.isinf(ratio):
        raise ConfigError("option ratio: must be finite; without constraints leave the method out")
    profile = run if isinstance(run, Profile) else measured_profile(run, weights=weights, norm=norm)
    exact = radii_from_distances(profile.distances, ratio)
    if profile.head is not None and math.isfinite(head_ratio):
        exact |= radii_from_distances({"head": profile.head}, head_ratio)
    radii = {group: float(f"{radius:.{DIGITS}g}") for group, radius in exact.items()}
    return Constraints(profile, ratio, head_ratio, radii)


def check_output(path: str | Path) -> Path:
    """The file that is to be written.

    Raises:
        ConfigError: its name does not say JSON or YAML.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{path}: the name of the file must end in {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise ConfigError(f"{path}: there is a folder of this name")
    return path


def _short(value: float) -> str:
    return f"{value:.4g}"


def _yaml(value: float) -> str:
    """A number that YAML takes for one: 1e-05 is a text there."""
    text = repr(value)
    return text if "e" not in text or "." in text else text.replace("e", ".0e")
