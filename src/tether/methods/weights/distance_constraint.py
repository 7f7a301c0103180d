"""One ball for all layers round the pretrained weights (MARS-PGM and its Frobenius sister)."""

from __future__ import annotations

import math

from tether.catalogue import register
from tether.methods.weights.constraint import WeightConstraint


@register(
    "distance_constraint",
    kind="weights",
    paper="arXiv:2002.08253",
    needs=("reference",),
    cost="light",
    neutral={"radius": math.inf},
    example={"radius": 0.05, "head_radius": 1.0},
    search_space={"radius": ("log", 0.5, 33.1), "head_radius": ("log", 1.65, 33.1)},
)
class DistanceConstraint(WeightConstraint):
    """Keep every layer within one distance of its pretrained weights, by projection.

    Helps with few or wrongly labelled data: the bound holds whatever the learning rate and the
    number of steps, and a network that may not go far cannot memorise. Hurts where the target
    task is far from the pretrained one, or where the radius is too small: the network then
    underfits without a sign (watch ``share_at_bound`` of :meth:`measure`). Use no weight decay
    beside it: decay pulls towards zero, the ball stands round the start.

    After every optimiser step, for each kernel with ``T = W - W0``::

        fro:   W <- W0 + T min(1, r / |T|_F)
        mars:  W_j <- W0_j + T_j min(1, r / |T_j|_1)        for every output unit j
        batch norm, per channel:  q = gamma / sqrt(running_var + 1e-6) is clamped to q0 ± r
        head:  the same round zero, with a radius of its own

    Biases, embeddings and tensors of other than two or four dimensions are free. A point inside
    its ball is left bit for bit. A depthwise convolution counts one row a channel.

    Args:
        radius: radius of every layer but the head, >= 0; ``math.inf`` binds nothing, 0 freezes.
            There is no sensible default: take 0.3 to 0.7 of the distance that an unconstrained
            run travels (paper: tuned; 13.95 for ``"mars"``, 1.196 for ``"fro"`` on Pets with a
            ResNet-101). Radii do not carry over between architectures.
        head_radius: radius of the head's weight round zero; None leaves the head free (paper:
            tuned; 17.09 and 1.725). A freshly drawn linear head of K classes has a Frobenius norm
            near ``sqrt(K / 3)``: a smaller radius shrinks it at the first step.
        norm: ``"fro"`` (Frobenius) or ``"mars"`` (maximum absolute row sum; the paper's).
        method: for ``"mars"``: ``"radial"`` scales a row (the paper's code), ``"euclidean"`` goes
            to the nearest point of the l1 ball. The same for ``"fro"``.
        ratio: the radius is a share of the norm of the pretrained tensor (a row, a channel).
        include_norm_layers: bind the slopes of batch-norm layers, too.

    State:
        None of its own; the pretrained weights and running variances are the engine's.

    Cost:
        One pass over the bound weights a step, two where they must move, and a copy of w0.

    Raises:
        ValueError: a negative radius, an unknown norm or method.

    References:
        Henry Gouk, Timothy M. Hospedales, Massimiliano Pontil, "Distance-Based Regularisation of
        Deep Networks for Fine-Tuning", ICLR 2021, arXiv:2002.08253.

    Example:
        >>> DistanceConstraint(13.95, head_radius=17.09, norm="mars")
        DistanceConstraint(radius=13.95, head_radius=17.09, norm='mars')
    """

    def __init__(
        self,
        radius: float,
        head_radius: float | None = None,
        norm: str = "fro",
        method: str = "radial",
        ratio: bool = False,
        include_norm_layers: bool = True,
    ) -> None:
        self.radius = radius
        self.head_radius = head_radius
        self.norm = norm
        self.method = method
        self.ratio = ratio
        self.include_norm_layers = include_norm_layers
        self.check_options()

    def radius_of(self, group: str) -> float:
        """The one radius."""
        return self.radius

    def radius_of_head(self) -> float:
        """The head's radius; free where none was given."""
        return math.inf if self.head_radius is None else self.head_radius
