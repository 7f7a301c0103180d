"""Companding of weights: monotone maps that press large values together and spread small ones."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.methods.weights.covered import pieces

FORMS = ("arctan", "tanh", "mulaw")
MU = 255.0


def compand(v: Tensor, a: Tensor, b: Tensor, *, form: str = "arctan") -> Tensor:
    """The used weight of a trained variable: ``a arctan(v / b)`` and its relatives.

    ``tanh``: ``a tanh(v / b)``; ``mulaw``: ``a sign(v) log(1 + mu |v| / b) / log(1 + mu)``.

    Example:
        >>> compand(torch.tensor([0.0, 1.0, 1e9]), torch.tensor(1.0), torch.tensor(1.0))
        tensor([0.0000, 0.7854, 1.5708])
    """
    x = v / b
    if form == "arctan":
        return a * torch.atan(x)
    if form == "tanh":
        return a * torch.tanh(x)
    _check(form)
    return a * x.sign() * torch.log1p(MU * x.abs()) / math.log1p(MU)


class _Arctan(torch.autograd.Function):
    """``a arctan(v / b)`` in pieces that stay in the cache: a third of the time on a CPU."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, a: Tensor, b: Tensor) -> Tensor:
        w = torch.empty_like(v)
        for mine, out in pieces(v, w):
            torch.div(mine, b, out=out).atan_().mul_(a)
        ctx.save_for_backward(v, w, a, b)
        return w

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v, w, a, b = ctx.saved_tensors
        (grad,) = grads
        if torch.is_grad_enabled():  # somebody differentiates the gradient
            slope = grad * (a / b) / (1.0 + (v / b).square())
            return slope, (grad * torch.atan(v / b)).sum().view(1), -(slope * v).sum().view(1) / b
        grad_v = torch.empty_like(v, memory_format=torch.preserve_format)
        of_a, of_b = torch.zeros_like(a), torch.zeros_like(b)
        for g, out, mine, weight in pieces(grad, grad_v, v, w):
            torch.div(mine, b, out=out).square_().add_(1.0).reciprocal_().mul_(a / b).mul_(g)
            of_a += torch.vdot(g.flatten(), weight.flatten())
            of_b -= torch.vdot(out.flatten(), mine.flatten())
        return grad_v, of_a / a, of_b / b


def expand_inverse(w: Tensor, a: Tensor, b: Tensor, *, form: str = "arctan") -> Tensor:
    """The trained variable of a weight, ``compand`` turned round.

    Example:
        >>> one = torch.tensor(1.0)
        >>> v = expand_inverse(torch.tensor([-1.0, 0.5]), one, one, form="tanh")
        Traceback (most recent call last):
        ...
        ValueError: weights of size 1 and more are beyond what this map can reach (1)
    """
    _check(form)
    bound = reach(form)
    top = float((w.abs() / a).max()) if w.numel() else 0.0
    if top >= bound:
        raise ValueError(
            f"weights of size {float(w.abs().max()):.3g} and more are beyond what this map can "
            f"reach ({bound * float(a):.3g})"
        )
    x = w / a
    if form == "arctan":
        return b * torch.tan(x)
    if form == "tanh":
        return b * torch.atanh(x)
    return b * x.sign() * torch.expm1(x.abs() * math.log1p(MU)) / MU


def reach(form: str) -> float:
    """Largest size of a weight, for ``a = 1``."""
    return {"arctan": math.pi / 2, "tanh": 1.0}.get(form, math.inf)


def fitted(weight: Tensor, form: str, slope: float, margin: float) -> tuple[float, float]:
    """a, so that the largest weight is ``margin`` of what is reached, and b for the slope at 0."""
    largest = float(weight.detach().abs().max()) if weight.numel() else 0.0
    bound = reach(form) if math.isfinite(reach(form)) else 1.0
    a = largest / (margin * bound) if largest > 0.0 else 1.0
    steep = MU / math.log1p(MU) if form == "mulaw" else 1.0
    return a, a * steep / slope


def _check(form: str) -> None:
    if form not in FORMS:
        raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")


def _arctan(v: Tensor, a: Tensor, b: Tensor) -> Tensor:
    out: Tensor = _Arctan.apply(v, a, b)
    return out


class Compander(nn.Module):
    """The map as a parametrisation of one weight, with a and b kept positive by a softplus."""

    a_raw: Tensor
    b_raw: Tensor

    def __init__(
        self, weight: Tensor, form: str, slope: float, margin: float, learnable: bool
    ) -> None:
        super().__init__()
        self.form = form
        # in float32 also for half-precision weights; of one dimension, so that it can be sharded
        pair = torch.tensor(fitted(weight, form, slope, margin), device=weight.device)
        raw = pair + torch.log(-torch.expm1(-pair))
        for name, value in (("a_raw", raw[:1]), ("b_raw", raw[1:])):
            if learnable:
                self.register_parameter(name, nn.Parameter(value.clone()))
            else:
                self.register_buffer(name, value.clone())

    def pair(self) -> tuple[Tensor, Tensor]:
        """A and b."""
        return F.softplus(self.a_raw), F.softplus(self.b_raw)

    def forward(self, v: Tensor) -> Tensor:
        """The used weight."""
        a, b = self.pair()
        wide = torch.promote_types(v.dtype, torch.float32)
        if self.form == "arctan" and not torch.compiler.is_compiling():
            return _arctan(v.to(wide), a, b).to(v.dtype)
        return compand(v.to(wide), a, b, form=self.form).to(v.dtype)

    @torch.no_grad()
    def right_inverse(self, w: Tensor) -> Tensor:
        """The trained variable, once."""
        a, b = (value.double() for value in self.pair())
        return expand_inverse(w.detach().double(), a, b, form=self.form).to(w.dtype)
