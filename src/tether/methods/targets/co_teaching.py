"""Co-teaching: two networks, each trained on what the other finds easy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.batch import Batch
from tether.catalogue import register
from tether.method import Method
from tether.methods.second_network import check_start, rows_of_call, second_network, wide_logits
from tether.methods.targets.small_loss import (
    forget_rate_in_epoch,
    mean_of,
    small_loss_selection,
)

if TYPE_CHECKING:
    from tether.engine.context import Context

#: Rows of a batch below which its halves are too small to be told apart.
_LEAST = 4


@register(
    "co_teaching",
    kind="targets",
    paper="arXiv:1804.06872",
    needs=("class_labels", "epochs", "inputs"),
    cost="forward",
    losses=("cross_entropy",),
    neutral={"forget_rate": 0.0},
    batch_statistics=True,
    conflicts=("co_teaching", "elr_plus"),
    exempt={"shards": "a second whole network does not go with fully_shard, and is refused"},
    search_space={"forget_rate": ("uniform", 0.05, 0.5), "ramp_epochs": ("int", 0, 10)},
)
class CoTeaching(Method):
    """Train two networks, each on the samples of a batch that the other one finds easiest.

    Samples with a small loss are mostly labelled right as long as wrong labels are not memorised;
    two networks that start apart err apart, so that each sorts out the other's mistakes. Helps
    with a known share of wrong labels. Hurts hard and rare classes (their samples lose much and
    are left out), and the longer it runs the more the two agree (see ``disagreement`` of
    :meth:`measure`). With a forget rate from the first step on it needs networks that know
    something already; from random weights let it rise over some epochs.

    In a step, with the losses l_1, l_2 of both networks and ``keep(l)`` the ``int((1 - F) n)``
    samples of smallest loss::

        shared batch:      loss = mean l_1 over keep(l_2)  +  mean l_2 over keep(l_1)
        disjoint halves:   network 1 judges the first half, network 2 the second (in evaluation
                           mode); each is trained on what the other kept of its half

    The first is Han et al.'s rule, the second Chen et al.'s for networks that were trained before.
    F rises over the first ``ramp_epochs`` epochs. The second network, ``method.second_network``,
    is trained by an optimiser like the main one, with its learning rates, but the loop does not
    clip its gradients; ``parts["co_teaching"]`` is its loss. The model that is saved is the first;
    average the logits of both to predict with the pair.

    Args:
        forget_rate: F, share of samples left out, in [0, 1), near the share of wrong labels
            (default 0.2; paper 0.2 and 0.3 in fine-tuning).
        ramp_epochs: T_k, epochs over which F rises from 0 (default 0: F at once; 10 from scratch).
        shared_batch: both judge the same batch (default); False: disjoint halves (batches of 4
            samples or more).
        second: what of the second network is drawn anew: ``"head"`` (default), ``"all"`` layers
            (training from random weights), or nothing, ``"copy"``.

    Shape:
        logits ``[N, C]``, class indices or probabilities.

    State:
        The second network and its optimiser; ``disagreement``, of the last batch.

    Cost:
        A second forward and backward; with halves two forwards of half a batch more and half the
        second backward. Twice the memory.

    Raises:
        ValueError: an option out of range.
        TetherError: parameters are sharded; the head cannot be drawn anew.

    References:
        Bo Han, Quanming Yao, Xingrui Yu, Gang Niu, Miao Xu, Weihua Hu, Ivor Tsang, Masashi
        Sugiyama, "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy
        Labels", NeurIPS 2018, arXiv:1804.06872. Halves: Yingyi Chen, Shell Xu Hu, Xi Shen, Chunrong
        Ai, Johan A. K. Suykens, "Compressing Features for Learning with Noisy Labels", 2022,
        arXiv:2206.13140.

    Example:
        >>> CoTeaching(forget_rate=0.3, ramp_epochs=5)
        CoTeaching(forget_rate=0.3, ramp_epochs=5)
    """

    second_network: nn.Module
    disagreement: Tensor

    def __init__(
        self,
        forget_rate: float = 0.2,
        ramp_epochs: int = 0,
        shared_batch: bool = True,
        second: str = "head",
    ) -> None:
        if not 0.0 <= forget_rate < 1.0:
            raise ValueError(f"forget_rate must lie in [0, 1), got {forget_rate!r}")
        if not ramp_epochs >= 0:
            raise ValueError(f"ramp_epochs must be >= 0, got {ramp_epochs!r}")
        self.forget_rate = forget_rate
        self.ramp_epochs = ramp_epochs
        self.shared_batch = shared_batch
        self.second = check_start(second)

    def setup(self, ctx: Context) -> None:
        """Make the second network."""
        self.second_network = second_network(ctx, self.second)
        self.add_state("disagreement", torch.zeros((), device=ctx.device), "mean")
        self._loss: Tensor | None = None

    def present_forget_rate(self) -> float:
        """Forget rate of the present epoch."""
        return forget_rate_in_epoch(self.ctx.epoch, self.forget_rate, self.ramp_epochs)

    def weight_samples(self, batch: Batch) -> Tensor | None:
        """Weights with mean 1 over what the second network keeps; its own loss is made, too."""
        rate, rows = self.present_forget_rate(), len(batch.logits)
        if not self.shared_batch and rows >= _LEAST:
            keep = self._judge_halves(batch, rate, rows // 2)
        else:
            keep = self._judge_together(batch, rate)
            if rate == 0.0:
                return None
        count = rows if batch.mask is None else batch.mask.sum()
        return keep.to(batch.logits.dtype) * (count / keep.sum().clamp(min=1))

    def _judge_together(self, batch: Batch, rate: float) -> Tensor:
        """Rows that the second network keeps; it learns from those that the first one keeps."""
        assert batch.sample_losses is not None  # the engine makes them for methods that weigh
        logits = wide_logits(self.ctx.forward(weights=self.second_network).logits)
        losses = self.ctx.sample_losses(logits, batch.targets)
        own = small_loss_selection(batch.sample_losses, rate, batch.mask)
        self._loss = mean_of(losses, own)
        self._note(batch.logits, logits)
        return small_loss_selection(losses, rate, batch.mask)

    def _judge_halves(self, batch: Batch, rate: float, middle: int) -> Tensor:
        """The same for halves: each network judges one in evaluation mode, and learns the other."""
        ctx, count = self.ctx, len(batch.logits)
        first, rest = slice(0, middle), slice(middle, count)
        own_call = rows_of_call(batch.args, batch.kwargs, first, count)
        their_call = rows_of_call(batch.args, batch.kwargs, rest, count)
        masks = [None if batch.mask is None else batch.mask[rows] for rows in (first, rest)]
        with torch.no_grad():
            found = ctx.forward(*own_call[0], grad=False, mode="eval", **own_call[1])
            own = wide_logits(found.logits)
            found = ctx.forward(
                *their_call[0], grad=False, mode="eval", weights=self.second_network,
                **their_call[1],
            )  # fmt: skip
            theirs = wide_logits(found.logits)
        own_losses = ctx.sample_losses(own, batch.targets[first])
        their_losses = ctx.sample_losses(theirs, batch.targets[rest])
        logits = wide_logits(
            ctx.forward(*own_call[0], weights=self.second_network, **own_call[1]).logits
        )
        kept = small_loss_selection(own_losses, rate, masks[0])
        self._loss = mean_of(ctx.sample_losses(logits, batch.targets[first]), kept)
        self._note(batch.logits[first], logits)
        given = small_loss_selection(their_losses, rate, masks[1])
        return torch.cat([torch.zeros_like(kept), given])

    def _note(self, logits: Tensor, others: Tensor) -> None:
        """Keep the share of rows on which the networks name other classes."""
        share = (logits.argmax(1) != others.argmax(1)).float().mean()
        self.ctx.defer(lambda: setattr(self, "disagreement", share))

    def penalty(self, batch: Batch) -> Tensor:
        """The loss of the second network."""
        loss, self._loss = self._loss, None
        return batch.logits.sum() * 0.0 if loss is None else loss

    def measure(self) -> dict[str, Any]:
        """Present forget rate; share of the last batch on which the networks disagree."""
        return {
            "forget_rate": self.present_forget_rate(),
            "disagreement": float(self.disagreement),
        }
