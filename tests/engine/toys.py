"""Small methods that show the engine's moments one by one, outside the register."""

from __future__ import annotations

import torch
from torch import nn

from tether.catalogue import MethodInfo
from tether.method import Method


def toy(name, kind="weights", **record):
    def enter(cls):
        cls.info = MethodInfo(name=name, cls=cls, kind=kind, **record)
        return cls

    return enter


@toy("pull", needs=("reference",))
class Pull(Method):
    """Gradient edit towards w0."""

    def __init__(self, weight=0.1):
        self.weight = weight

    def setup(self, ctx):
        self.refs = ctx.weights()
        self.starts = [ctx.reference[r.name] for r in self.refs]

    def acts_on(self):
        return [r.param for r in self.refs]

    def edit_gradients(self):
        weight, scale = self.value(), self.ctx.grad_scale
        for ref, start in zip(self.refs, self.starts, strict=True):
            if ref.param.grad is not None:
                edit = weight * (self.ctx.local([ref.param])[0] - self.ctx.local([start])[0])
                self.ctx.local([ref.param.grad])[0].add_(edit if scale is None else edit * scale)


@toy("shrink", kind="features", needs=("features",), pooling="mean")
class Shrink(Method):
    """Feature penalty; keeps the pooled feature sum of each update."""

    pooled = ("seen",)

    def __init__(self, weight=0.1):
        self.weight = weight

    def setup(self, ctx):
        self.add_state("seen", torch.zeros(ctx.num_features))
        self.add_state("total", torch.zeros(ctx.num_features))

    def penalty(self, batch):
        features = batch.need_features()
        add = features.detach().sum(0)
        self.ctx.defer_to_backward(lambda: self.seen.add_(add))
        return batch.masked_mean(features.pow(2).mean(1))

    def after_step(self):
        mask = self.ctx.step_mask
        self.total.add_(self.seen if mask is None else self.seen * mask)
        self.seen.zero_()


@toy("noise", kind="features", needs=("features",), stochastic=True)
class Noise(Method):
    """Penalty with random numbers of its own."""

    def __init__(self, weight=0.1):
        self.weight = weight

    def penalty(self, batch):
        features = batch.need_features()
        noise = torch.randn(features.shape, generator=self.ctx.generator)
        return (features - noise).pow(2).mean()


@toy("table", kind="targets", needs=("index", "class_labels"))
class Table(Method):
    """Running predictions a sample."""

    def __init__(self, weight=0.1):
        self.weight = weight

    def setup(self, ctx):
        self.add_state("rows", torch.zeros(ctx.num_samples, ctx.num_classes), sync="per_sample")
        self.add_state("visits", torch.zeros(ctx.num_samples, dtype=torch.int64), "per_sample")
        self.add_state("count", torch.zeros(()), sync="sum")

    def penalty(self, batch):
        index, p = batch.need_index(), batch.logits.softmax(1)
        rows = 0.5 * self.rows[index] + 0.5 * p.detach()

        def write():
            self.rows[index] = rows
            self.visits[index] += 1
            self.count += len(index)

        self.ctx.defer(write)
        return (rows * p).sum(1).mean()


@toy("epochs", kind="targets", needs=("epochs",))
class Epochs(Method):
    """Notes the epochs it sees; weighs samples from the second on."""

    def __init__(self):
        self.seen = []

    def epoch_start(self, epoch):
        self.seen.append(("start", epoch))

    def epoch_end(self, epoch):
        self.seen.append(("end", epoch))

    def weight_samples(self, batch):
        if self.ctx.epoch == 0:
            return None
        return len(batch.sample_losses) * torch.softmax(-batch.sample_losses.detach(), 0)


@toy("flip", kind="targets")
class Flip(Method):
    """Relabels everything as class 0."""

    def __init__(self):
        pass

    def transform_targets(self, batch):
        return torch.zeros_like(batch.targets)


@toy("double", kind="inputs")
class Double(Method):
    """Each row twice."""

    def __init__(self):
        pass

    def transform_batch(self, batch):
        batch.args = tuple(torch.cat([a, a]) for a in batch.args)
        batch.targets = torch.cat([batch.targets, batch.targets])
        batch.index = None if batch.index is None else torch.cat([batch.index, batch.index])
        return batch


@toy("critic", kind="features", needs=("features",))
class Critic(Method):
    """A module of its own, trained by the main loss."""

    def __init__(self, optimizer="like_main"):
        self.optimizer = optimizer

    def setup(self, ctx):
        torch.manual_seed(3)
        self.net = ctx.add_module("net", nn.Linear(ctx.num_features, 1), self.optimizer)

    def penalty(self, batch):
        return self.net(batch.need_features()).pow(2).mean()


@toy("sums", kind="features", needs=("features", "train_data"))
class Sums(Method):
    """Statistics pass: sums of features and targets."""

    def __init__(self):
        self.batches = 0

    def setup(self, ctx):
        self.add_state("total", torch.zeros(ctx.num_features))
        self.targets = ctx.training_targets()
        ctx.statistics(self.update, self.finish_pass)

    def update(self, batch):
        assert not self.ctx.model.training
        assert not batch.features.requires_grad
        assert torch.equal(batch.targets, self.targets[batch.index])
        keep = 1.0 if batch.mask is None else batch.mask.float().unsqueeze(1)
        self.total += (batch.features * keep).sum(0)
        self.batches += 1

    def finish_pass(self):
        self.ctx.all_reduce(self.total)


def mlp(seed=0, norm=False, drop=0.0):
    torch.manual_seed(seed)
    layers = [nn.Linear(6, 8)]
    if norm:
        layers.append(nn.BatchNorm1d(8))
    layers += [nn.ReLU(), nn.Dropout(drop), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)]
    return nn.Sequential(*layers)


def samples(n=32, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g)
    return torch.utils.data.TensorDataset(x, torch.randint(0, 3, (n,), generator=g))
