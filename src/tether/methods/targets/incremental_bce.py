"""Incremental loss: labels reach the outputs of the present task's classes only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.matching import soft_cross_entropy
from tether.methods.targets.columns import Classes, check_classes, columns, indices_of

if TYPE_CHECKING:
    from tether.engine.context import Context

OLD_LOGITS = ("distil", "negative", "mask")


def incremental_losses(
    logits: Tensor, targets: Tensor, taught: Tensor | None = None, *, softmax: bool = False
) -> Tensor:
    """A loss a row on some columns of the logits: ``[N, K] -> [N]``.

    ``sum_{c in taught} BCE(sigmoid(z_c), t_c)``; with ``softmax``, cross-entropy with
    ``softmax(z[taught])``.

    Args:
        logits: ``[N, K]``.
        targets: class indices ``[N]`` (rows below 0 do not count) or probabilities ``[N, K]``.
        taught: columns that get labels; None: all.
        softmax: one choice among the columns instead of one decision each.

    Example:
        >>> z, y = torch.zeros(1, 4), torch.tensor([3])
        >>> incremental_losses(z, y, torch.tensor([2, 3]))  # 2 log 2
        tensor([1.3863])
    """
    hot = targets
    if targets.ndim == 1:
        hot = torch.zeros_like(logits).scatter_(1, targets.clamp(min=0)[:, None], 1.0)
    hot = hot.to(logits.dtype)
    if taught is not None:
        logits, hot = logits[:, taught], hot[:, taught]
    if softmax:
        losses = soft_cross_entropy(logits, hot)
    else:
        losses = F.binary_cross_entropy_with_logits(logits, hot, reduction="none").sum(1)
    return torch.where(targets >= 0, losses, 0.0) if targets.ndim == 1 else losses


@register(
    "incremental_bce",
    kind="targets",
    paper="arXiv:2203.17269",
    needs=("class_labels",),
    cost="light",
    losses=("cross_entropy",),
    search_space={"old_logits": ("choice", "distil", "mask")},
)
class IncrementalBCE(Method):
    """Teach only the outputs of the present task: a sigmoid each, or a softmax among them.

    Helps where classes come task by task and earlier data are gone: a softmax over all classes
    learns within a few steps that old ones never occur. Hurts nothing else; with all classes in
    one task it is plain training with a sigmoid head. Old outputs then move through the features
    only, which :class:`~tether.PredictionDistillation` holds.

    With new classes C, old ones O and a row's label y::

        distil:    sum_{c in C} BCE(sigmoid(z_c), 1[y = c])
        negative:  sum_{c in C and O} BCE(sigmoid(z_c), 1[y = c])
        mask:      -log softmax(z_C)_y

    It replaces the task loss. What is predicted is the largest logit among the classes seen.

    Args:
        old_logits: what the labels say to outputs of old classes: ``"distil"``, nothing, since a
            teacher does (default); ``"negative"``, that they are absent; ``"mask"``, nothing, and
            the new ones share a softmax.
        old_classes: classes of earlier tasks: indices, or the number of the first ones. None: in a
            sequence of tasks what the sequence knows, elsewhere no class is old.
        new_classes: classes of the present task, in the same way; None: all that are not old.

    Shape:
        Logits ``[N, K]``; class indices ``[N]`` or probabilities ``[N, K]``.

    State:
        None.

    Cost:
        That of the plain loss.

    Raises:
        ValueError: an unknown ``old_logits``, or classes that are none.
        TetherError: the head has no such output, or no class is new.

    References:
        James Seale Smith, Junjiao Tian, Shaunak Halbe, Yen-Chang Hsu, Zsolt Kira, "A Closer Look
        at Rehearsal-Free Continual Learning", CVPR Workshops 2023, arXiv:2203.17269. The sigmoid
        outputs are those of Sylvestre-Alvise Rebuffi, Alexander Kolesnikov, Georg Sperl, Christoph
        Lampert, "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017,
        arXiv:1611.07725.

    Example:
        >>> IncrementalBCE(old_classes=5)
        IncrementalBCE(old_classes=5)
    """

    def __init__(
        self,
        old_logits: str = "distil",
        old_classes: Classes = None,
        new_classes: Classes = None,
    ) -> None:
        if old_logits not in OLD_LOGITS:
            raise ValueError(f"old_logits {old_logits!r} is not one of {', '.join(OLD_LOGITS)}")
        check_classes("old_classes", old_classes)
        check_classes("new_classes", new_classes)
        self.old_logits = old_logits
        self.old_classes = old_classes
        self.new_classes = new_classes

    def setup(self, ctx: Context) -> None:
        """Which columns get labels."""
        old = set(indices_of(self.old_classes or []))
        columns(ctx, "old_classes", self.old_classes)
        new = columns(ctx, "new_classes", self.new_classes)
        if new is None:
            new = columns(ctx, "new_classes", [k for k in range(ctx.num_classes) if k not in old])
        assert new is not None
        if not len(new):
            raise TetherError(f"method {ctx.name!r}: all {ctx.num_classes} classes are old ones")
        if self.old_logits == "negative":
            taught = sorted({*new.tolist(), *old})
            new = columns(ctx, "new_classes", taught)
        self._taught = new

    def sample_loss(self, batch: Batch) -> Tensor:
        """A loss a row, on the taught columns."""
        softmax = self.old_logits == "mask"
        return incremental_losses(batch.logits, batch.targets, self._taught, softmax=softmax)
