"""ELR+: two networks whose averages tell each other what was learnt early, on mixed inputs."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.batch import Batch
from tether.catalogue import register
from tether.methods.inputs.mixing import mix_rows
from tether.methods.inputs.pair_mixing import PairMixing, check_alpha
from tether.methods.matching import soft_cross_entropy
from tether.methods.second_network import check_start, second_network, wide_logits
from tether.methods.targets.elr import elr_penalty, moved_targets
from tether.methods.targets.elr_ramps import average_decay, ramp, refined_targets
from tether.methods.targets.rows import class_indices
from tether.schedule import Schedule, ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context


@register(
    "elr_plus",
    kind="targets",
    paper="arXiv:2007.00151",
    needs=("class_labels", "index", "inputs"),
    cost="heavy",
    losses=("cross_entropy",),
    neutral={"weight": 0.0, "alpha": 0.0},
    stochastic=True,
    mixes=True,
    conflicts=("elr", "co_teaching", "elr_plus"),
    exempt={"shards": "a second whole network does not go with fully_shard, and is refused"},
    search_space={"weight": ("log", 0.3, 10.0), "beta": ("uniform", 0.5, 0.99)},
)
class ELRPlus(PairMixing):
    """Early-Learning Regularization with two networks, their weight averages, and mixup.

    The targets of each network come from the weight average of the *other* on inputs that are not
    mixed, so that neither is confirmed in its own mistakes. Helps and hurts where
    :class:`~tether.EarlyLearningRegularization` does, with more wrong labels; mixup underfits in
    a few epochs (a smaller ``alpha``). Inputs are mixed as by :class:`~tether.Mixup`, for both.

    In a step, with the average a_1 of network 1 and a_2 of network 2, for each network k and the
    other one, o::

        x', y' = mixup of (x, y) with lam = max(l, 1 - l), l ~ Beta(alpha, alpha)
        t_k,i <- beta t_k,i + (1 - beta) softmax(a_o(x_i))
        loss_k = mean CE(z_k(x'), y')
                 + w(step) weight mean log(1 - <lam t_k + (1 - lam) t_k[pi], p_k>)
        a_k <- g a_k + (1 - g) w_k                                       after each update

    The loss is that of both together. The second network, ``method.second_network``, is trained
    by an optimiser like the main one, with its learning rates; the loop does not clip its
    gradients. The first is saved; average the logits of both to predict with the pair.

    Args:
        weight: lambda, >= 0, schedulable (default 3; paper 3 on CIFAR-10, 7 on CIFAR-100).
        beta: share of the old row, in [0, 1) (default and paper 0.7; 0.9 on CIFAR-100).
        alpha: of mixup, >= 0, schedulable; 0 mixes nothing (default and paper 1).
        ema_decay: g after a start in which it forgets, in [0, 1) (default and paper 0.997; 0.9999
            on Clothing1M).
        ema_ramp_steps: updates over which g rises, 0: ``min(1 - 1 / (step + 1), g)``
            (default 0; paper 40000 on CIFAR).
        ramp_steps: updates over which w rises to 1 (default 0; paper 40000 on CIFAR-100).
        refine_targets: multiply mixed labels by the running targets (the authors': 100 classes).
        second: what of the second network is drawn anew: ``"head"`` (default), ``"all"`` layers
            (training from random weights), or nothing, ``"copy"``.

    Shape:
        logits ``[N, C]``, class indices or probabilities, rows ``[N]``.

    State:
        ``running_targets`` and ``second_targets`` ``[num_samples, C]``, per sample; the second
        network with its optimiser, and both averages.

    Cost:
        A second forward and backward, and two forwards; four times the memory of the weights.

    Raises:
        ValueError: an option out of range.
        TetherError: parameters are sharded; the head cannot be drawn anew.

    References:
        Sheng Liu, Jonathan Niles-Weed, Narges Razavian, Carlos Fernandez-Granda, "Early-Learning
        Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020, arXiv:2007.00151.

    Example:
        >>> ELRPlus(weight=7, beta=0.9)
        ELRPlus(weight=7, beta=0.9)
    """

    running_targets: Tensor
    second_targets: Tensor

    def __init__(
        self, weight: ScheduleLike = 3.0, beta: float = 0.7, alpha: ScheduleLike = 1.0,
        ema_decay: float = 0.997, ema_ramp_steps: int = 0, ramp_steps: int = 0,
        refine_targets: bool = False, second: str = "head",
    ) -> None:  # fmt: skip
        if isinstance(weight, (int, float)) and not weight >= 0:
            raise ValueError(f"weight must be >= 0, got {weight!r}")
        for name, value in (("beta", beta), ("ema_decay", ema_decay)):
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
        for name, value in (("ema_ramp_steps", ema_ramp_steps), ("ramp_steps", ramp_steps)):
            if not value >= 0:
                raise ValueError(f"{name} must be >= 0, got {value!r}")
        check_alpha(alpha)
        self.weight, self.beta, self.alpha = weight, beta, alpha
        self.ema_decay, self.ema_ramp_steps = ema_decay, ema_ramp_steps
        self.ramp_steps, self.refine_targets = ramp_steps, refine_targets
        self.second = check_start(second)

    def schedules(self) -> dict[str, Schedule]:
        """``weight`` and ``alpha``."""
        return {"weight": Schedule(self.weight), **super().schedules()}

    def setup(self, ctx: Context) -> None:
        """Make the second network, both averages and both tables."""
        super().setup(ctx)
        self._pull: Tensor | None = None
        self.second_network = second_network(ctx, self.second)
        self.averages: list[nn.Module] = []

        def decay() -> float:
            return average_decay(ctx.step, self.ema_decay, self.ema_ramp_steps)

        for name, net in (("average", ctx.model), ("second_average", self.second_network)):
            own = copy.deepcopy(net).requires_grad_(False)
            self.averages.append(ctx.add_module(name, own, ema_of=net, ema_decay=decay))
        for name in ("running_targets", "second_targets"):
            table = torch.zeros(ctx.num_samples, ctx.num_classes, device=ctx.device)
            self.add_state(name, table, "per_sample")

    def sample_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of each row, of both networks; their terms on running targets wait."""
        ctx = self.ctx
        others = wide_logits(ctx.forward(weights=self.second_network).logits)
        losses, pull = torch.zeros_like(batch.logits[:, 0]), batch.logits.new_zeros(())
        tables = (self.running_targets, self.second_targets)
        for logits, table, average in zip(
            (batch.logits, others), tables, reversed(self.averages), strict=True
        ):
            running = self._moved(batch, table, average)
            losses = losses + self._cross_entropy(logits, batch.targets, running)
            pull = pull + elr_penalty(logits, running)
        self._pull = pull * ramp(ctx.step, self.ramp_steps)
        return losses

    def _moved(self, batch: Batch, table: Tensor, average: nn.Module) -> Tensor:
        """Move a table towards what the other network's average says; its rows, mixed."""
        args, kwargs = batch.extras.get("unmixed", (batch.args, batch.kwargs))
        index = batch.need_index()
        with torch.no_grad():
            told = self.ctx.forward(*args, grad=False, mode="eval", weights=average, **kwargs)
            probs = wide_logits(told.logits).softmax(dim=1)
            rows = moved_targets(table, index, probs, beta=self.beta).to(table.dtype)

        def write() -> None:
            table.index_copy_(0, index, rows)

        self.ctx.defer(write)
        mix = self.mix_of(batch)
        return rows if mix is None else mix_rows(rows, mix.permutation, mix.lam)

    def _cross_entropy(self, logits: Tensor, targets: Tensor, running: Tensor) -> Tensor:
        if not self.refine_targets:
            return self.ctx.sample_losses(logits, targets)
        if targets.ndim == 1:
            counts = (targets >= 0)[:, None]
            targets = F.one_hot(targets.clamp(min=0), logits.shape[1]) * counts
        return soft_cross_entropy(logits, refined_targets(targets.to(running.dtype), running))

    def penalty(self, batch: Batch) -> Tensor:
        """Both networks' terms on running targets; the engine multiplies by ``weight``."""
        pull, self._pull = self._pull, None
        return batch.logits.sum() * 0.0 if pull is None else pull

    def labels(self) -> Tensor:
        """Class that both tables together believe of every sample, int64 ``[n]``; -1: unseen."""
        both = self.running_targets + self.second_targets
        return torch.where(both.sum(1) > 0, both.argmax(1), -1)

    def noisy_label_mask(self) -> Tensor:
        """Samples of which both tables together believe another class than their label."""
        given = class_indices(self.ctx.training_targets()).to(self.running_targets.device)
        believed = self.labels()
        return (believed >= 0) & (given >= 0) & (believed != given)

    def measure(self) -> dict[str, Any]:
        """How many samples were seen, and on what share of them the two tables agree."""
        seen = self.running_targets.sum(1) > 0
        same = self.running_targets.argmax(1) == self.second_targets.argmax(1)
        return {"seen": int(seen.sum()), "agreement": float(same[seen].float().mean().nan_to_num())}
