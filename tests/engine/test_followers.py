"""Optimisers of methods' modules: groups, numbers and schedule of the main one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.engine.toys import Critic, mlp, samples, toy
from tether import Method, attach

X, Y = samples(32).tensors


@toy("twin", kind="targets", needs=("inputs",))
class Twin(Method):
    """A second network, the very copy of the first, trained on the same batches."""

    def __init__(self, optimizer="like_main"):
        self.optimizer = optimizer

    def setup(self, ctx):
        self.net = ctx.add_module("net", copy.deepcopy(ctx.model), self.optimizer)

    def penalty(self, batch):
        logits = self.ctx.forward(weights=self.net).logits
        return self.ctx.task_loss(logits, batch.targets)


def train(model, reg, optimizer, scheduler=None, steps=6):
    for at in range(steps):
        reg.loss(model(X[at * 4 : at * 4 + 8]), Y[at * 4 : at * 4 + 8]).backward()
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("early", [True, False])
def test_a_copy_of_the_model_is_trained_as_the_model_is(kind: str, early: bool) -> None:
    """Two groups, one of them without decay, under a schedule that begins at 0."""
    model = mlp(norm=True)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "lr": 0.03},
    ]
    made = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[kind]
    optimizer = made(groups, lr=0.01)
    warm = [lambda at: min(1.0, at / 3)] * 2
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm) if early else None
    twin = Twin()
    reg = attach(model, twin, optimizer)
    if scheduler is None:
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, warm)
    start = [p.detach().clone() for p in model[-1].parameters()]
    train(model, reg, optimizer, scheduler)
    for mine, theirs in zip(twin.net.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    for mine, before in zip(twin.net[-1].parameters(), start, strict=True):
        assert not torch.equal(mine, before)
    for mine, theirs in zip(twin.net.buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_what_the_main_optimiser_does_not_hold_stays_in_the_copy() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[-1].parameters(), lr=0.1)
    twin = Twin()
    reg = attach(model, twin, optimizer)
    start = copy.deepcopy(twin.net)
    train(model, reg, optimizer)
    changed = [
        name
        for (name, p), q in zip(twin.net.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(p, q)
    ]
    assert changed == ["5.weight", "5.bias"]


@pytest.mark.parametrize("early", [True, False])
def test_other_modules_follow_the_schedule_of_the_first_group(early: bool) -> None:
    model, critic = mlp(), Critic()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[-1].parameters()}], lr=0.1
    )
    halve = lambda: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda at: 0.5**at)  # noqa: E731
    scheduler = halve() if early else None
    reg = attach(model, critic, optimizer)
    scheduler = scheduler or halve()
    own = reg.auxiliaries.items["critic.net"].optimizer
    seen = []
    for _ in range(3):
        train(model, reg, optimizer, scheduler, steps=1)
        seen.append(own.param_groups[0]["lr"])
    assert seen == pytest.approx([0.1, 0.05, 0.025])


def test_a_resumed_copy_follows_as_before() -> None:
    def make():
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        twin = Twin()
        return model, twin, optimizer, scheduler, attach(model, twin, optimizer)

    model, twin, optimizer, scheduler, reg = make()
    train(model, reg, optimizer, scheduler, steps=3)
    kept = copy.deepcopy(
        [part.state_dict() for part in (model, optimizer, scheduler)] + [reg.state_dict()]
    )
    train(model, reg, optimizer, scheduler, steps=3)
    whole = [p.detach().clone() for p in twin.net.parameters()]
    model, twin, optimizer, scheduler, reg = make()
    for part, state in zip((model, optimizer, scheduler, reg), kept, strict=True):
        part.load_state_dict(state)
    train(model, reg, optimizer, scheduler, steps=3)
    for found, wanted in zip(twin.net.parameters(), whole, strict=True):
        assert torch.equal(found, wanted)


def test_the_decay_of_an_average_may_change() -> None:
    @toy("slowing")
    class Slowing(Method):
        """A running mean of the weights after each update."""

        def __init__(self):
            pass

        def setup(self, ctx):
            self.mean = ctx.add_module(
                "mean",
                copy.deepcopy(ctx.model),
                ema_of=ctx.model,
                ema_decay=lambda: ctx.step / (ctx.step + 1),
            )

    model, slowing = mlp(), Slowing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = attach(model, slowing, optimizer)
    seen: list[nn.Parameter] = []
    for _ in range(4):
        train(model, reg, optimizer, steps=1)
        seen.append(model[0].weight.detach().clone())
    torch.testing.assert_close(slowing.mean[0].weight.detach(), torch.stack(seen).mean(0))


@pytest.mark.parametrize("weights", ["current", "copy"])
def test_a_repeated_train_mode_forward_leaves_the_models_graph_and_buffers(weights: str) -> None:
    @toy("again", needs=("inputs",))
    class Again(Method):
        """The loss of a second forward."""

        def setup(self, ctx):
            self.net = copy.deepcopy(ctx.model)

        def penalty(self, batch):
            chosen = self.net if weights == "copy" else "current"
            return self.ctx.task_loss(self.ctx.forward(weights=chosen).logits, batch.targets)

    model, again = mlp(norm=True), Again()
    reg = attach(model, again)
    loss = reg.loss(model(X), Y)
    once = copy.deepcopy(mlp(norm=True))
    once(X)
    for found, wanted in zip(model.buffers(), once.buffers(), strict=True):
        assert torch.equal(found, wanted)
    loss.backward()
    plain = nn.functional.cross_entropy(once(X), Y)
    plain.backward()
    share = 2.0 if weights == "current" else 1.0
    torch.testing.assert_close(model[0].weight.grad, share * once[0].weight.grad)
