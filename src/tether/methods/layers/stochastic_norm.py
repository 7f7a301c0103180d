"""The formula of stochastic normalisation, and batch-norm layers that follow it."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_BatchNorm = nn.modules.batchnorm._BatchNorm


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Biased variance and mean of each channel ``[C]``, in float32 or wider, without a graph."""
    wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    if wide.device.type == "cpu" and not torch.compiler.is_compiling():  # four times as fast there
        mean, variance = torch.batch_norm_update_stats(wide, None, None, 0.0)
        return variance, mean
    return torch.var_mean(wide, dim=[0, *range(2, x.ndim)], correction=0)


def stochastic_norm(
    x: Tensor, running: tuple[Tensor, Tensor], moments: tuple[Tensor, Tensor], use_batch: Tensor,
    weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Normalise some channels by the batch's own moments and the others by running ones.

    Gradients flow through the batch's moments where they are used; running ones are constants.

    Args:
        x: ``[N, C, ...]``.
        running: variance and mean ``[C]``, as they were before this batch.
        moments: :func:`batch_moments` of x.
        use_batch: bool ``[C]``, True where the batch's moments are used.
        weight: slopes ``[C]``.
        bias: shifts ``[C]``.
        eps: added to the variance.

    Example:
        >>> x = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
        >>> running = torch.ones(2), torch.zeros(2)
        >>> mask = torch.tensor([True, False])
        >>> stochastic_norm(x, running, batch_moments(x), mask, eps=0.0)
        tensor([[-1.,  1.],
                [ 1.,  3.]])
    """
    variance, mean = (
        torch.where(use_batch, own, kept) for own, kept in zip(moments, running, strict=True)
    )
    slope = torch.ones_like(mean) if weight is None else weight
    shift = torch.zeros_like(mean) if bias is None else bias
    out: Tensor = _Normalise.apply(x, slope, shift, mean, variance, use_batch, eps)
    return out


class _Normalise(torch.autograd.Function):
    """One pass forward and one more than batch norm backward, where two norms would need many."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor,
        use_batch: Tensor, eps: float,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps), use_batch)
        ctx.eps = eps
        out: Tensor = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)[0]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, use_batch = ctx.saved_tensors
        # as if all channels used the batch: dx = w s (g - mean(g) - z mean(g z)), z the output
        dx, dw, db = torch.ops.aten.native_batch_norm_backward(
            grad.contiguous(memory_format=_format(x)), x, weight, None, None, mean, scale, True,
            ctx.eps, [True, True, True],
        )  # fmt: skip
        # constants take no gradient: what the two means took is given back
        rows = x.numel() / x.shape[1]
        steep = torch.where(use_batch, 0.0, weight * scale.square() * dw / rows)
        flat = torch.where(use_batch, 0.0, weight * scale * db / rows) - mean * steep
        shape = (1, -1, *[1] * (x.ndim - 2))
        back = torch.addcmul(flat.view(shape).to(x.dtype), x, steep.view(shape).to(x.dtype))
        return dx.add_(back), dw, db, None, None, None, None


def _format(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


class StochasticLayer(_BatchNorm):
    """A batch-norm layer that draws, for each channel and forward, which moments it uses."""

    #: Probability of the batch's moments.
    use_batch_p: float
    #: What the layer was, and becomes again.
    plain_class: type[nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        """Batch norm in evaluation and with p = 1, else the mixture."""
        if not self.training or self.use_batch_p == 1.0:
            return super().forward(x)
        out = self._mixture(x)
        act, drop = getattr(self, "act", None), getattr(self, "drop", None)
        if isinstance(act, nn.Module) and isinstance(drop, nn.Module):  # timm's BatchNormAct
            out = act(drop(out))
        return out

    def _mixture(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        rows = x.numel() // x.shape[1]
        if rows < 2:
            raise ValueError(f"batch norm in training needs more than 1 value a channel: {x.shape}")
        assert self.running_mean is not None and self.running_var is not None
        p = self.use_batch_p
        use_batch = torch.rand(x.shape[1], device=x.device) < p if p else None
        moments = batch_moments(x)
        running = self.running_var.clone(), self.running_mean.clone()
        self._follow(moments, rows)
        if use_batch is None:
            use_batch = torch.zeros_like(running[0], dtype=torch.bool)
        return stochastic_norm(x, running, moments, use_batch, self.weight, self.bias, self.eps)

    @torch.no_grad()
    def _follow(self, moments: tuple[Tensor, Tensor], rows: int) -> None:
        """Move the running moments as batch norm does."""
        assert self.running_mean is not None and self.running_var is not None
        share: Any = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if share is None:
                share = 1.0 / self.num_batches_tracked.to(self.running_mean.dtype)
        variance, mean = (m.to(self.running_mean.dtype) for m in moments)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (rows / (rows - 1)), share)


class StochNorm1d(StochasticLayer, nn.BatchNorm1d):
    """For ``[N, C]`` and ``[N, C, L]``."""


class StochNorm2d(StochasticLayer, nn.BatchNorm2d):
    """For ``[N, C, H, W]``."""


class StochNorm3d(StochasticLayer, nn.BatchNorm3d):
    """For ``[N, C, D, H, W]``."""


@cache
def stochastic_class(base: Any) -> type[nn.Module] | None:
    """The class that a batch-norm layer takes on, None where its forward is not known."""
    for plain, ours in (
        (nn.BatchNorm1d, StochNorm1d), (nn.BatchNorm2d, StochNorm2d),
        (nn.BatchNorm3d, StochNorm3d),
    ):  # fmt: skip
        if base is plain:
            return ours
    known = base.__name__ == "BatchNormAct2d" or base.forward is _BatchNorm.forward
    return type(f"Stoch{base.__name__}", (StochasticLayer, base), {}) if known else None
