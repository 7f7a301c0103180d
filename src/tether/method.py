"""What the author of a method reads: the moments at which it may act, and the state it keeps."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from tether.schedule import Schedule, ScheduleLike

if TYPE_CHECKING:
    from tether.batch import Batch
    from tether.catalogue import MethodInfo
    from tether.engine.context import Context

SYNCS = ("replicated", "sum", "mean", "per_sample", "none")


class Method:
    """One regulariser: a class that overrides the moments at which it acts.

    The engine looks once, when it attaches, which moments a class overrides; the others cost
    nothing. A constructor takes hyper-parameters only and keeps each under its own name
    (``self.beta = beta``); model, class count, head, pretrained weights and statistics come from
    ``ctx`` in :meth:`setup`.

    The moments, in the order of a step::

        prepare ─ setup ─ epoch_start
          transform_batch │ (forward) │ transform_targets │ sample_loss │ weight_samples │ penalty
          (backward) │ edit_gradients │ (the optimiser's update) │ after_step
        epoch_end ─ measure ─ finish

    Rules: a moment never changes its ``Batch`` in place; it writes its own state through
    ``self.ctx.defer(...)`` while the loss is being made, so that a step refused for a non-finite
    number leaves no trace (``pooled`` state through ``self.ctx.defer_to_backward(...)``); it never
    waits for the device.
    """

    info: ClassVar[MethodInfo]
    #: Names of tensor states that gather micro-batches until the update; the engine zeroes them
    #: where an update was skipped (an infinite gradient under a loss scaler).
    pooled: ClassVar[tuple[str, ...]] = ()
    weight: ScheduleLike = 1.0
    #: Known in ``prepare``: the name of the model's head, None where it has none.
    head_name: str | None = None
    ctx: Context

    # -- moments ---------------------------------------------------------------------------------

    def prepare(self, model: nn.Module) -> None:
        """Once, by ``tether.prepare``: swap layers, add adapters, freeze."""

    def setup(self, ctx: Context) -> None:
        """Once, at attach: declare state, ask for reference, statistics, auxiliary modules."""

    def epoch_start(self, epoch: int) -> None:
        """Before the first batch of an epoch (0-based)."""

    def transform_batch(self, batch: Batch) -> Batch:
        """Inputs before the forward; may change the number of rows."""
        return batch

    def transform_targets(self, batch: Batch) -> Tensor:
        """New targets, detached, of the kind the loss takes."""
        return batch.targets

    def sample_loss(self, batch: Batch) -> Tensor | None:
        """One loss a sample, ``[N]``; None leaves the task's. One method of a recipe may."""
        raise NotImplementedError

    def weight_samples(self, batch: Batch) -> Tensor | None:
        """Weights ``[N]`` with mean 1, detached; None leaves the plain mean."""
        return None

    def penalty(self, batch: Batch) -> Tensor:
        """A scalar added to the loss; the engine multiplies it by ``weight``."""
        raise NotImplementedError

    def edit_gradients(self) -> None:
        """Just before the optimiser's update: add to the gradients in place.

        Multiply what you add by ``ctx.grad_scale`` where that is not None (fused optimisers
        hold gradients that are still multiplied by the loss scale).
        """

    def after_step(self) -> None:
        """Just after the optimiser's update, without gradients: project, pull, move a prior.

        ``ctx.step_mask`` is a 0/1 tensor where the update may have been skipped, else None.
        """

    def epoch_end(self, epoch: int) -> None:
        """After the last batch of an epoch; per-sample state is whole again on every rank."""

    def measure(self) -> dict[str, Any]:
        """Numbers on request (never called in the step)."""
        return {}

    def finish(self, model: nn.Module) -> None:
        """Bake or remove what ``prepare`` put in, so that the model exports as an ordinary one."""

    # -- what the engine asks --------------------------------------------------------------------

    def expand(self) -> Sequence[Method]:
        """The methods that stand for this one: itself, or the parts of a bundle."""
        return (self,)

    def acts_on(self) -> Iterable[nn.Parameter]:
        """Parameters whose gradients or values it changes; the optimiser must hold them."""
        return ()

    def schedules(self) -> dict[str, Schedule]:
        """The scheduled options; override to add to ``weight``."""
        return {"weight": Schedule(self.weight)}

    # -- help for authors ------------------------------------------------------------------------

    def add_state(self, name: str, value: Tensor | int | float, sync: str = "replicated") -> None:
        """Declare state: kept as ``self.<name>``, saved and restored, made whole across ranks.

        Args:
            name: attribute that holds it; it may be changed in place or replaced.
            value: a tensor, or a number of the host.
            sync: ``"replicated"`` (equal on all ranks by construction), ``"sum"`` or ``"mean"``
                (reduced over the ranks at the epoch's end), ``"per_sample"`` (rows are samples;
                the rows that a rank changed win at the epoch's end), ``"none"`` (each rank its
                own; rank 0's is saved).

        Raises:
            ValueError: unknown ``sync``, or the name is declared already.
        """
        if sync not in SYNCS:
            raise ValueError(f"sync {sync!r} is not one of {', '.join(SYNCS)}")
        declared = self.__dict__.setdefault("_state_syncs", {})
        if name in declared:
            raise ValueError(f"{type(self).__name__}: state {name!r} is declared already")
        declared[name] = sync
        setattr(self, name, value)

    def declared_state(self) -> dict[str, str]:
        """Names of the declared state and how each is made whole across ranks."""
        return dict(self.__dict__.get("_state_syncs", {}))

    def value(self, option: str = "weight") -> float:
        """Present value of a scheduled option (a float of the host)."""
        schedules: dict[str, Schedule] | None = self.__dict__.get("_schedules")
        if schedules is None:
            schedules = self.__dict__["_schedules"] = self.schedules()
        schedule = schedules[option]
        return schedule(self.ctx.progress if schedule.needs_horizon else 0.0)

    def options(self) -> dict[str, Any]:
        """The options as they were given, defaults included."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        changed = []
        for name, parameter in inspect.signature(type(self)).parameters.items():
            given = getattr(self, name, parameter.default)
            if given is not parameter.default and given != parameter.default:
                changed.append(f"{name}={given!r}")
        return f"{type(self).__name__}({', '.join(changed)})"
