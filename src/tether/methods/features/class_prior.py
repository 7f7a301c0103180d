"""The class priors of AdaRand: means that move, deviations, and the features' running means."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.methods.features.adarand_losses import adarand_prior_gradient, adarand_prior_loss
from tether.methods.features.class_moments import MIN_STD, ClassMoments

#: Devices on which Adam has a fused form.
_FUSED = ("cpu", "cuda", "mps")


def prior_adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Adam:
    """Adam for the prior, fused: one pass over its numbers, maskable by a loss scaler."""
    given = list(parameters)
    return torch.optim.Adam(given, lr=lr, fused=all(p.device.type in _FUSED for p in given))


class ClassPrior(nn.Module):
    """Means (a parameter), deviations, running means of the features, and where they began."""

    mu: nn.Parameter
    sigma: Tensor
    running_mu: Tensor
    start_mu: Tensor

    def __init__(self, num_classes: int, num_features: int, device: torch.device | str) -> None:
        super().__init__()
        zeros = torch.zeros(num_classes, num_features, device=device)
        self.mu = nn.Parameter(zeros.clone())
        for name in ("sigma", "running_mu", "start_mu"):
            self.register_buffer(name, zeros.clone())

    @torch.no_grad()
    def begin(self, moments: ClassMoments, who: str) -> None:
        """Start from the statistics of the pretrained features; from extremes where they are kept.

        A uniform prior between the least and the largest feature is given by its middle and its
        deviation, ``(high - low) / sqrt(12)``.

        Raises:
            TetherError: classes without samples, by number, in the name of ``who``.
        """
        empty = (moments.weight == 0).nonzero().flatten().tolist()
        if empty:
            shown = ", ".join(map(str, empty[:10])) + (" ..." if len(empty) > 10 else "")
            raise TetherError(
                f"method {who!r} starts from the features of every class, but {len(empty)} of "
                f"{len(self.mu)} classes have no training sample: {shown}; give train_data that "
                "hold every class, or a head without these"
            )
        mu, sigma = moments.mean, moments.std()
        if moments.low is not None and moments.high is not None:
            mu, sigma = (moments.low + moments.high) / 2, (moments.high - moments.low) / 12**0.5
        self.mu.copy_(mu)
        self.start_mu.copy_(mu)
        self.sigma.copy_(sigma.clamp(min=MIN_STD))
        self.running_mu.copy_(moments.mean)

    @torch.no_grad()
    def follow(self, sums: Tensor, counts: Tensor, alpha: float, mask: Tensor | None) -> None:
        """Running means ``r <- alpha r + (1 - alpha) m`` for the classes that were present.

        A class with a total weight w below one sample (soft labels) moves by ``w (1 - alpha)``; an
        absent class keeps its bits. ``mask`` 0 leaves all as they were.
        """
        share = counts.clamp(max=1.0) * (1.0 - alpha)
        if mask is not None:
            share = share * mask
        batch_means = sums / counts.clamp(min=torch.finfo(counts.dtype).tiny)[:, None]
        moved = torch.lerp(self.running_mu, batch_means, share[:, None])
        self.running_mu.copy_(torch.where((share > 0)[:, None], moved, self.running_mu))

    @torch.no_grad()
    def set_gradient(self, distance: str, update: str) -> None:
        """Give mu the gradient of its loss, for the optimiser that steps it."""
        self.mu.grad = adarand_prior_gradient(
            self.mu, self.running_mu, distance=distance, update=update
        )

    def numbers(self) -> dict[str, float]:
        """Mean length, way gone from the start, and mean cosines to each other and to r."""
        mu = self.mu.detach()
        apart = adarand_prior_loss(mu, mu, distance="cosine", update="inter") + 1.0
        gap = adarand_prior_loss(mu, self.running_mu, distance="cosine", update="intra")
        way, start = (mu - self.start_mu).norm(), self.start_mu.norm()
        return {
            "prior_norm": float(mu.norm(dim=1).mean()),
            "prior_drift": float(way / start.clamp(min=1e-12)),
            "prior_pair_cosine": float(apart) if len(mu) > 1 else float("nan"),
            "prior_running_cosine": 1.0 - float(gap),
        }
