"""Random teachers: drawing a network anew, a student near it, and the head they are compared by."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.methods.matching import soft_cross_entropy

#: Deviation of parameters whose layer does not say how it is drawn, and of the projection head.
_DEVIATION = 0.02
_BOTTLENECK = 256


@torch.no_grad()
def random_teacher(model: nn.Module, seed: int) -> nn.Module:
    """A frozen copy of the model in evaluation mode, every layer drawn anew from the seed.

    Layers draw as they do when they are made (batch norms forget their statistics); parameters of
    layers that do not say how become normal with deviation 0.02.

    Example:
        >>> first, second = (random_teacher(nn.Linear(2, 2), 3) for _ in range(2))
        >>> torch.equal(first.weight, second.weight)
        True
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    teacher = copy.deepcopy(model).to("cpu")  # the same numbers on every device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in teacher.modules():
            draw = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
            if draw is not None:
                draw()
                continue
            for parameter in module.parameters(recurse=False):
                nn.init.trunc_normal_(parameter, std=_DEVIATION)
    return teacher.requires_grad_(False).eval().to(device)


@torch.no_grad()
def interpolate_init_(
    student: nn.Module, teacher: nn.Module, other: nn.Module, alpha: float, *,
    variance_preserving: bool = True,
) -> None:  # fmt: skip
    """Set the student to ``(1 - alpha) teacher + alpha other``, parameter by parameter.

    Args:
        student: changed in place; it may be ``other`` itself.
        teacher: of the same shapes.
        other: of the same shapes, drawn independently.
        alpha: distance from the teacher, in [0, 1].
        variance_preserving: divide by ``sqrt(alpha^2 + (1 - alpha)^2)``, so that weights keep
            their variance (scales of norm layers grow above 1).
    """
    scale = math.sqrt(alpha**2 + (1.0 - alpha) ** 2) if variance_preserving else 1.0
    _blend_(student, teacher, other, (1.0 - alpha) / scale, alpha / scale)


@torch.no_grad()
def neighborhood_init_(
    student: nn.Module, teacher: nn.Module, other: nn.Module, eps: float, *,
    variance_preserving: bool = False,
) -> None:  # fmt: skip
    """Set the student to ``teacher + eps other``, divided by ``sqrt(1 + eps^2)`` on request."""
    scale = math.sqrt(1.0 + eps**2) if variance_preserving else 1.0
    _blend_(student, teacher, other, 1.0 / scale, eps / scale)


def _blend_(
    student: nn.Module, teacher: nn.Module, other: nn.Module, near: float, far: float
) -> None:
    pairs = zip(student.parameters(), teacher.parameters(), other.parameters(), strict=True)
    for mine, theirs, drawn in pairs:
        mine.copy_(near * theirs.to(mine.device) + far * drawn.to(mine.device))


def distillation_cross_entropy(
    student_logits: Tensor, teacher_logits: Tensor, *, tau_s: float = 1.0, tau_t: float = 1.0
) -> Tensor:
    """``-mean_i sum_k q_ik log p_ik`` with ``p = softmax(z_s / tau_s)``, q the teacher's alike.

    Example:
        >>> distillation_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor(0.6931)
    """
    probs = (teacher_logits.detach() / tau_t).softmax(dim=-1)
    return soft_cross_entropy(student_logits / tau_s, probs).mean()


class ProjectionHead(nn.Module):
    """Two hidden layers, a bottleneck of length 1, and cosines with ``outputs`` directions.

    Shape: ``[N, inputs] -> [N, outputs]``, within [-1, 1].
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, _BOTTLENECK),
        )  # fmt: skip
        self.directions = nn.Parameter(torch.empty(outputs, _BOTTLENECK))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights; biases are 0."""
        for module in self.layers:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_DEVIATION)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.directions, std=_DEVIATION)

    def forward(self, features: Tensor) -> Tensor:
        """Cosines."""
        rows = F.normalize(self.layers(features.to(self.directions.dtype)), dim=-1)
        return F.linear(rows, F.normalize(self.directions, dim=-1))
