"""Regularized self-labelling: constraint, label correction and reweighting in one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from tether.catalogue import register
from tether.method import Method
from tether.methods.targets.confidence_reweighting import ConfidenceReweighting
from tether.methods.targets.self_label_correction import SelfLabelCorrection
from tether.methods.weights.layerwise_constraint import LayerwiseConstraint


@register(
    "regsl",
    kind="targets",
    paper="arXiv:2111.04578",
    needs=("class_labels", "index", "epochs", "reference"),
    cost="light",
    losses=("cross_entropy",),
    neutral={"reweighting_start_epoch": math.inf, "correction_start_epoch": math.inf},
    batch_statistics=True,
    example={
        "radius": 0.05,
        "growth": 1.5,
        "head_radius": 1.0,
        "reweighting_start_epoch": 2,
        "threshold": 0.3,
        "correction_start_epoch": 2,
    },
    search_space={
        "radius": ("log", 0.05, 11.0),
        "growth": ("log", 1.0, 5.0),
        "head_radius": ("log", 1.0, 24.0),
        "temperature": ("log", 0.5, 4.0),
    },
)
class RegSL(Method):
    """Bound the distance from the pretrained weights layer by layer, and mend the labels.

    Three methods in one: :class:`~tether.LayerwiseConstraint` (no memorising),
    :class:`~tether.ConfidenceReweighting` (doubtful samples pull less) and
    :class:`~tether.SelfLabelCorrection` (labels that are contradicted with confidence are
    replaced). Helps with few data and wrong labels. Hurts with radii that are too small: the
    network underfits, and corrections then follow an underfitted network.

    Radii have no sensible default: they come from the distances that a plain run travels
    (``radii_from_distances``, ratio 0.3 to 0.7). Without ``radius``, ``radii`` and
    ``head_radius`` only the two parts on labels act.

    Args:
        radius: radius of the first depth group; None: see above.
        growth: factor of the radius from one depth group to the next (default 1).
        head_radius: radius of the head round zero; None leaves it free.
        norm: ``"fro"`` or ``"mars"``.
        groups: wildcard of a parameter's name -> depth group.
        radii: depth group -> radius, or a JSON or YAML file with one.
        ratio: radii are shares of the norm of each pretrained tensor.
        exponents: powers of ``growth``, one a depth group.
        include_norm_layers: bind the slopes of batch-norm layers, too.
        temperature: first temperature of the reweighting (default and paper 2).
        reweighting_start_epoch: its first epoch, counted from 1 (default and paper 5).
        decay: fall of the temperature an epoch (default and paper 0.1).
        floor: smallest share of the temperature (default and paper 0.5).
        threshold: confidence above which a label is corrected (default and paper 0.9).
        correction_start_epoch: first epoch of corrections, from 1 (default and paper 10).

    State:
        That of the parts: two labels a sample.

    Cost:
        That of the parts: a pass over the bound weights, O(N K) on the outputs.

    Raises:
        ValueError: an option out of range.
        TetherError: radii or exponents do not fit the model's depth groups.

    References:
        Dongyue Li, Hongyang R. Zhang, "Improved Regularization and Robustness for Fine-tuning in
        Neural Networks", NeurIPS 2021, arXiv:2111.04578.

    Example:
        >>> len(RegSL(radius=2.0, growth=1.5, head_radius=5.0).expand())
        3
        >>> RegSL().expand()
        (SelfLabelCorrection(), ConfidenceReweighting())
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
        temperature: float = 2.0,
        reweighting_start_epoch: float = 5,
        decay: float = 0.1,
        floor: float = 0.5,
        threshold: float = 0.9,
        correction_start_epoch: float = 10,
    ) -> None:
        self.radius = radius
        self.growth = growth
        self.head_radius = head_radius
        self.norm = norm
        self.groups = groups
        self.radii = radii
        self.ratio = ratio
        self.exponents = exponents
        self.include_norm_layers = include_norm_layers
        self.temperature = temperature
        self.reweighting_start_epoch = reweighting_start_epoch
        self.decay = decay
        self.floor = floor
        self.threshold = threshold
        self.correction_start_epoch = correction_start_epoch
        self.expand()  # the parts check their options

    def expand(self) -> tuple[Method, ...]:
        """The parts; the constraint only where it has something to bind."""
        parts: tuple[Method, ...] = (
            SelfLabelCorrection(self.threshold, self.correction_start_epoch),
            ConfidenceReweighting(
                self.temperature, self.reweighting_start_epoch, self.decay, self.floor
            ),
        )
        if self.radius is None and self.radii is None and self.head_radius is None:
            return parts
        constraint = LayerwiseConstraint(
            radius=self.radius,
            growth=self.growth,
            head_radius=self.head_radius,
            norm=self.norm,
            groups=self.groups,
            radii=self.radii,
            ratio=self.ratio,
            exponents=self.exponents,
            include_norm_layers=self.include_norm_layers,
        )
        return (constraint, *parts)
