"""What alignment to an encoder is made of: the loss, the head, tokens brought to one grid."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tether.methods.features.tokens import grid_of, match_grids, mean_over_tokens

HEADS = ("mlp3", "linear", "none")
LOSSES = ("cosine", "l2", "smooth_l1")


def alignment_losses(
    student_tokens: Tensor, teacher_tokens: Tensor, mask: Tensor | None = None, *,
    loss: str = "cosine",
) -> Tensor:  # fmt: skip
    """One loss a sample, ``[N, T, d] -> [N]``: the mean over its tokens that count."""
    teacher = teacher_tokens.detach()
    if loss == "cosine":
        each = -F.cosine_similarity(student_tokens, teacher, dim=-1, eps=1e-8)
    elif loss == "l2":
        each = (student_tokens - teacher).square().mean(-1)
    else:
        each = F.smooth_l1_loss(student_tokens, teacher, reduction="none").mean(-1)
    return mean_over_tokens(each.unsqueeze(-1), mask).squeeze(-1)


def alignment_loss(
    student_tokens: Tensor, teacher_tokens: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Mean over samples and tokens of minus the cosine, in [-1, 1].

    Args:
        student_tokens: ``[N, T, d]``, already through the head.
        teacher_tokens: of the same shape; no gradient flows there.
        mask: bool ``[N, T]``, False for padding.

    Example:
        >>> import torch
        >>> alignment_loss(torch.ones(2, 3, 4), 5 * torch.ones(2, 3, 4))
        tensor(-1.)
    """
    return alignment_losses(student_tokens, teacher_tokens, mask).mean()


def make_head(kind: str, width: int, outputs: int) -> nn.Module:
    """The head between a student of some width and a teacher's: three layers, one, or none."""
    if kind == "none":
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width, outputs)
    hidden = 4 * width
    return nn.Sequential(
        nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


def paired_tokens(
    student: Tensor, teacher: Tensor, *, maps: bool, grid: int
) -> tuple[Tensor, Tensor, bool]:
    """Tokens of student and teacher that belong together, and whether they are all there were.

    Args:
        student: ``[N, T, d]``.
        teacher: ``[N, S, D]``.
        maps: the student's are a map: it is averaged to ``grid`` tokens a side where it has more.
        grid: see there.
    """
    own, other = grid_of(student), grid_of(teacher)
    if student.shape[1] == teacher.shape[1] and not (maps and own and own[1] > grid):
        return student, teacher, True
    if own is None or other is None or 1 in (student.shape[1], teacher.shape[1]):
        return student.mean(1, keepdim=True), teacher.mean(1, keepdim=True), False
    side = min(own[1], grid) if maps else own[1]
    return match_grids(own[0], side), match_grids(other[0], side), False
