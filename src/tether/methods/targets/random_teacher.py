"""Random teachers: match the features of a frozen network that was never trained (a diagnostic)."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.batch import Batch
from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.targets.random_networks import (
    ProjectionHead,
    distillation_cross_entropy,
    interpolate_init_,
    random_teacher,
)
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context


@register(
    "random_teacher",
    kind="targets",
    paper="arXiv:2302.12091",
    needs=("features", "inputs"),
    cost="forward",
    losses=("cross_entropy", "mse"),
    neutral={"weight": 0.0, "alpha": 1.0, "output_dim": 64, "hidden_dim": 32},
    example={"alpha": 0.5, "output_dim": 64, "hidden_dim": 32},
    exempt={"shards": "a whole teacher does not go with fully_shard, and is refused"},
    search_space={"weight": ("log", 0.01, 10.0), "alpha": ("uniform", 0.0, 1.0)},
)
class RandomTeacher(Method):
    """Match a frozen network of random weights: a diagnostic, and experimental.

    It OVERWRITES the weights of the model when it is attached: they become those of the teacher
    (alpha 0), or lie between its and their own. The question it serves is what distillation does
    where the teacher knows nothing: a control for other methods with teachers, and a start without
    labels for networks of random weights. Never for pretrained ones, whose features it destroys.
    On small data with small heads we saw no gain in the features, only a divergence that falls;
    the published one needs images of CIFAR's size, wide convolutions and the large head. To train
    without labels, give the label -100. Weight decay changes what the student tends to.

    With features f of the student in training mode and f_t of the teacher in evaluation mode, and
    a head h (two hidden layers, a bottleneck of unit length, cosines with ``output_dim``
    directions), the student's trained and the teacher's frozen::

        start:    w_s = ((1 - alpha) w_t + alpha w) / sqrt(alpha^2 + (1 - alpha)^2)
        penalty = -mean_i sum_k q_ik log p_ik,   p = softmax(h_s(f) / tau_s),
                                                 q = softmax(h_t(f_t) / tau_t)

    With alpha 0, and neither batch norm nor dropout, it is least at once and has no gradient. It
    has a floor, the teacher's entropy: :meth:`measure` tells the divergence above it.

    Args:
        weight: strength, >= 0, schedulable (default and paper 1).
        alpha: distance of the student from the teacher at the start, in [0, 1] (default and paper
            0; small values are the paper's "locality").
        variance_preserving: divide by the square root (default on); off: plain interpolation.
        tau_s: temperature of the student, > 0 (default and paper 1).
        tau_t: temperature of the teacher, > 0 (default and paper 1).
        output_dim: directions of the head (default and paper 65536; 4096 for small runs).
        hidden_dim: width of its hidden layers (default and paper 2048).
        teacher_seed: of the teacher and of its head.

    Shape:
        features ``[N, d]``.

    State:
        The teacher, its head, the student's head and its optimiser; ``divergence`` of the last
        batch.

    Cost:
        A forward of the teacher, and two heads: ``N output_dim`` numbers twice.

    Raises:
        ValueError: an option out of range.
        TetherError: parameters are sharded.

    References:
        Felix Sarnthein, Gregor Bachmann, Sotiris Anagnostidis, Thomas Hofmann, "Random Teachers
        are Good Teachers", ICML 2023, arXiv:2302.12091.

    Example:
        >>> RandomTeacher(alpha=0.2)
        RandomTeacher(alpha=0.2)
    """

    divergence: Tensor

    def __init__(
        self, weight: ScheduleLike = 1.0, alpha: float = 0.0, variance_preserving: bool = True,
        tau_s: float = 1.0, tau_t: float = 1.0, output_dim: int = 65536, hidden_dim: int = 2048,
        teacher_seed: int = 0,
    ) -> None:  # fmt: skip
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if not 0.0 <= alpha <= 1.0:
            raise ValueError(f"alpha must lie in [0, 1], got {alpha!r}")
        for name, tau in (("tau_s", tau_s), ("tau_t", tau_t)):
            if not tau > 0:
                raise ValueError(f"{name} must be > 0, got {tau!r}")
        for name, size in (("output_dim", output_dim), ("hidden_dim", hidden_dim)):
            if int(size) != size or size < 1:
                raise ValueError(f"{name} must be a whole number from 1, got {size!r}")
        self.weight, self.alpha, self.variance_preserving = weight, alpha, variance_preserving
        self.tau_s, self.tau_t, self.teacher_seed = tau_s, tau_t, teacher_seed
        self.output_dim, self.hidden_dim = output_dim, hidden_dim

    def setup(self, ctx: Context) -> None:
        """Draw the teacher and both heads, and set the student's start."""
        if any(hasattr(p, "full_tensor") for p in ctx.model.parameters()):
            raise TetherError(
                f"method {ctx.name!r} keeps a teacher, which every process holds whole: it does "
                "not go with fully_shard; use DDP"
            )
        head: nn.Module = ProjectionHead(ctx.num_features, self.hidden_dim, self.output_dim)
        frozen: dict[str, Any] = {"optimizer": None, "reduce": False}
        self.teacher = ctx.add_module(
            "teacher", random_teacher(ctx.model, self.teacher_seed), **frozen
        )
        own = random_teacher(head, self.teacher_seed)
        self.teacher_head = ctx.add_module("teacher_head", own, **frozen)
        self.head = ctx.add_module("head", copy.deepcopy(head))
        for student, teacher in ((ctx.model, self.teacher), (self.head, self.teacher_head)):
            if self.alpha < 1.0:
                even = self.variance_preserving
                interpolate_init_(student, teacher, student, self.alpha, variance_preserving=even)
        self.add_state("divergence", torch.zeros((), device=ctx.device), "mean")

    def penalty(self, batch: Batch) -> Tensor:
        """Cross-entropy of the student's head with the teacher's."""
        told = self.ctx.forward(grad=False, mode="eval", weights=self.teacher).features
        assert told is not None  # features are tapped
        with torch.no_grad():
            theirs = self.teacher_head(told.float())
        loss = distillation_cross_entropy(
            self.head(batch.need_features()), theirs, tau_s=self.tau_s, tau_t=self.tau_t
        )
        floor = distillation_cross_entropy(theirs, theirs, tau_s=self.tau_t, tau_t=self.tau_t)
        self.ctx.defer(lambda: setattr(self, "divergence", (loss - floor).detach()))
        return loss

    def measure(self) -> dict[str, Any]:
        """Divergence of student and teacher in the last batch, above the teacher's entropy."""
        return {"divergence": float(self.divergence)}
