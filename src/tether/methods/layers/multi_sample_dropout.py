"""Multi-sample dropout: several dropout masks on the head's input, one pass through the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tether.batch import Batch
from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method

if TYPE_CHECKING:
    from tether.engine.context import Context

REDUCTIONS = ("loss", "logits")


def dropout_samples(
    features: Tensor, p: float, num_samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Copies of feature rows under masks of their own: ``[N, d] -> [num_samples, N, d]``.

    Each number is kept with probability ``1 - p`` and then divided by it.

    Args:
        features: ``[N, d]``.
        p: share that is dropped, in [0, 1).
        num_samples: number of masks M.
        generator: of the features' device.

    Example:
        >>> dropout_samples(torch.ones(1, 2), 0.0, 3).shape
        torch.Size([3, 1, 2])
    """
    shape = (num_samples, *features.shape)
    draws = torch.rand(shape, generator=generator, device=features.device)
    return features * (draws >= p).to(features.dtype).mul_(1.0 / (1.0 - p))


def multi_sample_loss(
    logits: Tensor, targets: Tensor, loss_fn: Callable[[Tensor, Tensor], Tensor],
    *, reduce: str = "loss",
) -> Tensor:  # fmt: skip
    """One loss a row over several outputs of it: their mean loss, or the loss of their mean.

    Args:
        logits: ``[M, N, ...]``.
        targets: ``[N, ...]``.
        loss_fn: from (logits, targets) of any number of rows to one loss each.
        reduce: ``"loss"`` averages the losses; ``"logits"`` first averages the logits, which is
            never more and tends to no dropout at all as M grows.

    Returns:
        ``[N]``.

    Example:
        >>> z = torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]]])
        >>> y = torch.tensor([0])
        >>> loss = torch.nn.CrossEntropyLoss(reduction="none")
        >>> multi_sample_loss(z, y, loss), multi_sample_loss(z, y, loss, reduce="logits")
        (tensor([0.4100]), tensor([0.3133]))
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")
    if reduce == "logits":
        return loss_fn(logits.mean(dim=0), targets)
    samples = logits.shape[0]
    repeated = targets.repeat(samples, *[1] * (targets.ndim - 1))  # sample by sample, as logits
    return loss_fn(logits.flatten(0, 1), repeated).view(samples, -1).mean(dim=0)


@register(
    "multi_sample_dropout",
    kind="layers",
    paper="arXiv:1905.09788",
    needs=("features",),
    cost="light",
    losses=("cross_entropy", "binary_cross_entropy", "mse", "l1", "custom"),
    neutral={"p": 0.0},
    stochastic=True,
    search_space={"p": ("uniform", 0.1, 0.6), "num_samples": ("choice", 2, 4, 8)},
)
class MultiSampleDropout(Method):
    """Several dropout masks before the head in one step, and the mean of their losses.

    A step sees M thinned networks at the price of M heads: the gradient of the head is as noisy
    as that of M steps together, so that larger rates can be afforded. Helps where dropout before
    the head is wanted and slows training: small data, small batches. Does little with large
    batches, whose gradients are calm already. Behind an R-Drop term it adds a second kind of
    dropout noise: lower one of the two.

    With features h, the head c and masks m_1 ... m_M (Bernoulli, scaled by ``1 / (1 - p)``)::

        loss_i = 1/M sum_s loss(c(m_s * h_i), y_i)

    The expected loss does not depend on M; the variance that the masks give the head's gradient
    is 1/M of a single one's. In evaluation nothing is dropped. Nothing is put into the model: the
    samples are taken from the head's input where the loss is made, so that the model's own output
    (for a training accuracy, say) stays the one without these masks, and the model that is saved
    is the ordinary one. A dropout layer that the model has before its head stays and acts first,
    once for all samples; set it to 0 to leave all to this method.

    Args:
        p: share dropped, in [0, 1) (default 0.5, good from 0.1 to 0.5; 0 turns it off).
        num_samples: masks M, at least 1; 1 is ordinary dropout (default and paper 8; fine-tuning
            of language models mostly 5).
        reduce: ``"loss"`` (the paper), or ``"logits"``: the loss of the mean output, a common
            variant whose dropout fades as M grows.

    Shape:
        features ``[N, d]``, in memory M times; the output of the head in the logits' shape.

    State:
        none.

    Cost:
        M heads: O(M N d K).

    Raises:
        ValueError: an option out of range.
        TetherError: the head is no linear layer on one row a sample.

    References:
        Hiroshi Inoue, "Multi-Sample Dropout for Accelerated Training and Better Generalization",
        2019, arXiv:1905.09788.

    Example:
        >>> MultiSampleDropout(p=0.3, num_samples=5)
        MultiSampleDropout(p=0.3, num_samples=5)
    """

    def __init__(self, p: float = 0.5, num_samples: int = 8, reduce: str = "loss") -> None:
        if not 0.0 <= p < 1.0:
            raise ValueError(f"p must lie in [0, 1), got {p!r}")
        if num_samples < 1 or int(num_samples) != num_samples:
            raise ValueError(f"num_samples must be a whole number from 1, got {num_samples!r}")
        if reduce not in REDUCTIONS:
            raise ValueError(f"reduce must be one of {', '.join(REDUCTIONS)}, got {reduce!r}")
        self.p = p
        self.num_samples = num_samples
        self.reduce = reduce

    def setup(self, ctx: Context) -> None:
        """Look at the head: rows go through it alone."""
        if isinstance(ctx.head_module, nn.modules.conv._ConvNd):
            raise TetherError(
                f"{ctx.name!r} sends rows of features through the head again, and this one is a "
                'convolution: name a linear layer with attach(..., head="...")'
            )

    def sample_loss(self, batch: Batch) -> Tensor | None:
        """The mean loss of each row over the masks."""
        if self.p == 0.0:
            return None
        features, ctx = batch.need_features(), self.ctx
        rows = dropout_samples(features, self.p, int(self.num_samples), ctx.generator)
        logits = ctx.head(rows.flatten(0, 1)).view(-1, *batch.logits.shape)
        return multi_sample_loss(logits, batch.targets, ctx.sample_losses, reduce=self.reduce)
