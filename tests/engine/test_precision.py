"""Autocast, loss scaling, accumulation, clipping, closures, parameter groups."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.engine.toys import Critic, Pull, Shrink, Table, mlp, samples
from tether import NonFiniteError, TetherError, attach

X, Y = samples(32).tensors


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, **options)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def train(model, optimizer, methods, steps=4, chunks=1, num_items=None, clip=None, **options):
    reg = attach(model, methods, optimizer, train_data=samples(32), **options)
    for step in range(steps):
        rows = torch.arange(8 * step, 8 * step + 8)
        for part in rows.chunk(chunks) if isinstance(chunks, int) else rows.split(chunks):
            loss = reg.loss(model(X[part]), Y[part], index=part, num_items=num_items)
            (loss if num_items else loss / (chunks if isinstance(chunks, int) else 1)).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return reg


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_a_gradient_edit_is_right_under_a_loss_scaler(fused, unscale):
    plain, scaled = mlp(), mlp()
    train(plain, sgd(plain), [Pull(weight=0.5), Shrink()])
    optimizer = sgd(scaled, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    reg = attach(scaled, [Pull(weight=0.5), Shrink()], optimizer)
    for step in range(4):
        rows = slice(8 * step, 8 * step + 8)
        scaler.scale(reg.loss(scaled(X[rows]), Y[rows])).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    torch.testing.assert_close(weights(scaled), weights(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", ["zero early", "zero late"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_update_leaves_weights_and_state_alone(fused, order):
    model = mlp()
    optimizer = sgd(model, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    shrink = Shrink(weight=10.0)
    reg = attach(model, [Pull(), shrink], optimizer)
    before = weights(model).clone()
    scaler.scale(reg.loss(model(X[:8]), Y[:8])).backward()
    scaler.step(optimizer)
    scaler.update()
    if order == "zero early":
        optimizer.zero_grad()
    assert torch.equal(weights(model), before)
    assert not shrink.total.any()
    with torch.no_grad():  # the pooled sums of the skipped window are forgotten
        expected = model[:-1](X[8:16]).sum(0)
    late = reg.loss(model(X[8:16]), Y[8:16])
    if order == "zero late":
        optimizer.zero_grad()
    late.backward()
    torch.testing.assert_close(shrink.seen, expected)


@pytest.mark.parametrize("fused", [False, True])
def test_a_module_of_a_method_is_unscaled(fused):
    def run(scale):
        model = mlp()
        optimizer = sgd(model, fused=fused and scale is not None)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        critic = Critic()
        reg = attach(model, [critic], optimizer, scaler=scaler if scale else None)
        for _ in range(3):
            scaler.scale(reg.loss(model(X[:8]), Y[:8])).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        return critic.net.weight.detach()

    torch.testing.assert_close(run(4096.0), run(None), rtol=1e-5, atol=1e-7)


def test_float16_without_the_scaler_is_refused_for_modules_of_methods():
    model = mlp()
    optimizer = sgd(model)
    reg = attach(model, [Critic()], optimizer)
    with torch.autocast("cpu", torch.float16):
        logits = model(X[:8])
    reg.loss(logits, Y[:8]).backward()
    with pytest.raises(TetherError, match="scaler"):
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_methods_see_float32_under_autocast(dtype):
    model = mlp()
    seen = []

    class Look(Shrink):
        def penalty(self, batch):
            seen.extend([batch.logits.dtype, batch.need_features().dtype])
            seen.append((batch.features @ batch.features.T).dtype)  # autocast is off
            return super().penalty(batch)

    reg = attach(model, [Look()], sgd(model))
    with torch.autocast("cpu", dtype):
        loss = reg.loss(model(X[:8]), Y[:8])
    loss.backward()
    assert set(seen) == {torch.float32}
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("chunks", "num_items"), [(2, None), (4, None), (2, 8), ([5, 3], 8), ([6, 2], 8)]
)
def test_accumulation_equals_one_batch(chunks, num_items):
    whole, parts = mlp(), mlp()
    one, two = [Pull(), Shrink(), Table()], [Pull(), Shrink(), Table()]
    train(whole, sgd(whole), one)
    train(parts, sgd(parts), two, chunks=chunks, num_items=num_items)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(one[1].total, two[1].total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one[2].rows, two[2].rows, rtol=1e-5, atol=1e-6)


def test_an_edit_is_not_clipped():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attach(model, Pull(weight=1.0), optimizer)
    start = weights(model).clone()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    for p in model.parameters():
        p.grad = torch.full_like(p, 5.0)
    nn.utils.clip_grad_norm_(model.parameters(), 1e-9)
    optimizer.step()
    torch.testing.assert_close(weights(model), start)  # the whole pull, clipped gradient gone


def test_a_closure_is_edited_after_its_backward():
    plain, closed = mlp(), mlp()
    train(plain, sgd(plain), [Pull(weight=0.5)])
    optimizer = sgd(closed)
    reg = attach(closed, Pull(weight=0.5), optimizer)
    for step in range(4):
        rows = slice(8 * step, 8 * step + 8)

        def closure(rows=rows):
            optimizer.zero_grad()
            loss = reg.loss(closed(X[rows]), Y[rows])
            loss.backward()
            return loss

        assert optimizer.step(closure).item() > 0
    torch.testing.assert_close(weights(closed), weights(plain))


def test_a_closure_given_by_keyword_is_edited_too():
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    attach(model, Pull(weight=1.0), optimizer)
    start = weights(model).clone()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)

    def closure():
        for p in model.parameters():
            p.grad = torch.zeros_like(p)

    optimizer.step(closure=closure)
    torch.testing.assert_close(weights(model), start)


def test_lbfgs_is_refused_for_edits_and_works_without():
    model = mlp()
    with pytest.raises(TetherError, match="LBFGS"):
        attach(model, Pull(), torch.optim.LBFGS(model.parameters()))
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    reg = attach(model, Shrink(), optimizer)

    def closure():
        optimizer.zero_grad()
        loss = reg.loss(model(X), Y)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert closure() < first


def test_several_groups_and_frozen_layers():
    model = mlp()
    model[0].requires_grad_(False)
    groups = [{"params": model[3].parameters(), "lr": 0.1}, {"params": model[5].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.01)
    frozen = model[0].weight.clone()
    reg = attach(model, [Pull(), Shrink()], optimizer)
    for _ in range(2):
        reg.loss(model(X[:8]), Y[:8]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(model[0].weight, frozen)
    refs = {r.name: r.param for r in reg.weights()}
    assert reg.seam.lr(refs["3.weight"]) == 0.1
    assert reg.seam.lr(refs["5.bias"]) == 0.01


def test_a_frozen_backbone_is_said_at_attach():
    model = mlp()
    model[:5].requires_grad_(False)
    optimizer = torch.optim.SGD(model[5].parameters(), lr=0.01)
    with pytest.warns(UserWarning, match="below the head are frozen, and shrink can"):
        reg = attach(model, Shrink(), optimizer)
    reg.loss(model(X[:8]), Y[:8]).backward()


def test_tied_weights_are_edited_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
            self.b.weight = self.a.weight
            self.out = nn.Linear(6, 3)

        def forward(self, x):
            return self.out(self.b(self.a(x)))

    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    reg = attach(model, Pull(weight=1.0), optimizer)
    assert [r.name for r in reg.weights()].count("a.weight") == 1
    start = model.a.weight.detach().clone()
    with torch.no_grad():
        model.a.weight.add_(1.0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(model.a.weight.detach(), start)


def test_batch_of_one_and_all_rows_ignored():
    model = mlp()
    optimizer = sgd(model)
    reg = attach(model, [Shrink(), Table()], optimizer, train_data=samples(32))
    reg.loss(model(X[:1]), Y[:1], index=torch.tensor([0])).backward()
    optimizer.step()
    optimizer.zero_grad()
    ignored = torch.full((4,), -100)
    loss = reg.loss(model(X[:4]), ignored, index=torch.arange(4))
    assert torch.isfinite(loss)
    assert reg.parts["task"] == 0


def test_token_loss_with_partial_micro_batches():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.body(x).tanh())

    x = torch.randn(6, 7, 4)
    y = torch.randint(0, 3, (6, 7))
    y[0, 2:] = -100
    y[4, 1:] = -100
    whole, parts = Tagger(), Tagger()
    for model, cut in ((whole, [6]), (parts, [4, 2])):
        optimizer = sgd(model)
        reg = attach(model, [], optimizer, loss="token_cross_entropy")
        for a, b in zip(x.split(cut), y.split(cut), strict=True):
            reg.loss(model(a), b, num_items=(y != -100).sum()).backward()
        optimizer.step()
    torch.testing.assert_close(weights(parts), weights(whole))
    assert torch.allclose(
        reg.task.mean(whole(x), y), F.cross_entropy(whole(x).flatten(0, 1), y.flatten())
    )


def test_a_non_finite_part_is_named_and_nothing_changes():
    model = mlp()
    optimizer = sgd(model)
    shrink = Shrink(weight=float("inf"))
    table = Table()
    reg = attach(model, [shrink, table], optimizer, train_data=samples(32))
    before = copy.deepcopy(reg.state_dict()["methods"])
    with pytest.raises(NonFiniteError, match=r"'shrink'.*loss number 0"):
        reg.loss(model(X[:8]), Y[:8], index=torch.arange(8))
    after = reg.state_dict()["methods"]
    for name in before:
        for key in before[name]:
            assert torch.equal(before[name][key], after[name][key])
    with pytest.raises(NonFiniteError, match="task loss"):
        reg.loss(model(X[:8]) * float("nan"), Y[:8], index=torch.arange(8))


def test_non_finite_parts_can_be_read_late():
    model = mlp()
    optimizer = sgd(model)
    shrink = Shrink()
    reg = attach(model, [shrink], optimizer, nan_check="log")
    reg.loss(model(X[:8]), Y[:8])
    assert reg.parts["shrink"] > 0
    shrink.weight = float("inf")
    shrink.__dict__.pop("_schedules")
    reg.loss(model(X[:8]), Y[:8])
    reg.loss(model(X[:8]), Y[:8])
    with pytest.raises(NonFiniteError, match=r"'shrink'.*loss number 1"):
        _ = reg.parts


def test_evaluation_mode_takes_its_share_of_the_items():
    model = mlp().eval()
    reg = attach(model, Shrink(), sgd(model))
    parts = [reg.loss(model(X[r]), Y[r], num_items=32) for r in torch.arange(32).split([20, 12])]
    torch.testing.assert_close(sum(parts), F.cross_entropy(model(X), Y))


def test_evaluation_mode_is_inert():
    model = mlp()
    optimizer = sgd(model)
    shrink, table = Shrink(), Table()
    reg = attach(model, [Pull(weight=100.0), shrink, table], optimizer, train_data=samples(32))
    model.eval()
    loss = reg.loss(model(X[:8]), Y[:8])  # no index either
    assert torch.equal(loss, F.cross_entropy(model(X[:8]), Y[:8]))
    loss.backward()
    expected = copy.deepcopy(model)
    for p, q in zip(expected.parameters(), model.parameters(), strict=True):
        p.grad = q.grad.clone()
    sgd(expected).step()
    with pytest.warns(UserWarning, match="evaluation mode"):
        optimizer.step()
    assert torch.equal(weights(model), weights(expected))
    assert not table.rows.any()
    assert not shrink.total.any()
    assert reg.step == 0


def test_a_copied_optimiser_is_noticed():
    model = mlp()
    reg = attach(model, Pull(), sgd(model))
    other = sgd(model)

    def steps():
        for _ in range(70):
            reg.loss(model(X[:4]), Y[:4]).backward()
            other.step()
            other.zero_grad()

    with pytest.raises(TetherError, match="made no step"):
        steps()
