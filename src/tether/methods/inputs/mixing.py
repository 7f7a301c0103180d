"""What methods that mix samples share: ratios, pairs, boxes, mixed rows and mixed targets.

Every formula takes one ratio for the whole batch (a number or a 0-dim tensor), or one a row
(``[N]``), and never waits for the device.
"""

from __future__ import annotations

from typing import NamedTuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.losses import IGNORE

Ratio = Union[Tensor, float]


class Mix(NamedTuple):
    """How the rows of a batch were mixed; ``batch.extras["mix"]`` in the loss.

    Row i is ``lam_i`` of what was row i and ``1 - lam_i`` of what was row ``permutation_i``.
    """

    permutation: Tensor
    lam: Tensor


def sample_beta(alpha: Tensor, beta: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draws from Beta(alpha, beta), of the broadcast shape, without a graph.

    In logarithms, since for small parameters both gamma variables underflow to 0.

    Example:
        >>> draws = sample_beta(torch.full((1000,), 0.01), torch.tensor(0.01))
        >>> bool(((draws >= 0) & (draws <= 1)).all())
        True
    """
    both = ((alpha, beta), (beta, alpha))
    with torch.no_grad():
        first, second = (_log_gamma(x + torch.zeros_like(y), generator) for x, y in both)
        return torch.sigmoid(first - second)


def _log_gamma(shape: Tensor, generator: torch.Generator | None) -> Tensor:
    """Logarithm of Gamma(shape) draws: ``log Gamma(shape + 1) + log(U) / shape``."""
    uniform = torch.rand(shape.shape, generator=generator, dtype=shape.dtype, device=shape.device)
    tiny = torch.finfo(shape.dtype).tiny
    larger = torch._standard_gamma(shape + 1.0, generator=generator)
    return larger.clamp(min=tiny).log() + uniform.clamp(min=tiny).log() / shape


def mixing_ratio(
    alpha: float, size: tuple[int, ...] = (), *, generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:  # fmt: skip
    """The share of the first sample, drawn from Beta(alpha, alpha).

    Args:
        alpha: above 0; towards 0 one of the two samples has nearly all.
        size: ``()`` for one ratio a batch, ``(N,)`` for one a row.
        generator: of random numbers, on ``device``.
        device: where the ratio is wanted.
    """
    both = torch.full(size, float(alpha), device=device)
    return sample_beta(both, both, generator)


def partners(
    size: int, *, generator: torch.Generator | None = None, device: torch.device | str = "cpu",
    others: bool = False,
) -> Tensor:  # fmt: skip
    """The row that each row is mixed with: a random permutation, int64 ``[N]``.

    Args:
        size: N.
        generator: of random numbers, on ``device``.
        device: where the rows are wanted.
        others: no row with itself (unless N is 1): each with the next one of a random order.
    """
    order = torch.randperm(size, generator=generator, device=device)
    if not others:
        return order
    return torch.empty_like(order).scatter_(0, order, order.roll(-1))


def _as_share(lam: Ratio, values: Tensor) -> Tensor:
    """The ratio in the values' type and place, broadcast over all but the rows."""
    share = torch.as_tensor(lam, device=values.device).to(values.dtype)
    return share.reshape(-1, *[1] * (values.ndim - 1)) if share.ndim else share


def mix_rows(values: Tensor, permutation: Tensor, lam: Ratio) -> Tensor:
    """``lam x + (1 - lam) x[permutation]``, the very rows where lam is 1.

    Example:
        >>> mix_rows(torch.tensor([[1.0], [3.0]]), torch.tensor([1, 0]), 0.75)
        tensor([[1.5000],
                [2.5000]])
    """
    return mix_pairs(values, values[permutation.to(values.device)], lam)


def mix_pairs(first: Tensor, second: Tensor, lam: Ratio) -> Tensor:
    """``lam first + (1 - lam) second``; a gradient flows to both and to lam."""
    return torch.lerp(second, first, _as_share(lam, first))


def cutmix_box(
    height: int, width: int, lam: Ratio, *, generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A random box of the share ``1 - lam`` of an image, clipped to it.

    Its sides are ``int(H r)`` and ``int(W r)`` with ``r = sqrt(1 - lam)``, its centre any pixel.

    Returns:
        Bool ``[H, W]``, True inside the box; and the share of pixels outside it, 0-dim.
    """
    lam = torch.as_tensor(lam, device=device)
    root = (1.0 - lam).clamp(min=0.0).sqrt()
    inside = []
    for length in (height, width):
        centre = torch.randint(length, (), generator=generator, device=device)
        half = (length * root).to(torch.int64) // 2
        at = torch.arange(length, device=device)
        inside.append((at >= centre - half) & (at < centre + half))
    box = inside[0][:, None] & inside[1][None, :]
    return box, 1.0 - box.sum() / (height * width)


def paste(values: Tensor, permutation: Tensor, box: Tensor) -> Tensor:
    """The pixels of the partner inside the box, ``[N, C, H, W]``; box ``[H, W]`` or a row each."""
    box = box.to(values.device)
    box = box[:, None] if box.ndim == 3 else box
    return torch.where(box, values[permutation.to(values.device)], values)


def mixed_targets(
    targets: Tensor, permutation: Tensor, lam: Ratio, *, num_classes: int | None = None
) -> Tensor:
    """Targets of mixed rows, ``lam y + (1 - lam) y[permutation]``, without a graph.

    Args:
        targets: class indices ``[N]``, which become probabilities; else class probabilities, 0/1
            matrices or numbers, in their own shape. Rows with the index -100 become zero; a row
            whose partner has it keeps its own class whole.
        permutation: the partner of each row ``[N]``.
        lam: share of the row itself.
        num_classes: for class indices.

    Example:
        >>> mixed_targets(torch.tensor([1, 0]), torch.tensor([1, 0]), 0.75, num_classes=2)
        tensor([[0.2500, 0.7500],
                [0.7500, 0.2500]])
    """
    permutation = permutation.to(targets.device)
    lam = torch.as_tensor(lam, device=targets.device).detach()
    if targets.is_floating_point():
        return mix_rows(targets, permutation, lam)
    if num_classes is None:
        raise ValueError("num_classes is needed for class indices")
    theirs = targets[permutation]
    theirs = torch.where(theirs == IGNORE, targets, theirs)
    own, other = (F.one_hot(t.clamp(min=0), num_classes).to(lam.dtype) for t in (targets, theirs))
    return mix_pairs(own, other, lam) * (targets != IGNORE)[:, None]


def mixable(targets: Tensor, permutation: Tensor, lam: Ratio) -> Tensor:
    """One ratio a row ``[N]``: 1 where the row or its partner has the label -100."""
    lam = torch.as_tensor(lam, device=permutation.device).expand(len(permutation))
    if targets.is_floating_point() or targets.ndim != 1:
        return lam
    counts = (targets != IGNORE).to(permutation.device)
    return torch.where(counts & counts[permutation], lam, torch.ones_like(lam))
