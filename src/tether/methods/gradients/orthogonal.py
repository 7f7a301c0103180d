"""Gradients without their part along the weights, over many tensors, without a host sync."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.methods.weights.many import buckets, distances
from tether.methods.weights.projections import wide_dtype

Total = Callable[[Tensor], Tensor]


@torch.no_grad()
def orthogonalize_(
    grads: Sequence[Tensor], weights: Sequence[Tensor], *, rescale: bool = True,
    eps: float = 1e-30, total: Total | None = None,
) -> Tensor:  # fmt: skip
    """Remove from each gradient, in place, what lies along its weights: ``g - w <w, g> / <w, w>``.

    What is left of a gradient that lies along w entirely is rounding, and becomes 0.

    Args:
        grads: one tensor a weight, or the local shards of them.
        weights: of the same shapes.
        rescale: stretch what is left to the length of the whole gradient.
        eps: added to the denominators.
        total: sums partial values over the shards; None where nothing is split.

    Returns:
        cosines between gradients and weights before, ``[n]``.

    Example:
        >>> grad = torch.tensor([[1.0, 2.0]])
        >>> cosines = orthogonalize_([grad], [torch.tensor([[3.0, 0.0]])], rescale=False)
        >>> grad, cosines
        (tensor([[0., 2.]]), tensor([0.4472]))
    """
    products = []
    for run in buckets(weights):
        both = torch._foreach_mul([weights[i] for i in run], [grads[i] for i in run])
        products += [part.sum(dtype=wide_dtype(part)) for part in both]
    dots = torch.stack(products)
    dots = dots if total is None else total(dots)
    nothing: list[Tensor | None] = [None] * len(grads)
    sizes = torch.stack(distances(weights, nothing, total=total))
    before = torch.stack(distances(grads, nothing, total=total))
    shares = (dots / (sizes.square() + eps)).unbind()
    for run in buckets(weights):
        along = torch._foreach_mul(
            [weights[i] for i in run], [shares[i].to(weights[i].dtype) for i in run]
        )
        torch._foreach_sub_([grads[i] for i in run], along)
    after = torch.stack(distances(grads, nothing, total=total))
    rounding = after.new_tensor([8 * torch.finfo(grad.dtype).eps for grad in grads])
    stretch = before / (after + eps) if rescale else torch.ones_like(after)
    factors = torch.where(after < rounding * before, 0.0, stretch)
    torch._foreach_mul_(list(grads), [f.to(g.dtype) for f, g in zip(factors, grads, strict=True)])
    cosines: Tensor = dots / (sizes * before + eps)
    return cosines


def orthogonalize_gradients_(
    params: Iterable[nn.Parameter], *, rescale: bool = True, eps: float = 1e-30, min_ndim: int = 2
) -> None:
    """Make the gradients of parameters orthogonal to the parameters, tensor by tensor, in place.

    Args:
        params: those without a gradient, of one element, or of fewer dimensions are left alone.
        rescale: keep the length of each gradient.
        eps: added to the denominators.
        min_ndim: fewest dimensions of a tensor that is changed.

    Raises:
        TetherError: a sparse gradient.

    Example:
        >>> weight = nn.Parameter(torch.tensor([[1.0, 0.0]]))
        >>> weight.grad = torch.tensor([[3.0, 4.0]])
        >>> orthogonalize_gradients_([weight])
        >>> weight.grad
        tensor([[0., 5.]])
    """
    chosen = [p for p in params if p.grad is not None and p.ndim >= min_ndim and p.numel() > 1]
    if chosen:
        orthogonalize_(dense(chosen), [p.detach() for p in chosen], rescale=rescale, eps=eps)


def dense(params: Sequence[nn.Parameter]) -> list[Tensor]:
    """Their gradients; a sparse one is refused."""
    grads = [p.grad for p in params if p.grad is not None]
    if any(grad.is_sparse for grad in grads):
        raise TetherError("a gradient is turned as a whole: use Embedding(..., sparse=False)")
    return grads
