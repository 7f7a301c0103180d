"""Changes of the inputs: blur, and steps of an attack of limited size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.errors import ConfigError

NORMS = ("linf", "l2")
_TINY = 1e-30


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Images smoothed by a normal kernel, the borders repeated outwards.

    The kernel is cut at 3 sigma (``int(3 sigma + 0.5)`` pixels) and sums to one, so that blurring
    before or after normalisation is the same.

    Args:
        images: ``[N, C, H, W]``.
        sigma: in pixels, from 0 (unchanged).

    Cost:
        O(N C H W sigma).

    Raises:
        ConfigError: not four dimensions, a negative sigma.

    Example:
        >>> gaussian_blur(torch.ones(1, 1, 4, 4), 1.0).sum().round().item()
        16.0
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise ConfigError(
            f"only images [N, C, H, W] can be blurred, not {tuple(images.shape)}: pass blur=()"
        )
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ConfigError(f"sigma of a blur must be from 0, not {sigma}")
    reach = int(3 * sigma + 0.5)
    if not reach:
        return images
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(images)
    n, c, h, w = images.shape
    flat = images.reshape(n * c, 1, h, w)
    flat = F.conv2d(
        F.pad(flat, (0, 0, reach, reach), mode="replicate"), kernel[None, None, :, None]
    )
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), kernel[None, None, None])
    return flat.reshape(n, c, h, w)


@dataclass(frozen=True)
class Attack:
    """A search for a small change of the input that makes the prediction wrong.

    One step is the fast gradient sign method (Linf) or its L2 form; several are projected
    gradient descent from a random start.

    Args:
        epsilon: largest size of the change, in units of the input before normalisation (pixels in
            [0, 1], say); from 0.
        norm: ``"linf"``: every number moves by at most epsilon; ``"l2"``: the Euclidean size of
            the whole change is at most epsilon.
        steps: from 1.
        step_size: of each step; None: epsilon for one step, else ``2.5 epsilon / steps``.

    Raises:
        ConfigError: numbers out of range, an unknown norm.

    References:
        Ian J. Goodfellow, Jonathon Shlens, Christian Szegedy, "Explaining and Harnessing
        Adversarial Examples", 2014, arXiv:1412.6572.
        Aleksander Madry, Aleksandar Makelov, Ludwig Schmidt, Dimitris Tsipras, Adrian Vladu,
        "Towards Deep Learning Models Resistant to Adversarial Attacks", 2017, arXiv:1706.06083.

    Example:
        >>> Attack(0.1).name, Attack(0.5, "l2", steps=10).name
        ('fgsm_linf', 'pgd_l2')
    """

    epsilon: float
    norm: str = "linf"
    steps: int = 1
    step_size: float | None = None

    def __post_init__(self) -> None:
        sound = math.isfinite(self.epsilon) and self.epsilon >= 0 and self.steps >= 1
        if not sound or self.norm not in NORMS:
            raise ConfigError(
                "an attack needs epsilon from 0, steps from 1 and a norm among "
                f"{', '.join(NORMS)}, not {self.epsilon}, {self.steps}, {self.norm!r}"
            )

    @property
    def name(self) -> str:
        """Such as ``fgsm_linf`` or ``pgd_l2``."""
        return f"{'fgsm' if self.steps == 1 else 'pgd'}_{self.norm}"

    @property
    def stride(self) -> float:
        """The size of a step."""
        if self.step_size is not None:
            return self.step_size
        return self.epsilon if self.steps == 1 else 2.5 * self.epsilon / self.steps


def _per_sample(values: Tensor) -> Tensor:
    """Euclidean size of each sample, shaped to multiply it."""
    sizes: Tensor = values.flatten(1).norm(dim=1)
    return sizes.reshape(-1, *[1] * (values.ndim - 1))


def direction(gradient: Tensor, norm: str) -> Tensor:
    """Along which a unit of the norm raises a loss most.

    Args:
        gradient: of the loss, with respect to each sample ``[N, ...]``.
        norm: ``"linf"`` or ``"l2"``.
    """
    if norm == "linf":
        return gradient.sign()
    return gradient / _per_sample(gradient).clamp_min(_TINY)


def limited(change: Tensor, attack: Attack) -> Tensor:
    """The nearest change that the attack allows.

    Args:
        change: of each sample ``[N, ...]``, float32.
        attack: tells norm and epsilon.
    """
    if attack.norm == "linf":
        return change.clamp(-attack.epsilon, attack.epsilon)
    found: Tensor = change * (attack.epsilon / _per_sample(change).clamp_min(_TINY)).clamp_max(1.0)
    return found


def start(random: Tensor, attack: Attack) -> Tensor:
    """A random change that the attack allows: uniform for Linf, about half as long for L2.

    Args:
        random: standard normal numbers ``[N, ...]``.
        attack: tells norm and epsilon.
    """
    if attack.norm == "linf":
        return torch.erf(random / math.sqrt(2)) * attack.epsilon  # uniform
    return random / math.sqrt(random[0].numel()) * attack.epsilon / 2


def single_step(
    change: Tensor, gradient: Tensor, step_size: float, epsilon: float | None = None
) -> Tensor:
    """A change after one step of the fast gradient sign method.

    Args:
        change: where the step begins, ``[N, ...]``.
        gradient: of the loss there.
        step_size: how far every number moves.
        epsilon: most that a number may have moved in all; None: no limit.

    Example:
        >>> single_step(torch.tensor([[0.1, 0.1]]), torch.tensor([[3.0, -1.0]]), 0.3, 0.25)
        tensor([[ 0.2500, -0.2000]])
    """
    moved = change + step_size * direction(gradient, "linf")
    return moved if epsilon is None else limited(moved, Attack(epsilon))
