"""What the engine offers methods: forward, head, grad, modules, statistics, reference."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.engine.toys import Critic, Shrink, Sums, mlp, samples, toy
from tether import TetherError, attach
from tether.engine.seeds import mix_seed
from tether.method import Method

X, Y = samples(32).tensors


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


@toy("probe", kind="features", needs=("features", "inputs", "reference"))
class Probe(Method):
    """Runs a function in its penalty."""

    def __init__(self, look):
        self.look = look

    def setup(self, ctx):
        len(ctx.reference)

    def penalty(self, batch):
        self.result = self.look(self.ctx, batch)
        return batch.features.sum() * 0.0


def probe(model, look, forward=None, **options):
    method = Probe(look)
    reg = attach(model, method, sgd(model), **options)
    logits = (forward or model)(X[:8])
    reg.loss(logits, Y[:8])
    return method.result, reg


def state_of(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def test_forward_repeats_the_call_and_leaves_no_trace():
    model = mlp(norm=True, drop=0.5)
    seen = {}

    def look(ctx, batch):
        seen["before"] = (state_of(model), torch.get_rng_state())
        again = ctx.forward(mode="train")
        other = ctx.forward(X[8:12] * 2, mode="eval", grad=False)
        seen["after"] = (state_of(model), torch.get_rng_state())
        return again, other

    (again, other), _ = probe(model, look)
    for key, value in seen["before"][0].items():
        assert torch.equal(value, seen["after"][0][key])
    assert torch.equal(seen["before"][1], seen["after"][1])
    assert all(m.training for m in model.modules())
    assert again.logits.requires_grad
    assert again.features.shape == (8, 8)
    assert other.logits.shape == (4, 3)
    assert not other.logits.requires_grad
    model.eval()
    torch.testing.assert_close(other.logits, model(X[8:12] * 2))


def test_forward_through_the_reference():
    model = mlp(norm=True)
    kept = mlp(norm=True)  # the same start
    method = Probe(lambda ctx, batch: ctx.forward(mode="eval", weights="reference", grad=False))
    reg = attach(model, method, sgd(model))
    for _ in range(3):
        reg.loss(model(X[:8]), Y[:8]).backward()
        reg.seam.optimizer.step()
        reg.seam.optimizer.zero_grad()
    kept.eval()
    torch.testing.assert_close(method.result.logits, kept(X[:8]).detach())
    # rounding apart: the same tensors, also after training moved the model
    torch.testing.assert_close(method.result.features, kept[:-1](X[:8]).detach())


def test_all_methods_share_one_forward_of_the_teacher():
    model, kept = mlp(norm=True), mlp(norm=True).eval()  # the same start
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    first, second = (Probe(lambda ctx, batch: ctx.teacher()) for _ in range(2))
    reg = attach(model, [first, second], sgd(model))
    optimizer = reg.seam.optimizer
    for rows in (slice(0, 8), slice(8, 16)):
        calls.clear()
        reg.loss(model(X[rows]), Y[rows]).backward()
        optimizer.step()
        assert len(calls) == 2  # the model's own, and one for both methods
        assert first.result is second.result
        assert not first.result.logits.requires_grad
        torch.testing.assert_close(first.result.logits, kept(X[rows]).detach())


def test_features_of_a_forward_are_rows_as_those_of_the_batch():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1)
    )
    model.append(nn.Flatten())
    method = Probe(lambda ctx, batch: (ctx.teacher().features, batch.features))
    reg = attach(model, method, sgd(model), head="3")
    reg.loss(model(torch.randn(5, 1, 6, 6)), Y[:5])
    found, own = method.result
    assert found.shape == own.shape == (5, 4)
    torch.testing.assert_close(found, own.detach())


def test_forward_through_a_copy_of_the_model():
    model = mlp(norm=True)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.mul_(2)
    wanted = copy.deepcopy(other)
    before = state_of(model)
    result, _ = probe(model, lambda ctx, batch: ctx.forward(mode="train", weights=other))
    torch.testing.assert_close(result.logits, wanted(X[:8]))
    result.logits.sum().backward()
    assert other[0].weight.grad is not None and model[0].weight.grad is None
    torch.testing.assert_close(other[1].running_mean, wanted[1].running_mean)
    assert not torch.equal(other[1].running_mean, before["1.running_mean"])


def test_forward_enters_the_autocast_of_the_user():
    model = mlp()

    def under_autocast(x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    result, _ = probe(model, lambda ctx, batch: ctx.forward(), forward=under_autocast)
    assert result.logits.dtype == torch.bfloat16
    result, _ = probe(mlp(), lambda ctx, batch: ctx.forward())
    assert result.logits.dtype == torch.float32


def test_head_and_grad():
    model = mlp()

    def look(ctx, batch):
        (by_grad,) = ctx.grad(
            nn.functional.cross_entropy(batch.logits, batch.targets), [batch.features]
        )
        return ctx.head(batch.features), by_grad, batch

    (logits, by_grad, batch), _ = probe(model, look)
    torch.testing.assert_close(logits, batch.logits)
    p = batch.logits.softmax(1) - nn.functional.one_hot(batch.targets, 3)
    torch.testing.assert_close(by_grad, (p @ model[-1].weight / 8).detach(), rtol=1e-4, atol=1e-6)


@toy("layers", kind="features", needs=("inputs",))
class Layers(Method):
    """Reads the outputs of named layers."""

    def __init__(self, *names):
        self.names = names

    def setup(self, ctx):
        for name in self.names:
            ctx.tap(name)

    def penalty(self, batch):
        self.given = batch.taps
        self.again = self.ctx.forward(mode="eval", grad=False).taps
        return sum(t.pow(2).mean() for t in batch.taps.values())


def test_outputs_of_named_layers():
    model = mlp()
    layers = Layers("0", "3")
    reg = attach(model, layers, sgd(model))
    reg.loss(model(X[:8]), Y[:8]).backward()
    assert not reg.taps.store
    torch.testing.assert_close(layers.given["0"], model[0](X[:8]))
    torch.testing.assert_close(layers.again["3"], model[:4](X[:8]).detach())
    reg.taps.clear()
    model(X[:8])
    reg.taps.store.pop("output 3")
    with pytest.raises(TetherError, match="layer '3' was not called"):
        reg.loss(model[5](model[:3](X[:8])), Y[:8])
    other = mlp()
    with pytest.raises(TetherError, match="no layer 'blocks' in the model"):
        attach(other, Layers("blocks"), sgd(other))


def test_nothing_is_kept_alive():
    import gc
    import weakref

    model = mlp()
    reg = attach(model, [Shrink(), Critic()], sgd(model))
    reg.loss(model(X[:8]), Y[:8]).backward()
    gone = weakref.ref(model)
    del reg, model
    gc.collect()
    assert gone() is None


def test_a_module_like_main():
    model = mlp()
    critic = Critic()
    reg = attach(model, critic, torch.optim.Adam(model.parameters(), lr=0.01))
    own = reg.auxiliaries.items["critic.net"].optimizer
    assert type(own) is torch.optim.Adam
    assert own.defaults["lr"] == 0.01
    before = critic.net.weight.detach().clone()
    reg.loss(model(X[:8]), Y[:8]).backward()
    reg.seam.optimizer.step()
    assert not torch.equal(before, critic.net.weight)
    assert critic.net.weight.grad is None


def test_a_module_like_main_of_any_optimiser():
    model = mlp()
    reg = attach(model, Critic(), torch.optim.AdamW(model.parameters(), lr=0.01))
    assert type(reg.auxiliaries.items["critic.net"].optimizer) is torch.optim.AdamW


def test_a_module_may_join_the_main_optimiser_unless_a_scheduler_exists():
    model = mlp()
    optimizer = sgd(model)
    reg = attach(model, Critic("main"), optimizer)
    assert len(optimizer.param_groups) == 2
    reg.detach()
    assert len(optimizer.param_groups) == 1
    model = mlp()
    optimizer = sgd(model)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(TetherError, match="scheduler"):
        attach(model, Critic("main"), optimizer)


def test_an_averaged_copy():
    import copy

    @toy("average")
    class Average(Method):
        """Moving average of the model."""

        def __init__(self):
            pass

        def setup(self, ctx):
            self.copy = ctx.add_module(
                "copy", copy.deepcopy(ctx.model), ema_of=ctx.model, ema_decay=0.5
            )

    model = mlp(norm=True)
    average = Average()
    reg = attach(model, average, sgd(model))
    expected = [p.detach().clone() for p in model.parameters()]
    for _ in range(3):
        reg.loss(model(X[:8]), Y[:8]).backward()
        reg.seam.optimizer.step()
        reg.seam.optimizer.zero_grad()
        expected = [
            0.5 * e + 0.5 * p.detach() for e, p in zip(expected, model.parameters(), strict=True)
        ]
    for e, p in zip(expected, average.copy.parameters(), strict=True):
        torch.testing.assert_close(e, p.detach())
    for mine, theirs in zip(average.copy.buffers(), model.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_statistics_pass_is_shared_and_in_evaluation_mode():
    model = mlp(norm=True, drop=0.5)
    first, second = Sums(), Sums()
    before, random = state_of(model), torch.get_rng_state()
    reg = attach(model, [first, second, Shrink()], sgd(model), train_data=samples(32))
    reg.start_epoch()
    for key, value in before.items():
        assert torch.equal(value, model.state_dict()[key])
    assert torch.equal(random, torch.get_rng_state())
    assert model.training
    assert first.batches == second.batches == 1
    assert torch.equal(first.targets, Y)
    model.eval()
    torch.testing.assert_close(first.total, model[:-1](X).sum(0).detach())


def test_the_statistics_pass_is_cancelled_by_a_loaded_state():
    model = mlp()
    reg = attach(model, Sums(), sgd(model), train_data=samples(32))
    reg.start_epoch()
    state = reg.state_dict()
    other = mlp()
    method = Sums()
    again = attach(other, method, sgd(other), train_data=samples(32))
    again.load_state_dict(state)
    again.start_epoch()
    assert method.batches == 0
    assert torch.equal(method.total, reg.methods["sums"].total)


@pytest.mark.parametrize("form", ["tensors", "targets", "items", "loader", "dicts"])
def test_training_targets(form):
    from tether.engine.statistics import training_targets

    class Items(torch.utils.data.Dataset):
        def __len__(self):
            return 32

        def __getitem__(self, row):
            return (
                {"x": X[row], "labels": int(Y[row])} if form == "dicts" else (X[row], int(Y[row]))
            )

    data = samples(32) if form in ("tensors", "loader") else Items()
    if form == "targets":
        data.targets = Y.tolist()
    if form == "loader":
        data = torch.utils.data.DataLoader(data, batch_size=5, shuffle=True)
    assert torch.equal(training_targets(data), Y)


def test_reference_on_the_cpu_and_sealed_afterwards():
    model = mlp(norm=True)
    reg = attach(model, Probe(lambda ctx, batch: None), sgd(model), reference_device="cpu")
    assert set(reg.reference) == set(model.state_dict())
    plain = attach(mlp(), Shrink(), None)
    with pytest.raises(RuntimeError, match="reference"):
        plain.reference["0.weight"]


def test_seeds_differ_by_every_part_and_are_stable():
    seeds = {
        mix_seed(0, "a", 0, 0),
        mix_seed(1, "a", 0, 0),
        mix_seed(0, "b", 0, 0),
        mix_seed(0, "a", 1, 0),
        mix_seed(0, "a", 0, 1),
    }
    assert len({s & 0xFFFFFFFF for s in seeds}) == 5
    assert mix_seed(0, "adarand", 0, 5, "loss") == mix_seed(0, "adarand", 0, 5, "loss")
