"""Proximal step: weights, or their way from the start, set to zero by a thresholding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.catalogue import register
from tether.method import Method
from tether.methods.weights.covered import covered, pieces
from tether.methods.weights.many import differences
from tether.methods.weights.thresholds import FORMS, shrink_share, threshold, threshold_to_strength
from tether.schedule import Schedule, ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context


def threshold_share(
    moved: Tensor, strength: float | Tensor, *, form: str = "l1", q: float = 0.5,
    step: float | Tensor = 1.0,
) -> Tensor:  # fmt: skip
    """Share of ``moved`` that the thresholding takes away: 0 leaves it, 1 sets it to zero.

    Example:
        >>> threshold_share(torch.tensor([0.5, -4.0]), 1.0)
        tensor([1.0000, 0.2500])
    """
    tiny = torch.finfo(moved.dtype).tiny
    if form == "l1":
        return shrink_share(moved.abs(), strength)
    if form == "l0":
        return (moved.abs() <= (2.0 * strength) ** 0.5).to(moved.dtype)
    if form == "cel0" and isinstance(step, (int, float)) and step < 1.0:
        # 1 - (1 - dead / |t|) / (1 - step), between 0 and 1: few passes, in place
        dead, slope = (2.0 * strength) ** 0.5 * step, 1.0 - step
        share = moved.abs().clamp_(min=tiny).reciprocal_()
        return share.mul_(dead / slope).add_(1.0 - 1.0 / slope).clamp_(0.0, 1.0)
    kept = threshold(moved, strength, form=form, q=q, step=step)
    return torch.where(moved == 0, 0.0, 1.0 - kept / moved)


@register(
    "proximal",
    kind="weights",
    paper="arXiv:2301.10002",
    needs=("reference",),
    cost="light",
    neutral={"weight": 0.0},
    example={"weight": 0.01, "form": "cel0"},
    search_space={"weight": ("log", 1e-6, 1e-1)},
)
class ProximalStep(Method):
    """Threshold the way from the pretrained weights after each update, whatever the optimiser.

    What hardly moved goes back to where it began, exactly: the change of the weights is sparse.
    Helps where a small, storable change is wanted, or sparse weights (``relative_to_reference``
    off). l1 shortens all that it keeps; the other forms hardly touch large values, and are sparser
    for the same error. Hurts where the threshold is above what a few updates move a weight: then
    nothing ever leaves the start; raise ``every``. The forms that jump may flicker near their
    threshold. Set the optimiser's ``weight_decay`` to 0.

    With ``t = w - w0`` after the update and ``g = lr weight``::

        w <- w0 + argmin_x 1/2 (x - t)^2 + g phi(x)

        l1: |x|     l0: [x != 0]     l1/2, l2/3, lq: |x|^q     cel0: min(|x| to sqrt(2 weight))

    where ``cel0`` is the continuous form of l0: a dead zone of ``lr sqrt(2 weight)``, and no
    change beyond ``sqrt(2 weight)``. Under Adam the step stays lr for all coordinates.

    Args:
        weight: lambda, >= 0, schedulable; give it or ``threshold`` (no default; 1e-6 to 1e-1).
        form: ``"l1"``, ``"l0"``, ``"l1/2"``, ``"l2/3"``, ``"lq"`` or ``"cel0"`` (default l1).
        threshold: in place of ``weight``, at any learning rate: the largest change that one step
            sets to zero; for ``cel0`` the smallest that is not shortened.
        q: exponent of ``lq``, in (0, 1) (default 0.5).
        relative_to_reference: threshold the change (default), or the weights themselves.
        include: wildcards of parameter names; default: kernels, of the head only where the
            weights themselves are thresholded.
        every: updates between two steps, >= 1; the strength is multiplied by it (default 1).

    State:
        None of its own; the pretrained weights are the engine's.

    Cost:
        A few passes over the covered weights a step; those of ``l1/2``, ``l2/3`` and ``lq`` are
        slow on a CPU. ``every=10`` makes it a tenth.

    Raises:
        ValueError: not exactly one of ``weight`` and ``threshold``, or an option out of range.
        TetherError: ``include`` fits no parameter.

    References:
        Christian Rentzeperis, Luca Calatroni, Laurent U. Perrinet, Dario Prandi, "Beyond l1
        sparse coding in V1", PLoS Computational Biology 2023, arXiv:2301.10002.

    Example:
        >>> ProximalStep(threshold=1e-3, form="l1/2")
        ProximalStep(form='l1/2', threshold=0.001)
    """

    def __init__(
        self,
        weight: ScheduleLike | None = None,
        form: str = "l1",
        threshold: float | None = None,
        q: float = 0.5,
        relative_to_reference: bool = True,
        include: Sequence[str] | str | None = None,
        every: int = 1,
    ) -> None:
        if form not in FORMS:
            raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")
        if (weight is None) == (threshold is None):
            raise ValueError(
                "give weight (multiplied by the learning rate) or threshold (a size), one of them"
            )
        for name, value in (("weight", weight), ("threshold", threshold)):
            if isinstance(value, (int, float)) and not value >= 0:
                raise ValueError(f"{name} must be >= 0, got {value!r}")
        if not 0.0 < q < 1.0:
            raise ValueError(f"q must lie in (0, 1), got {q!r}")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every!r}")
        self.weight: Any = weight
        self.form = form
        self.threshold = threshold
        self.q = q
        self.relative_to_reference = relative_to_reference
        self.include = include
        self.every = every

    def schedules(self) -> dict[str, Schedule]:
        """The weight, where there is one."""
        return {} if self.weight is None else {"weight": Schedule(self.weight)}

    def setup(self, ctx: Context) -> None:
        """Pair every covered parameter with its start, or with zero."""
        refs = covered(ctx, self.include, head=not self.relative_to_reference)
        self._params = [ref.param for ref in refs]
        self._starts: list[Tensor | None] = [None] * len(refs)
        if self.relative_to_reference:
            self._starts = [s.detach() for s in ctx.local(ctx.reference[r.name] for r in refs)]

    def acts_on(self) -> Iterable[nn.Parameter]:
        """The covered parameters."""
        return self._params

    def after_step(self) -> None:
        """Threshold what was updated, piece by piece."""
        if (self.ctx.step + 1) % self.every:
            return
        mask = self.ctx.step_mask
        for param, start in zip(self._params, self._starts, strict=True):
            lr = self.ctx.lr(param) * self.every
            strength = self._strength(lr)
            if strength == 0.0 or not param.requires_grad or param.grad is None:
                continue
            masked = strength if mask is None else strength * mask.float()
            (mine,) = self.ctx.local([param])
            near = None if start is None else start.to(mine.device)
            for weights, begun in pieces(mine, near):
                (moved,) = differences([weights], [begun])
                share = threshold_share(moved, masked, form=self.form, q=self.q, step=lr)
                if begun is None:
                    weights.mul_(1.0 - share)
                else:
                    weights.lerp_(begun, share)

    def _strength(self, lr: float) -> float:
        if self.threshold is not None:
            return threshold_to_strength(self.form, self.threshold, self.q)
        return self.value("weight") * (1.0 if self.form == "cel0" else lr)

    def measure(self) -> dict[str, Any]:
        """Share of the covered weights that stand exactly at their start, or at zero."""
        still, total = torch.zeros(()), 0
        for param, start in zip(self._params, self._starts, strict=True):
            (gap,) = differences(self.ctx.local([param.detach()]), [start])
            still += self.ctx.sum_over_shards((gap == 0).sum().float(), param).cpu()
            total += param.numel()
        return {"unchanged_share": float(still) / total}
