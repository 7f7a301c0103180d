"""Elastic weight consolidation: weights that earlier data determined are held the harder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.targets.columns import Classes, check_classes, columns
from tether.methods.weights.ewc_fisher import ESTIMATORS, FisherPass, grown_rows
from tether.methods.weights.fisher import fisher_of, load_fisher
from tether.methods.weights.many import local_part
from tether.methods.weights.towards_start import Pulled, add_gradients_, totals
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context

REDUCTIONS = ("sum", "mean")


@register(
    "ewc",
    kind="weights",
    paper="arXiv:1612.00796",
    needs=("reference", "train_data"),
    cost="light",
    losses=("cross_entropy", "binary_cross_entropy"),
    neutral={"weight": 0.0},
    example={"weight": 10.0},
    exempt={"shards": "gradients of single samples need whole parameters: give `information`"},
    search_space={"weight": ("log", 1.0, 1e4), "fisher": ("choice", "true", "empirical")},
)
class EWC(Method):
    """Hold each weight to its start as hard as earlier data determined it: online EWC.

    Helps over a sequence of tasks against drifting features. Hurts, or does nothing, without a
    term on the outputs: no penalty on weights cures a head that has forgotten to name old classes
    (:class:`~tether.PredictionDistillation`, :class:`~tether.IncrementalBCE`). Set the optimiser's
    own ``weight_decay`` to 0.

    With the start ``W0`` (the weights after the last task) and the accumulated Fisher diagonal
    ``F``, refreshed at the end of each task n::

        penalty = c sum_j F_j (W_j - W0_j)^2         (mean over j with reduction="mean")
        F <- gamma F + F_n,   F_n = mean_i (d log p(y_i | x_i) / d W)^2

    Its gradient is added just before the update; the reported loss stays the task's. In a sequence
    of tasks (``tether.continual``, ``tether tune --sequence``) the sequence carries F from task to
    task. Elsewhere F comes from ``information``, or is estimated before the first step on the
    training data with the starting weights: how sharply the pretrained outputs depend on each
    weight, a stand-in for source data that nobody has.

    Args:
        weight: c, at least 0; a number or a schedule. Default 100 (paper: 40 to 1e5, by task).
        fisher: whose labels y F is estimated with: ``"true"``, drawn from the model (default);
            ``"empirical"``, those of the data, as much other code does.
        gamma: share of the old F that stays at the end of a task, in [0, 1] (default 1).
        reduction: ``"sum"`` over the weights, as in the paper, or ``"mean"``.
        information: F itself: name -> tensor, or a safetensors file of
            :func:`~tether.functional.diagonal_fisher`. None: the sequence's, or estimated.
        samples: training samples that F is estimated on, spread over the data (default 256).
        clip: largest entry of F; 0 (default): none. A huge one makes plain steps explode.
        old_classes: rows of the head that are held: indices, or the number of the first ones.
            None: in a sequence the classes of earlier tasks, elsewhere none, a new head has no
            start.

    State:
        ``fisher_N`` for each covered weight, where F was estimated.

    Cost:
        One pass over the weights a step, copies of w0 and F; a backward for each of ``samples``.

    Raises:
        ValueError: an unknown or negative option.
        TetherError: F does not fit the model; sharded weights without ``information``.

    References:
        James Kirkpatrick and others, "Overcoming catastrophic forgetting in neural networks",
        PNAS 2017, arXiv:1612.00796. The online form: Jonathan Schwarz and others, "Progress &
        Compress", ICML 2018, arXiv:1805.06370. Without rehearsal: James Seale Smith and others,
        "A Closer Look at Rehearsal-Free Continual Learning", CVPR Workshops 2023, arXiv:2203.17269.

    Example:
        >>> EWC(weight=10.0, fisher="empirical")
        EWC(weight=10.0, fisher='empirical')
    """

    #: In a sequence of tasks: left out of the first one, which has nothing to keep.
    from_second_task: ClassVar[bool] = True

    def __init__(
        self,
        weight: ScheduleLike = 100.0,
        fisher: str | bool = "true",
        gamma: float = 1.0,
        reduction: str = "sum",
        information: Mapping[str, Tensor] | str | Path | None = None,
        samples: int = 256,
        clip: float = 0.0,
        old_classes: Classes = None,
    ) -> None:
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        if fisher is True:  # what a command line makes of the word
            fisher = "true"
        if fisher not in ESTIMATORS:
            raise ValueError(f"fisher {fisher!r} is not one of {', '.join(ESTIMATORS)}")
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction {reduction!r} is not one of {', '.join(REDUCTIONS)}")
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma must lie in [0, 1], got {gamma!r}")
        if not samples >= 1:
            raise ValueError(f"samples must be at least 1, got {samples!r}")
        if not clip >= 0.0:
            raise ValueError(f"clip must be >= 0, got {clip!r}")
        check_classes("old_classes", old_classes)
        self.weight = weight
        self.fisher = fisher
        self.gamma = gamma
        self.reduction = reduction
        self.information = information
        self.samples = samples
        self.clip = clip
        self.old_classes = old_classes

    def setup(self, ctx: Context) -> None:
        """Pair the covered weights with their start and F; ask for the pass that estimates F."""
        old = columns(ctx, "old_classes", self.old_classes)
        held = [
            ref for ref in ctx.weights()
            if ref.param.requires_grad and not (ref.is_head and (old is None or not len(old)))
        ]  # fmt: skip
        self._held: list[Pulled] = []
        self._old_rows = [ref.is_head for ref in held], old
        given = None if self.information is None else load_fisher(self.information)
        for number, ref in enumerate(held):
            start = ctx.local([ctx.reference[ref.name]])[0].detach()
            if given is None:
                self.add_state(f"fisher_{number}", torch.zeros_like(ref.param.detach()))
                diagonal = getattr(self, f"fisher_{number}")
            else:
                known = grown_rows(given, ref.name, ref.param) if ref.is_head else given
                whole = self._shaped(fisher_of(known, ref.name, ref.param, ctx.name), number)
                diagonal = local_part(whole, ref.param)
            self._held.append(Pulled(ref.param, start, diagonal))
        self._count = sum(ref.param.numel() for ref in held)
        if given is None:
            if any(hasattr(ref.param, "placements") for ref in held):
                raise TetherError(
                    f"method {ctx.name!r}: {self.__class__.__name__} cannot estimate the Fisher "
                    "diagonal of sharded weights: give information=, made by diagonal_fisher"
                )
            FisherPass(ctx, self._held, self.fisher, self.samples, self._estimated).request()

    def _estimated(self, found: list[Tensor]) -> None:
        for number, diagonal in enumerate(found):
            getattr(self, f"fisher_{number}").copy_(self._shaped(diagonal, number))

    def _shaped(self, diagonal: Tensor, number: int) -> Tensor:
        """Clipped; of the head only the rows of old classes."""
        diagonal = diagonal.clamp(max=self.clip) if self.clip else diagonal
        in_head, old = self._old_rows[0][number], self._old_rows[1]
        if not in_head or old is None:
            return diagonal
        rows = torch.zeros(len(diagonal), dtype=torch.bool, device=diagonal.device)
        rows[old.to(diagonal.device)] = True
        return torch.where(rows.view(-1, *[1] * (diagonal.ndim - 1)), diagonal, 0.0)

    def acts_on(self) -> Iterable[nn.Parameter]:
        """The weights that are held."""
        return [pulled.param for pulled in self._held]

    def _strength(self) -> float:
        """The half of a penalty ``c F T^2`` twice over: its gradient is ``2 c F T``."""
        whole = 2.0 * self.value("weight")
        return whole / max(self._count, 1) if self.reduction == "mean" else whole

    def edit_gradients(self) -> None:
        """Add the penalty's gradient."""
        add_gradients_(self.ctx, self._held, self._strength(), "l2_sp")

    def measure(self) -> dict[str, Any]:
        """The penalty, and the distance from the start over what is held."""
        penalty, square = totals(self.ctx, self._held, "l2_sp")
        return {"penalty": self._strength() * penalty, "distance": square**0.5}
