"""Balls round the pretrained weights that widen with depth (the constraint of RegSL)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tether.catalogue import register
from tether.errors import TetherError
from tether.methods.weights.constraint import WeightConstraint
from tether.methods.weights.radii import check_radii, match_group, read_radii
from tether.words import nearest

if TYPE_CHECKING:
    from tether.engine.context import Context


@register(
    "layerwise_constraint",
    kind="weights",
    paper="arXiv:2111.04578",
    needs=("reference",),
    cost="light",
    neutral={"radius": math.inf},
    example={"radius": 0.05, "growth": 1.5, "head_radius": 1.0},
    search_space={
        "radius": ("log", 0.05, 11.0),
        "growth": ("log", 1.0, 5.0),
        "head_radius": ("log", 1.0, 24.0),
    },
)
class LayerwiseConstraint(WeightConstraint):
    """Keep every layer near its pretrained weights, lower layers nearer than higher ones.

    Helps with few or wrongly labelled data: the general lower layers stay, the specific higher
    ones may move; a network held back like this cannot memorise wrong labels. Hurts where radii
    are too small: the network underfits without a sign (watch ``share_at_bound`` of
    :meth:`measure`). Use no weight decay beside it.

    The problem solved is ``min loss`` subject to ``|W_i - W0_i| <= D_i``, by projection after
    every optimiser step; a weight tensor of depth group ``k`` has the radius ``radius growth^k``
    with ``k = 0`` for the first group after the stem. Each tensor has its own ball, the group
    only its radius. The stem, biases, embeddings and tensors of other than two or four dimensions
    are free. Batch norms are clamped channel by channel to ``q0 ± D`` with
    ``q = gamma / sqrt(running_var + 1e-6)``; the head is projected round zero. A point inside its
    ball is left bit for bit.

    Args:
        radius: radius of the first depth group, >= 0; ``math.inf`` binds nothing. None: only
            ``radii`` and ``head_radius`` bind. Paper: tuned for each data set, 0.05 to 11.
        growth: factor from one depth group to the next, > 0 (default 1; paper: 1 to 5, tuned).
        head_radius: radius of the head's weight round zero; None leaves it free (paper: 1 to 24).
            A fresh head of K classes has a Frobenius norm near ``sqrt(K / 3)``.
        norm: ``"fro"`` (the paper's) or ``"mars"`` (per output row).
        groups: wildcard of a parameter's name -> depth group, in place of the engine's groups;
            the first that fits counts. A group called ``"stem"`` is free.
        radii: depth group -> radius, or the path of a JSON or YAML file with one; it wins over
            ``radius``. The keys ``"stem"`` and ``"head"`` may be used.
        ratio: radii are shares of the norm of each pretrained tensor (row, channel); the head's
            stays absolute.
        exponents: powers of ``growth`` in order of depth, one a group, in place of 0, 1, 2, ...;
            ``(0, 0, 1, 2)`` is what the paper's code has for a ResNet.
        include_norm_layers: bind the slopes of batch-norm layers, too.

    State:
        None of its own; the pretrained weights and running variances are the engine's.

    Cost:
        One pass over the bound weights a step, two where they must move, and a copy of w0.

    Raises:
        ValueError: nothing is bound, a negative radius, an unknown norm.
        TetherError: ``radii`` or ``exponents`` do not fit the model's depth groups.

    References:
        Dongyue Li, Hongyang R. Zhang, "Improved Regularization and Robustness for Fine-tuning in
        Neural Networks", NeurIPS 2021, arXiv:2111.04578.

    Example:
        >>> LayerwiseConstraint(0.2, growth=4.7, head_radius=23.8)
        LayerwiseConstraint(radius=0.2, growth=4.7, head_radius=23.8)
    """

    def __init__(
        self,
        radius: float | None = None,
        growth: float = 1.0,
        head_radius: float | None = None,
        norm: str = "fro",
        groups: Mapping[str, str] | None = None,
        radii: Mapping[str, float] | str | Path | None = None,
        ratio: bool = False,
        exponents: Sequence[float] | None = None,
        include_norm_layers: bool = True,
    ) -> None:
        if radius is None and radii is None and head_radius is None:
            raise ValueError("layerwise_constraint needs a radius, radii or a head_radius")
        if not growth > 0:
            raise ValueError(f"growth must be > 0, got {growth!r}")
        self.radius = radius
        self.growth = growth
        self.head_radius = head_radius
        self.norm = norm
        self.groups = groups
        self.radii = radii
        self.ratio = ratio
        self.exponents = exponents
        self.include_norm_layers = include_norm_layers
        self._given: dict[str, float] = {}
        if isinstance(radii, Mapping):
            self._given = check_radii(radii, "radii")
        self.check_options()

    def group_of(self, name: str, group: str) -> str:
        """The group of the first of ``groups`` that fits, else the engine's."""
        return match_group(name, self.groups or {}, group)

    def setup(self, ctx: Context) -> None:
        """Work out the radius of each depth group, then the balls."""
        if self.radii is not None and not isinstance(self.radii, Mapping):
            self._given = self._read(ctx.name, self.radii)
        body = sorted((ref for ref in ctx.weights() if not ref.is_head), key=lambda ref: ref.depth)
        stages = list(dict.fromkeys(self.group_of(ref.name, ref.group) for ref in body))
        unknown = sorted(set(self._given) - {*stages, "head"})
        if unknown:
            raise TetherError(
                f"{ctx.name}: radii name the groups {', '.join(unknown)}, which the model lacks"
                f"{nearest(unknown[0], [*stages, 'head'])}; its depth groups are "
                f"{', '.join([*stages, 'head'])}"
            )
        grown = [stage for stage in stages if stage != "stem"]
        powers = range(len(grown)) if self.exponents is None else self.exponents
        if len(powers) != len(grown):
            raise TetherError(
                f"{ctx.name}: {len(powers)} exponents for {len(grown)} depth groups: "
                f"{', '.join(grown)}; give one a group"
            )
        base = math.inf if self.radius is None else self.radius
        self._radii = {
            stage: base * self.growth**power if math.isfinite(base) else math.inf
            for stage, power in zip(grown, powers, strict=True)
        } | self._given
        super().setup(ctx)

    @staticmethod
    def _read(name: str, path: str | Path) -> dict[str, float]:
        try:
            return read_radii(path)
        except OSError as error:
            raise TetherError(f"{name}: radii: {path}: {error.strerror}") from None
        except ValueError as error:
            raise TetherError(f"{name}: radii: {error}") from None

    def radius_of(self, group: str) -> float:
        """The group's radius; the stem is free unless ``radii`` names it."""
        return self._radii.get(group, math.inf)

    def radius_of_head(self) -> float:
        """``head_radius``, else the entry ``head`` of ``radii``, else free."""
        if self.head_radius is not None:
            return self.head_radius
        return self._given.get("head", math.inf)
