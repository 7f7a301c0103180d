"""BackSlash: train under a price on the bits that the weights take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.catalogue import register
from tether.measure.rate import exp_golomb_bits
from tether.method import Method
from tether.methods.weights.covered import covered, pieces
from tether.methods.weights.gg_prior import SHAPES, moments_of, shape_of_moments
from tether.methods.weights.many import differences
from tether.schedule import ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context


def rate_step(
    weights: Tensor, step: float | Tensor, shape: float | Tensor, *, eps: float = 1.0,
    proximal: bool = True,
) -> Tensor:  # fmt: skip
    """What one step takes from the weights: ``step nu sign(w) (|w| + eps)^(nu - 1)``.

    With ``proximal`` no weight crosses zero.

    Example:
        >>> rate_step(torch.tensor([2.0, -0.1]), 0.5, 1.0)
        tensor([ 0.5000, -0.1000])
    """
    size = weights.abs()
    # a power, in place and in half the time
    taken = (size + eps).log_().mul_(shape - 1.0).exp_().mul_(step * shape)
    if proximal:
        torch.minimum(taken, size, out=taken)
    return taken.mul_(weights.sign())


@register(
    "rate_constraint",
    kind="weights",
    paper="arXiv:2506.00486",
    needs=("reference",),
    cost="light",
    neutral={"weight": 0.0},
    example={"weight": 1e-3, "every": 1, "estimate_every": 2},
    search_space={"weight": ("log", 1e-6, 1e-3)},
)
class RateConstraint(Method):
    """Press the weights towards a short code, under the generalised Gaussian that fits them.

    The rate of weights with the density ``exp(-(|w| / a)^nu)`` is, but for constants, the mean of
    ``|w|^nu``; its slope is taken off after each update, apart from the loss. Helps where the
    trained network is to be stored, sent or pruned. Hurts, as any pull to zero does, what the
    pretrained weights knew: ``relative_to_reference`` presses the change of the weights instead.
    Not together with ``weight_decay`` or a pull to the start on the same weights. The step does
    not follow the learning rate, so that late steps weigh more: let ``weight`` come down with it
    (``"cosine(1e-5, 0)"``), and end with some epochs at 0.

    After each update::

        nu: Gamma(1/nu) Gamma(3/nu) / Gamma(2/nu)^2 = N sum w^2 / (sum |w|)^2   (now and then)
        w <- w - weight nu sign(w) (|w| + eps)^(nu - 1)      (proximal: not across zero)

    Args:
        weight: size of a step, >= 0, schedulable (default 1e-5; paper: 2000 / weights).
        shape: nu, ``"auto"`` (estimated, default and paper) or a number in [0.1, 3].
        eps: above 0 it bounds the slope near zero (default and paper 1, nearly an l1 step).
        scope: one shape for all weights, ``"global"`` (default and paper), or one a ``"tensor"``.
        relative_to_reference: press ``w - w0`` instead of w.
        proximal: stop at zero (default), or step as the paper does, across it.
        include: wildcards of parameter names; default: all kernels, biases and norms left out
            (paper: everything).
        every: updates between two steps, >= 1; the step is multiplied by it (default 10, paper 1).
        estimate_every: updates between two estimates of the shape (default 100; paper: 1).

    State:
        ``nu``: the shapes, one number, or one a tensor.

    Cost:
        A power of every weight, about a seventh of a small step on a CPU with ``every=1``, so that
        by default it is made at every tenth; two sums now and then.

    Raises:
        ValueError: an option out of range.
        TetherError: ``include`` fits no parameter.

    References:
        J. Wu, Y. Xiong, J. Wen, Y. Han, "It Takes a Good Model to Train a Good Model: Generalized
        Gaussian Priors for Optimized LLMs", 2025, arXiv:2506.00486; J. Wu, J. Wen, Y. Han,
        "BackSlash: Rate Constrained Optimized Training of Large Language Models", ICML 2025,
        arXiv:2504.16968.

    Example:
        >>> RateConstraint(weight=1e-4, scope="tensor")
        RateConstraint(weight=0.0001, scope='tensor')
    """

    nu: Tensor

    def __init__(
        self,
        weight: ScheduleLike = 1e-5,
        shape: float | str = "auto",
        eps: float = 1.0,
        scope: str = "global",
        relative_to_reference: bool = False,
        proximal: bool = True,
        include: Sequence[str] | str | None = None,
        every: int = 10,
        estimate_every: int = 100,
    ) -> None:
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        number = shape if isinstance(shape, (int, float)) else None
        if shape != "auto" and not (number is not None and SHAPES[0] <= number <= SHAPES[1]):
            raise ValueError(f'shape must be "auto" or lie in [0.1, 3], got {shape!r}')
        if not eps >= 0 or every < 1 or estimate_every < 1:
            raise ValueError("eps must be >= 0, every and estimate_every at least 1")
        if scope not in ("global", "tensor"):
            raise ValueError(f'scope must be "global" or "tensor", got {scope!r}')
        self.weight = weight
        self.shape = shape
        self.eps = eps
        self.scope = scope
        self.relative_to_reference = relative_to_reference
        self.proximal = proximal
        self.include = include
        self.every = every
        self.estimate_every = estimate_every

    def setup(self, ctx: Context) -> None:
        """Pair the covered weights with their start, and estimate the first shape."""
        refs = covered(ctx, self.include, head=True)
        self._params = [ref.param for ref in refs]
        self._starts: list[Tensor | None] = [None] * len(refs)
        if self.relative_to_reference:
            self._starts = [s.detach() for s in ctx.local(ctx.reference[r.name] for r in refs)]
        if self.shape == "auto":
            self.add_state("nu", self._estimate())
        else:
            count = len(refs) if self.scope == "tensor" else 1
            self.add_state("nu", torch.full((count,), float(self.shape), device=ctx.device))

    @torch.no_grad()
    def _estimate(self) -> Tensor:
        rows = []
        for param, start in zip(self._params, self._starts, strict=True):
            (moved,) = differences(self.ctx.local([param.detach()]), [start])
            rows.append(self.ctx.sum_over_shards(moments_of(moved), param))
        table = torch.stack(rows)
        if self.scope == "global":
            table = table.sum(0, keepdim=True)
        return shape_of_moments(table).float()

    def acts_on(self) -> Iterable[nn.Parameter]:
        """The covered parameters."""
        return self._params

    def after_step(self) -> None:
        """Take the slope of the rate off the weights that were updated."""
        step, now = self.value("weight") * self.every, self.ctx.step + 1
        mask = self.ctx.step_mask
        if step == 0.0:
            return
        if self.shape == "auto" and now % self.estimate_every == 0:
            found = self._estimate()
            self.nu.copy_(found if mask is None else torch.where(mask > 0, found, self.nu))
        if now % self.every:
            return
        masked = step if mask is None else step * mask.float()
        for at, (param, start) in enumerate(zip(self._params, self._starts, strict=True)):
            if not param.requires_grad or param.grad is None:
                continue
            (mine,) = self.ctx.local([param])
            nu = self.nu[at if self.scope == "tensor" else 0].to(mine.dtype)
            for weights, begun in pieces(mine, None if start is None else start.to(mine.device)):
                (moved,) = differences([weights], [begun])
                weights.sub_(rate_step(moved, masked, nu, eps=self.eps, proximal=self.proximal))

    def measure(self) -> dict[str, Any]:
        """Shape of the weights, and the bits that one of them takes (of this rank's shards)."""
        moved = [
            differences(self.ctx.local([param.detach()]), [start])[0]
            for param, start in zip(self._params, self._starts, strict=True)
        ]
        rate = exp_golomb_bits(moved)
        return {"shape": float(self._estimate().mean()), "bits": rate.bits, "entropy": rate.entropy}
