"""Methods of the kinds that no registered method has yet; they are in no register."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tether.catalogue import MethodInfo
from tether.method import Method


def outside(kind, **record):
    """Give a class its record without entering it."""

    def enter(cls):
        cls.info = MethodInfo(name=cls.__name__.lower(), cls=cls, kind=kind, **record)
        return cls

    return enter


def _owner(model):
    """The module that holds the head, under whatever name the model stands."""
    return next(module for module in model.modules() if hasattr(module, "head"))


@outside("inputs", losses=("cross_entropy",), stochastic=True)
class Blend(Method):
    """Rows and targets blended with those of another row, before the forward."""

    def transform_batch(self, batch):
        rows = torch.randperm(len(batch.targets), generator=self.ctx.generator)
        batch.args = tuple(torch.lerp(x, x[rows], 0.3) for x in batch.args)
        batch.kwargs = {name: torch.lerp(x, x[rows], 0.3) for name, x in batch.kwargs.items()}
        hot = F.one_hot(batch.targets, self.ctx.num_classes).float()
        batch.targets = torch.lerp(hot, hot[rows], 0.3)
        return batch


@outside("gradients")
class Jitter(Method):
    """Noise on the gradients, seeded by the step."""

    def setup(self, ctx):
        self.refs = ctx.weights()

    def edit_gradients(self):
        for ref in self.refs:
            noise = torch.randn(ref.param.shape, generator=self.ctx.generator)
            ref.param.grad.add_(noise, alpha=0.01)


@outside("layers")
class Scaled(Method):
    """The head's weight times a factor."""

    def prepare(self, model):
        class Times(nn.Module):
            def forward(self, weight):
                return weight * 1.5

        torch.nn.utils.parametrize.register_parametrization(_owner(model).head, "weight", Times())

    def finish(self, model):
        torch.nn.utils.parametrize.remove_parametrizations(_owner(model).head, "weight")


class _LowRank(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(4)
            self.down = nn.Linear(base.in_features, 2, bias=False)
            self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@outside("adapters")
class Adapter(Method):
    """A low-rank path beside the frozen head."""

    def prepare(self, model):
        owner = _owner(model)
        owner.head = _LowRank(owner.head)

    def finish(self, model):
        owner = _owner(model)
        low = owner.head
        low.base.weight.data += low.up.weight.data @ low.down.weight.data
        owner.head = low.base.requires_grad_(True)
