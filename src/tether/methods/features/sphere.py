"""Forces on embeddings of the unit sphere: views together, all apart, a random kick."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def on_sphere(rows: Tensor) -> Tensor:
    """Rows of length 1 in float32 or wider."""
    wide = rows.float() if rows.element_size() < 4 else rows
    return F.normalize(wide, dim=-1, eps=1e-12)


def multi_view_centroid_loss(online: Tensor, target: Tensor) -> Tensor:
    """Mean of ``2 - 2 <z, c>`` with c the centroid of an image's target views, in [0, 4].

    Args:
        online: embeddings ``[N, V, D]``; normalised here.
        target: those of the target network, of the same images; no gradient flows there.

    Example:
        >>> z = torch.eye(3).unsqueeze(1)
        >>> multi_view_centroid_loss(z, 5 * z), multi_view_centroid_loss(z, z.flip(0))
        (tensor(0.), tensor(1.3333))
    """
    centroids = on_sphere(on_sphere(target.detach()).mean(1, keepdim=True))
    return (2.0 - 2.0 * (on_sphere(online) * centroids).sum(-1)).mean()


def second_moment(embeddings: Tensor) -> Tensor:
    """``mean z z^T`` of normalised rows, ``[..., D] -> [D, D]``; its trace is 1."""
    rows = on_sphere(embeddings).flatten(0, -2)
    return rows.T @ rows / max(len(rows), 1)


def spectral_dispersion_loss(embeddings: Tensor) -> Tensor:
    """``D |C|_F^2 - 1`` of the second moment C: 0 where rows fill all directions alike.

    Full collapse gives D - 1; n < D rows give D / n - 1 at least. This has the minimum of the
    singular value loss of MSBReg, whose published form it is not.

    Args:
        embeddings: ``[..., D]``; normalised here.

    Example:
        >>> spectral_dispersion_loss(torch.eye(4)), spectral_dispersion_loss(torch.ones(9, 4))
        (tensor(0.), tensor(3.))
    """
    return embeddings.shape[-1] * second_moment(embeddings).square().sum() - 1.0


def brownian_diffusion_loss(
    embeddings: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Mean of ``<z, u>`` with a random direction u for each image: 0 on average.

    Its gradient kicks the views of an image together along the sphere.

    Args:
        embeddings: ``[N, V, D]``; normalised here.
        generator: of the random directions.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> abs(float(brownian_diffusion_loss(torch.ones(500, 2, 8), generator=draw))) < 0.05
        True
    """
    rows = on_sphere(embeddings)
    count, _, width = rows.shape
    drawn = torch.randn(count, 1, width, generator=generator, device=rows.device, dtype=rows.dtype)
    return (rows * on_sphere(drawn)).sum(-1).mean()


def moment_rank(moment: Tensor) -> Tensor:
    """``exp`` of the entropy of a second moment's eigenvalues: 1 when collapsed, D at most."""
    values = torch.linalg.eigvalsh(moment).clamp(min=0.0)
    shares = values / values.sum().clamp(min=1e-12)
    return torch.exp(-torch.xlogy(shares, shares).sum())
