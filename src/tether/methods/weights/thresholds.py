"""Thresholdings: proximal operators of l1, l0, l_q and CEL0, element by element."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tether.methods.weights.projections import wide_dtype

FORMS = ("l1", "l0", "l1/2", "l2/3", "lq", "cel0")
_EXPONENTS = {"l1/2": 0.5, "l2/3": 2.0 / 3.0}
_NEWTON_STEPS = 8
Strength = float | Tensor


def shrink_share(size: Tensor, strength: Strength) -> Tensor:
    """Share of its length that soft thresholding takes from what is ``size`` long, at most 1."""
    return (strength / size.clamp(min=torch.finfo(size.dtype).tiny)).clamp(max=1.0)


def prox_l1(input: Tensor, strength: Strength) -> Tensor:
    """Soft thresholding, ``sign(t) max(|t| - g, 0)``: every value loses ``strength``.

    Example:
        >>> prox_l1(torch.tensor([-2.0, 0.5]), 1.0)
        tensor([-1.,  0.])
    """
    return input.sign() * (input.abs() - strength).clamp(min=0.0)


def prox_l0(input: Tensor, strength: Strength) -> Tensor:
    """Hard thresholding: ``t`` where ``|t| > sqrt(2 g)``, else 0; what is kept is not shrunk.

    Example:
        >>> prox_l0(torch.tensor([-2.0, 0.5]), 0.5)
        tensor([-2.,  0.])
    """
    return torch.where(input.abs() > (2.0 * strength) ** 0.5, input, 0.0)


def prox_l12(input: Tensor, strength: Strength) -> Tensor:
    """Proximal operator of ``g |x|^(1/2)`` in closed form.

    ``0`` for ``|t| <= T = (3/2) g^(2/3)``, else
    ``(2/3) t (1 + cos(2 pi / 3 - (2/3) arccos(g/4 (|t|/3)^(-3/2))))``.

    Example:
        >>> prox_l12(torch.tensor([0.6, 2.0]), 0.3)
        tensor([0.0000, 1.8909])
    """

    def kept(size: Tensor, g: Tensor) -> Tensor:
        psi = torch.arccos((0.25 * g * (size / 3.0) ** -1.5).clamp(max=1.0))
        return (2.0 / 3.0) * size * (1.0 + torch.cos((2.0 / 3.0) * (math.pi - psi)))

    return _jumping(input, strength, 0.5, kept)


def prox_l23(input: Tensor, strength: Strength) -> Tensor:
    """Proximal operator of ``g |x|^(2/3)`` in closed form; ``T = 2 (2 g / 3)^(3/4)``.

    Example:
        >>> prox_l23(torch.tensor([0.5, 2.0]), 0.3)
        tensor([0.0000, 1.8367])
    """

    def kept(size: Tensor, g: Tensor) -> Tensor:
        theta = torch.arccosh((27.0 / 16.0 * size.square() * (2.0 * g) ** -1.5).clamp(min=1.0))
        a = 2.0 / math.sqrt(3.0) * (2.0 * g) ** 0.25 * torch.cosh(theta / 3.0).sqrt()
        return ((a + (2.0 * size / a - a.square()).clamp(min=0.0).sqrt()) / 2.0) ** 3

    return _jumping(input, strength, 2.0 / 3.0, kept)


def prox_lq(input: Tensor, strength: Strength, q: float = 0.5) -> Tensor:
    """Proximal operator of ``g |x|^q``, ``0 < q < 1``, by Newton steps.

    Above ``T = b + g q b^(q-1)``, ``b = (2 g (1 - q))^(1/(2-q))``, it is the larger root of
    ``x + g q x^(q-1) = |t|``; the smallest value that is kept is b.

    Example:
        >>> prox_lq(torch.tensor([0.6, 2.0]), 0.3, 0.5)
        tensor([0.0000, 1.8909])
    """
    _check_exponent(q)

    def kept(size: Tensor, g: Tensor) -> Tensor:
        x = size
        for _ in range(_NEWTON_STEPS):  # from the right of a convex function: no overshooting
            power = g * q * x ** (q - 1.0)
            x = x - (x + power - size) / (1.0 - (1.0 - q) * power / x)
        return x

    return _jumping(input, strength, q, kept)


def prox_cel0(
    input: Tensor, step: Strength, weight: Strength, column_norm: Strength = 1.0
) -> Tensor:
    """Proximal step of CEL0, the continuous relaxation that keeps the minimisers of l0.

    With ``a`` the norm of a coefficient's column, and ``a^2 step < 1``:
    ``sign(t) min(|t|, max(|t| - sqrt(2 weight) a step, 0) / (1 - a^2 step))``: a dead zone, a
    steep part, and the identity beyond ``sqrt(2 weight) / a``. Otherwise hard thresholding at
    ``sqrt(2 step weight)``.

    Args:
        input: t.
        step: size of the proximal step, gamma.
        weight: price of a coefficient that is not zero, lambda.
        column_norm: a, a number or a tensor that broadcasts.

    Example:
        >>> prox_cel0(torch.tensor([0.4, 0.8, 1.5]), 0.5, 0.5)
        tensor([0.0000, 0.6000, 1.5000])
    """
    step, weight, a = (
        torch.as_tensor(v, dtype=wide_dtype(input), device=input.device)
        for v in (step, weight, column_norm)
    )
    size = input.abs().to(step.dtype)
    slope = 1.0 - a.square() * step
    dead = (size - (2.0 * weight).sqrt() * a * step).clamp(min=0.0)
    steep = torch.minimum(size, dead / slope.clamp(min=torch.finfo(size.dtype).eps))
    hard = torch.where(size > (2.0 * step * weight).sqrt(), size, 0.0)
    return input.sign() * torch.where(slope > 0, steep, hard).to(input.dtype)


def threshold_to_strength(form: str, threshold: float, q: float = 0.5) -> float:
    """Strength under which ``form`` sets to zero exactly what is at most ``threshold``.

    Example:
        >>> [round(threshold_to_strength(form, 0.6722), 3) for form in ("l1", "l0", "l1/2")]
        [0.672, 0.226, 0.3]
    """
    if not threshold >= 0.0:
        raise ValueError(f"threshold must be >= 0, got {threshold!r}")
    if form == "l1":
        return threshold
    if form in ("l0", "cel0"):
        return 0.5 * threshold**2
    if form not in FORMS:
        raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")
    q = _EXPONENTS.get(form, q)
    _check_exponent(q)
    found: float = (threshold / _unit_threshold(q)) ** (2.0 - q)
    return found


def threshold(
    input: Tensor, strength: Strength, *, form: str = "l1", q: float = 0.5, step: Strength = 1.0
) -> Tensor:
    """The operator named ``form``; ``cel0`` takes ``strength`` for its weight, and ``step``."""
    if form == "cel0":
        return prox_cel0(input, step, strength)
    if form == "lq":
        return prox_lq(input, strength, q)
    return {"l1": prox_l1, "l0": prox_l0, "l1/2": prox_l12, "l2/3": prox_l23}[form](input, strength)


def _check_exponent(q: float) -> None:
    if not 0.0 < q < 1.0:
        raise ValueError(f"q must lie in (0, 1), got {q!r}; for 1: l1, for 0: l0")


def _unit_threshold(q: float) -> float:
    """T of the strength 1; that of g is ``g^(1/(2-q))`` times it."""
    b = (2.0 * (1.0 - q)) ** (1.0 / (2.0 - q))
    return float(b + q * b ** (q - 1.0))


def _jumping(
    input: Tensor, strength: Strength, q: float, kept: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """``sign(t) kept(|t|)`` above the threshold, 0 below; the input itself for strength 0.

    What is not selected is worked out just above the threshold, so that its gradient is a number.
    """
    wide = wide_dtype(input)
    given = torch.as_tensor(strength, dtype=wide, device=input.device)
    g = given.clamp(min=1e-30 if wide == torch.float64 else 1e-12)
    size = input.abs().to(wide)
    bound = _unit_threshold(q) * g ** (1.0 / (2.0 - q))
    above = size > bound
    value = kept(torch.where(above, size, bound * (1.0 + 1e-6)), g)
    out = input.sign() * torch.where(above, value, 0.0).to(input.dtype)
    return torch.where(given > 0, out, input)
