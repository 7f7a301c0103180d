"""Whether training has run into the limits of floating point, or only lengthens the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.errors import ConfigError
from tether.measure.results import Record


def softmax_collapse_fraction(logits: Tensor) -> float:
    """Share of samples whose softmax has rounded to 0 and 1, in the type of the logits.

    Such a sample, if it is fitted, no longer gives the right class any gradient. Measure logits in
    the type in which the loss is computed: in float32 it takes a margin of about 17, in float16 of
    8. A remedy is a wider type for the loss, or :class:`tether.StableMax`.

    ``mean_i [ sum_j exp(z_ij - max_j z_ij) == 1 ]``

    Args:
        logits: floating, as they enter the loss.

    Shape:
        N x K.

    Raises:
        ConfigError: other shapes or types, or logits that are not finite.

    References:
        Lucas Prieto, Melih Barsbey, Pedro A. M. Mediano, Tolga Birdal, "Grokking at the Edge of
        Numerical Stability", ICLR 2025, arXiv:2501.04697.

    Example:
        >>> softmax_collapse_fraction(torch.tensor([[200.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
        0.5
    """
    return float(_collapsed(_logits(logits)).double().mean())


@dataclass(frozen=True)
class SoftmaxSaturation(Record):
    """What :func:`softmax_saturation` returns.

    Attributes:
        collapsed: share of samples whose softmax has rounded to 0 and 1.
        zero_loss: share of samples whose loss is exactly 0.
        zero_gradient: share of samples whose gradient is exactly 0 in all logits.
        dtype: in which it was computed.
    """

    collapsed: float
    zero_loss: float
    zero_gradient: float
    dtype: str


def softmax_saturation(logits: Tensor, targets: Tensor) -> SoftmaxSaturation:
    """How many samples cross-entropy no longer learns from, by what is exactly zero.

    A falling training loss hides it: the mean loss is carried by ever fewer samples.

    Args:
        logits: floating, in the type in which the loss is computed.
        targets: class indices.

    Shape:
        N x K, N.

    Raises:
        ConfigError: shapes or types that do not fit, logits that are not finite.

    References:
        Lucas Prieto, Melih Barsbey, Pedro A. M. Mediano, Tolga Birdal, "Grokking at the Edge of
        Numerical Stability", ICLR 2025, arXiv:2501.04697.

    Example:
        >>> found = softmax_saturation(torch.tensor([[200.0, 0.0], [30.0, 0.0]]), torch.zeros(2))
        >>> found.zero_loss, found.zero_gradient
        (1.0, 0.5)
    """
    rows = _logits(logits)
    classes = torch.as_tensor(targets, device=rows.device).long()
    if classes.shape != rows.shape[:1]:
        raise ConfigError(f"{len(rows)} rows of logits, targets of shape {tuple(classes.shape)}")
    if int(classes.min()) < 0 or int(classes.max()) >= rows.shape[1]:
        raise ConfigError(f"targets are classes from 0 to {rows.shape[1] - 1}")
    losses = F.cross_entropy(rows, classes, reduction="none")
    gradient = rows.softmax(1) - F.one_hot(classes, rows.shape[1]).to(rows.dtype)
    return SoftmaxSaturation(
        float(_collapsed(rows).double().mean()),
        float((losses == 0).double().mean()),
        float((gradient == 0).all(1).double().mean()),
        str(rows.dtype).removeprefix("torch."),
    )


@dataclass(frozen=True)
class GradientAlignment(Record):
    """What :func:`weight_gradient_alignment` returns.

    Attributes:
        overall: cosine between the step and all weights as one vector.
        tensors: the same for each tensor, by name.
    """

    overall: float
    tensors: dict[str, float]


def weight_gradient_alignment(
    params: nn.Module | Mapping[str, nn.Parameter] | Iterable[tuple[str, nn.Parameter]],
) -> GradientAlignment:
    """How much a gradient step only lengthens the weights: the cosine between step and weights.

    Near 1, training scales the network up and changes nothing else; near 0, it turns the weights;
    below 0, it shrinks them. Call it after ``backward``.

    ``cos(-g, w) = -<g, w> / (|g| |w|)``

    Args:
        params: a model, or its named parameters; those without a gradient are left out.

    Shape:
        Any; NaN for a tensor whose weights or gradient vanish.

    Raises:
        ConfigError: no parameter has a gradient.

    References:
        Lucas Prieto, Melih Barsbey, Pedro A. M. Mediano, Tolga Birdal, "Grokking at the Edge of
        Numerical Stability", ICLR 2025, arXiv:2501.04697.

    Example:
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> (weight ** 2).sum().backward()
        >>> weight_gradient_alignment({"weight": weight}).overall
        -1.0
    """
    if isinstance(params, nn.Module):
        named = list(params.named_parameters())
    else:
        named = list(params.items() if isinstance(params, Mapping) else params)
    sums = {}
    for name, param in named:
        if param.grad is not None:
            w, g = param.detach().double(), param.grad.detach().double()
            sums[name] = torch.stack([-(w * g).sum(), w.square().sum(), g.square().sum()]).cpu()
    if not sums:
        raise ConfigError("no parameter has a gradient: call it after backward, before zero_grad")
    whole = torch.stack(list(sums.values())).sum(0)
    return GradientAlignment(_cosine(whole), {name: _cosine(row) for name, row in sums.items()})


def _cosine(sums: Tensor) -> float:
    inner, weights, gradient = sums.tolist()
    product = (weights * gradient) ** 0.5
    return inner / product if product > 0 else float("nan")


def _logits(logits: Tensor) -> Tensor:
    rows = torch.as_tensor(logits).detach()
    if rows.ndim != 2 or not rows.is_floating_point() or not rows.numel():
        raise ConfigError(
            f"logits must be floating, samples x classes, not {rows.dtype} {tuple(rows.shape)}"
        )
    if not bool(torch.isfinite(rows).all()):
        raise ConfigError("the logits hold values that are infinite or not numbers")
    return rows


def _collapsed(rows: Tensor) -> Tensor:
    return (rows - rows.amax(1, keepdim=True)).exp().sum(1) == 1
