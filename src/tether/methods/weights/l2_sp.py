"""L2-SP and its sisters: decay towards the pretrained weights instead of towards zero."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.weights.attention import attention_blocks, within
from tether.methods.weights.fisher import fisher_of, load_fisher
from tether.methods.weights.many import local_part, rows_are_whole
from tether.methods.weights.start_penalty import FORMS
from tether.methods.weights.towards_start import Pulled, add_gradients_, pull_, totals
from tether.schedule import Schedule, ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context

INCLUDE = ("weights", "all", "attention")


@register(
    "l2_sp",
    kind="weights",
    paper="arXiv:1802.01483",
    needs=("reference",),
    cost="light",
    neutral={"weight": 0.0, "head_weight": 0.0},
    search_space={"weight": ("log", 1e-4, 1.0), "head_weight": ("log", 1e-4, 0.1)},
)
class L2SP(Method):
    """Decay towards the pretrained weights; towards zero for the new head.

    Helps with few data: what the network knew is the prior, not zero. Hurts where the target task
    is far from the pretrained one. Set the optimiser's own ``weight_decay`` to 0: two decays in
    different directions compete. The strength depends on learning rate and steps; a bound that
    does not is :class:`~tether.DistanceConstraint`.

    Penalty on the body S and the head N, with ``T = W - W0``::

        l2_sp:           a/2 sum_S F T^2               + b/2 sum_N W^2     (F = 1 without fisher)
        l2:              a/2 sum_S W^2                 + b/2 sum_N W^2
        l1_sp:           a sum_S |T|                   + b/2 sum_N W^2
        group_lasso_sp:  a sum_g sqrt(n_g F) |T_g|     + b/2 sum_N W^2     (g: an output unit)

    Its gradient is added to the gradients just before the update, after any clipping; no graph is
    built and the reported loss stays the task's. Frozen parameters and those without a gradient
    are left alone.

    Args:
        weight: a, >= 0, schedulable (default 0.1; paper: 0.1 on Stanford Dogs, 0.01 elsewhere).
        head_weight: b, >= 0, schedulable (default and paper 0.01).
        form: ``"l2_sp"``, ``"l2"``, ``"l1_sp"`` or ``"group_lasso_sp"``.
        fisher: diagonal Fisher information of the pretrained model, name -> tensor, or the path
            of a safetensors file; see :func:`diagonal_fisher`. For ``l2_sp``, ``group_lasso_sp``.
        decoupled: pull after the update by ``lr a`` instead of through the gradient, so that
            adaptive optimisers do not rescale it; ``l1_sp`` and ``group_lasso_sp`` then step
            proximally.
        proximal: for ``l1_sp`` and ``group_lasso_sp``: soft thresholding of T by ``lr a`` after
            the update, the only way to weights that equal their start exactly.
        include: ``"weights"``, kernels only, as in the paper; ``"all"`` adds biases, scales of
            norm layers and embeddings, as other implementations do; ``"attention"``, kernels
            within attention blocks only, where transformers forget (head as ever).

    State:
        None of its own; the pretrained weights are the engine's.

    Cost:
        One pass over the covered weights a step, and a copy of w0.

    Raises:
        ValueError: an unknown form or include, a negative weight, options that do not go together.
        TetherError: the Fisher diagonal does not fit the model, or it has no attention.

    References:
        Xuhong Li, Yves Grandvalet, Franck Davoine, "Explicit Inductive Bias for Transfer Learning
        with Convolutional Networks", ICML 2018, arXiv:1802.01483.

    Example:
        >>> L2SP(weight="cosine(0.1, 0)", head_weight=0.02)
        L2SP(weight='cosine(0.1, 0)', head_weight=0.02)
    """

    def __init__(
        self,
        weight: ScheduleLike = 0.1,
        head_weight: ScheduleLike = 0.01,
        form: str = "l2_sp",
        fisher: Mapping[str, Tensor] | str | Path | None = None,
        decoupled: bool = False,
        proximal: bool = False,
        include: str = "weights",
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")
        if include not in INCLUDE:
            raise ValueError(f"include {include!r} is not one of {', '.join(INCLUDE)}")
        corner = form in ("l1_sp", "group_lasso_sp")
        if proximal and not corner:
            raise ValueError(f"proximal is for l1_sp and group_lasso_sp; for {form}: decoupled")
        if fisher is not None and form not in ("l2_sp", "group_lasso_sp"):
            raise ValueError(f"form {form!r} takes no fisher; use l2_sp or group_lasso_sp")
        if fisher is not None and corner and (proximal or decoupled):
            raise ValueError("a proximal step with fisher has no closed form: leave one out")
        for name, value in (("weight", weight), ("head_weight", head_weight)):
            if isinstance(value, (int, float)) and not value >= 0:
                raise ValueError(f"{name} must be >= 0, got {value!r}")
        self.weight = weight
        self.head_weight = head_weight
        self.form = form
        self.fisher = fisher
        self.decoupled = decoupled
        self.proximal = proximal
        self.include = include

    def schedules(self) -> dict[str, Schedule]:
        """Both weights may follow a schedule."""
        return {"weight": Schedule(self.weight), "head_weight": Schedule(self.head_weight)}

    def setup(self, ctx: Context) -> None:
        """Pair every covered parameter with its start and its Fisher diagonal."""
        fisher = None if self.fisher is None else load_fisher(self.fisher)
        blocks = attention_blocks(ctx.model, ctx.name) if self.include == "attention" else ()
        self._body: list[Pulled] = []
        self._head: list[Pulled] = []
        for ref in ctx.weights():
            if self.include != "all" and ref.role != "weight":
                continue
            if ref.is_head:
                self._head.append(Pulled(ref.param, None, None))
                continue
            if self.include == "attention" and not within(ref.name, blocks):
                continue
            start = diagonal = None
            if self.form != "l2":
                start = ctx.local([ctx.reference[ref.name]])[0].detach()
            if self.form == "group_lasso_sp" and not rows_are_whole(ref.param):
                raise TetherError(
                    f"{ctx.name}: the rows of {ref.name!r} are split between ranks; "
                    "group_lasso_sp needs them whole: shard along dimension 0"
                )
            if fisher is not None:
                if ref.name not in fisher and not ref.param.requires_grad:
                    continue
                whole = fisher_of(fisher, ref.name, ref.param, ctx.name)
                diagonal = local_part(whole, ref.param)
            self._body.append(Pulled(ref.param, start, diagonal))

    def acts_on(self) -> Iterable[nn.Parameter]:
        """The covered parameters, the head's included."""
        return [pulled.param for pulled in self._body + self._head]

    def edit_gradients(self) -> None:
        """Add the gradients of the penalties that do not wait for the update."""
        if not (self.decoupled or self.proximal):
            add_gradients_(self.ctx, self._body, self.value("weight"), self.form)
        if not self.decoupled:
            add_gradients_(self.ctx, self._head, self.value("head_weight"), "l2")

    def after_step(self) -> None:
        """Make the pulls that come after the update."""
        if self.decoupled or self.proximal:
            pull_(self.ctx, self._body, self.value("weight"), self.form)
        if self.decoupled:
            pull_(self.ctx, self._head, self.value("head_weight"), "l2")

    def measure(self) -> dict[str, Any]:
        """The penalty of the body, its distance from the start, and the norm of the head."""
        penalty, square = totals(self.ctx, self._body, self.form)
        return {
            "penalty": self.value("weight") * penalty,
            "distance": square**0.5,
            "head_norm": totals(self.ctx, self._head, "l2")[1] ** 0.5,
        }
