"""Gradients without their part along the weights, over many tensors, without a host sync."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.methods.weights.many import distances
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
        >>> cosines = orthogonalize_([grad], [torch.tensor([[2.0, 0.0]])], rescale=False)
        >>> grad, cosines
        (tensor([[0., 2.]]), tensor([0.4472]))
    """
    dots = torch.stack([_dot(w, g) for w, g in zip(weights, grads, strict=True)])
    dots = dots if total is None else total(dots)
    nothing: list[Tensor | None] = [None] * len(grads)
    sizes = torch.stack(distances(weights, nothing, total=total))
    before = torch.stack(distances(grads, nothing, total=total))
    shares = (dots / (sizes.square() + eps)).unbind()
    for grad, weight, share in zip(grads, weights, shares, strict=True):
        grad.addcmul_(weight, share.to(weight.dtype), value=-1.0)  # writes no product out
    after = torch.stack(distances(grads, nothing, total=total))
    rounding = after.new_tensor([8 * torch.finfo(grad.dtype).eps for grad in grads])
    stretch = before / (after + eps) if rescale else torch.ones_like(after)
    factors = torch.where(after < rounding * before, 0.0, stretch)
    torch._foreach_mul_(list(grads), [f.to(g.dtype) for f, g in zip(factors, grads, strict=True)])
    cosines: Tensor = dots / (sizes * before + eps)
    return cosines


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Sum of the products, in float32 or wider; no product is written out where none must be."""
    wide = wide_dtype(first)
    if first.dtype == second.dtype == wide:
        last = torch.channels_last
        for layout in (torch.contiguous_format, *([last] if first.ndim == 4 else [])):
            if all(t.is_contiguous(memory_format=layout) for t in (first, second)):
                order = (0, 2, 3, 1) if layout is last else tuple(range(first.ndim))
                return torch.dot(*(t.permute(order).reshape(-1) for t in (first, second)))
    return (first.to(wide) * second.to(wide)).sum()


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
