"""Methods outside the register that show the contract at work.

Those of ``GOOD`` keep it at moments that few methods use; each of ``BROKEN`` breaks one promise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tether.batch import Batch
from tether.catalogue import MethodInfo, method_info
from tether.engine.context import Context
from tether.method import Method

GOOD: dict[str, MethodInfo] = {}
#: Name -> the record, the check that must fail, and a pattern of what it must say.
BROKEN: dict[str, tuple[MethodInfo, str, str]] = {}


def _enter(
    breaks: str = "", says: str = "", kind: str = "weights", **record: Any
) -> Callable[[type[Method]], type[Method]]:
    def enter(cls: type[Method]) -> type[Method]:
        name = cls.__name__.lower()
        cls.info = MethodInfo(name=name, cls=cls, kind=kind, **record)
        if breaks:
            BROKEN[name] = (cls.info, breaks, says)
        else:
            GOOD[name] = cls.info
        return cls

    return enter


# -- good ones -----------------------------------------------------------------------------------


@_enter(kind="inputs", losses=("cross_entropy",), stochastic=True, neutral={"share": 0.0})
class Blend(Method):
    """Rows and targets blended with those of another row."""

    def __init__(self, share: float = 0.3) -> None:
        self.share = share

    def transform_batch(self, batch: Batch) -> Batch:
        if self.share == 0.0:
            return batch
        rows = torch.randperm(len(batch.targets), generator=self.ctx.generator)
        batch.args = tuple(torch.lerp(x, x[rows], self.share) for x in batch.args)
        hot = F.one_hot(batch.targets.clamp(min=0), self.ctx.num_classes).float()
        batch.targets = torch.lerp(hot, hot[rows], self.share)
        return batch


@_enter(
    kind="targets",
    needs=("inputs", "reference", "valid_data", "source_head", "horizon"),
    neutral={"weight": 0.0},
)
class Distil(Method):
    """Near the outputs of the pretrained model."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def setup(self, ctx: Context) -> None:
        len(ctx.reference)

    def penalty(self, batch: Batch) -> Tensor:
        start = self.ctx.forward(grad=False, mode="eval", weights="reference").logits
        return (batch.logits - start.float()).square().flatten(1).mean(1).mean()


@_enter(kind="features", needs=("features",), pooling="mean", neutral={"weight": 0.0})
class Critic(Method):
    """Features that a module of its own predicts from their halves."""

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = weight

    def setup(self, ctx: Context) -> None:
        critic = nn.Linear(ctx.num_features // 2, ctx.num_features // 2, bias=False)
        with torch.no_grad():
            critic.weight.copy_(torch.eye(ctx.num_features // 2))
        self.critic = ctx.add_module("critic", critic)
        self.average = ctx.add_module("average", nn.Linear(5, 5, bias=False), ema_of=critic)

    def penalty(self, batch: Batch) -> Tensor:
        left, right = batch.need_features().chunk(2, dim=1)
        return batch.masked_mean((self.critic(left) - right).square().mean(1))


@_enter(kind="layers", neutral={"scale": 1.0}, stochastic=False)
class Scaled(Method):
    """The head's weight times a factor that is baked at the end."""

    def __init__(self, scale: float = 1.5) -> None:
        self.scale = scale

    def prepare(self, model: nn.Module) -> None:
        class Times(nn.Module):
            def forward(self, weight: Tensor, scale: float = self.scale) -> Tensor:
                return weight * scale

        torch.nn.utils.parametrize.register_parametrization(model.head, "weight", Times())

    def finish(self, model: nn.Module) -> None:
        torch.nn.utils.parametrize.remove_parametrizations(model.head, "weight")


@_enter(kind="targets", losses=("cross_entropy",))
class Powered(Method):
    """A loss of its own: cross-entropy to a power."""

    def __init__(self, power: float = 1.5) -> None:
        self.power = power

    def sample_loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(batch.logits, batch.targets, reduction="none") ** self.power


@_enter(
    kind="features",
    needs=("views", "domains", "unlabelled", "pairs"),
    views=3,
    neutral={"weight": 0.0},
)
class Sided(Method):
    """Near the outputs on all that comes beside a batch, domain by domain."""

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = weight

    def penalty(self, batch: Batch) -> Tensor:
        extras = batch.extras
        assert len(extras["views"]) == 2
        sides = [*extras["views"], extras["unlabelled"], *extras["pairs"].values()]
        mean = sum(self.ctx.forward(x, grad=False, mode="eval").logits for x in sides) / len(sides)
        far = (batch.logits - mean.float()).square().flatten(1).mean(1)
        return batch.masked_mean(torch.where(extras["domains"] == 0, far, 0.5 * far))


# -- broken ones ---------------------------------------------------------------------------------


class Toy(Method):
    """Penalises the squares of the logits, which is in order."""

    def __init__(self, weight: float = 0.1) -> None:
        self.weight = weight

    def penalty(self, batch: Batch) -> Tensor:
        return batch.masked_mean(batch.logits.square().flatten(1).mean(1))


@_enter("record", "lacks Args:, References:, Example:")
class Mumbling(Toy):
    """No sections"""


@_enter("acts", "nothing differs")
class Inert(Toy):
    def penalty(self, batch: Batch) -> Tensor:
        return batch.logits.sum() * 0.0


@_enter("neutral", "not equal", neutral={"weight": 0.0})
class Noisy(Toy):
    """Draws from the user's random numbers."""

    def penalty(self, batch: Batch) -> Tensor:
        return (batch.logits * torch.rand(())).square().mean()


@_enter("trace", "detached.*_forward_hooks")
class Leaking(Toy):
    def setup(self, ctx: Context) -> None:
        ctx.head_module.register_forward_hook(lambda *_: None)


@_enter("eval_mode", "watching.calls")
class Watching(Toy):
    """Counts forwards, those of evaluation too."""

    def setup(self, ctx: Context) -> None:
        self.add_state("calls", torch.zeros(()))
        ctx.head_module.register_forward_hook(lambda *_: self.calls.add_(1) and None)


@_enter("graphs", "6 graphs in train mode")
class Guarded(Toy):
    """A number that changes in every step is read inside the model."""

    def setup(self, ctx: Context) -> None:
        ctx.head_module.register_forward_hook(lambda _, x, y: y * (1.0 + ctx.progress))


@_enter("losses", "non-negative")
class Narrow(Toy):
    """Only class indices, which its record does not say."""

    def penalty(self, batch: Batch) -> Tensor:
        return F.one_hot(batch.targets, 4).mul(batch.logits).mean()


@_enter("edges", "spread")
class Spread(Toy):
    """The deviation over a batch of one row is not a number."""

    def penalty(self, batch: Batch) -> Tensor:
        return batch.logits.std(0).mean()


@_enter("resume", "after step")
class Forgetful(Toy):
    """Keeps a running mean that it does not declare."""

    def setup(self, ctx: Context) -> None:
        self.mean = torch.zeros(())

    def penalty(self, batch: Batch) -> Tensor:
        self.ctx.defer(lambda: self.mean.lerp_(batch.logits.detach().mean(), 0.3))
        return (batch.logits - self.mean).square().mean()


@_enter("accumulation", "24 rows")
class Summing(Toy):
    def penalty(self, batch: Batch) -> Tensor:
        return batch.logits.square().sum()


class Edit(Toy):
    penalty = Method.penalty

    def setup(self, ctx: Context) -> None:
        self.refs = ctx.weights()


@_enter("scaler", "float32, fused=True")
class Unscaled(Edit):
    """Forgets that fused optimisers hold scaled gradients."""

    def edit_gradients(self) -> None:
        for ref in self.refs:
            ref.param.grad.add_(ref.param, alpha=self.weight)


@_enter("skipped_step", "fused=True")
class Unmasked(Edit):
    """Shrinks weights although the update was skipped."""

    def after_step(self) -> None:
        for ref in self.refs:
            ref.param.mul_(1.0 - 0.01 * self.weight)


@_enter("bf16", "low is torch.bfloat16")
class Low(Toy):
    def penalty(self, batch: Batch) -> Tensor:
        return super().penalty(batch).bfloat16()


@_enter("ranks", "cross_entropy.*not close")
class Alone(Toy):
    """Moves weights by what only this rank saw."""

    def setup(self, ctx: Context) -> None:
        self.add_state("seen", torch.zeros(()))
        self.refs = ctx.weights()

    def penalty(self, batch: Batch) -> Tensor:
        self.ctx.defer(lambda: self.seen.add_(batch.logits.detach().mean()))
        return super().penalty(batch)

    def after_step(self) -> None:
        self.refs[0].param.add_(0.01 * self.seen)


@_enter("ranks", "rank 0: (?s:.)*rank 1: (?s:.)*fell")
class Falling(Toy):
    """One rank fails and leaves the other in the middle of a step."""

    def penalty(self, batch: Batch) -> Tensor:
        if self.ctx.rank == 1 and self.ctx.step == 2:
            raise ValueError("fell")
        return super().penalty(batch)


@_enter("shards", "not close")
class Whole(Edit):
    """Takes shards for whole tensors."""

    def after_step(self) -> None:
        for ref in self.refs:
            mine = self.ctx.local([ref.param])[0]
            mine.mul_(1.0 / mine.norm().clamp(min=1.0))


@_enter("refusals", "without a head", needs=("class_labels",))
class Hasty(Toy):
    """Changes the model before it asks for what may be missing."""

    def setup(self, ctx: Context) -> None:
        ctx.model.register_forward_hook(lambda *_: None)
        self.classes = ctx.num_classes


@_enter("finish", "still a Identity")
class Staying(Toy):
    """Leaves what it put into the model."""

    def prepare(self, model: nn.Module) -> None:
        model.drop = nn.Identity()


def info_of(name: str) -> MethodInfo:
    """The record of a toy, or of a registered method."""
    if name in BROKEN:
        return BROKEN[name][0]
    return GOOD[name] if name in GOOD else method_info(name)
