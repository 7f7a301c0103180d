"""torch.compile and activation checkpointing."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from tests.engine.toys import Noise, Pull, Shrink, Sums, Table, mlp, samples
from tether import AdaRand, TetherError, attach


@pytest.mark.parametrize("order", ["before", "after", "in place"])
def test_one_train_graph_and_one_eval_graph(order):
    torch._dynamo.reset()
    graphs = []

    def backend(graph, example):
        graphs.append(graph)
        return graph.forward

    data = samples(32)
    model = mlp(norm=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recipe = [Pull("linear(1, 0)"), Shrink("cosine(1, 0)"), Noise(), Table()]
    options = {"train_data": data, "epochs": 3}
    if order == "after":
        reg = attach(model, recipe, optimizer, **options)
        compiled = torch.compile(model, backend=backend)
    elif order == "before":
        compiled = torch.compile(model, backend=backend)
        reg = attach(compiled, recipe, optimizer, **options)
    else:
        model.compile(backend=backend)
        compiled = model
        reg = attach(model, recipe, optimizer, **options)
    for _ in range(3):
        for x, y in reg.batches(DataLoader(data, batch_size=8)):
            reg.loss(compiled(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        compiled.eval()
        with torch.no_grad():
            compiled(data.tensors[0][:8])
        compiled.train()
    assert len(graphs) == 2


def test_attaching_after_the_first_compiled_call_raises_rather_than_lies():
    torch._dynamo.reset()
    model = mlp()
    compiled = torch.compile(model, backend="eager")
    x, y = samples(8).tensors
    compiled(x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(compiled, Shrink(), optimizer) as reg:
        try:
            reg.loss(compiled(x), y)
        except TetherError as error:
            assert "before the first call of a compiled model" in str(error)  # noqa: PT017
        else:  # dynamo noticed the hook by itself: then the features are there
            assert reg.parts["shrink"] > 0


class Checkpointed(nn.Module):
    def __init__(self, reentrant, whole):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)
        self.reentrant, self.whole = reentrant, whole

    def forward(self, x):
        if self.whole:
            return checkpoint(lambda v: self.head(self.body(v)), x, use_reentrant=self.reentrant)
        return self.head(checkpoint(self.body, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("whole", [False, True])
def test_non_reentrant_checkpointing_works(whole):
    x, y = samples(8).tensors
    results = []
    for model in (Checkpointed(False, whole), Checkpointed(False, whole)):
        if results:
            model.forward = lambda v, m=model: m.head(m.body(v))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        reg = attach(model, Shrink(weight=1.0), optimizer)
        for _ in range(3):
            reg.loss(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert not reg.taps.store
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(results[0], results[1])


def test_reentrant_checkpointing_of_the_head_is_refused():
    x, y = samples(8).tensors
    model = Checkpointed(True, True)
    reg = attach(model, Shrink(), torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(TetherError, match="use_reentrant=False"):
        reg.loss(model(x.requires_grad_()), y)


def test_a_head_compiled_by_itself():
    torch._dynamo.reset()
    model = mlp()
    model[5].compile(backend="eager")
    data = samples(8)
    sums = Sums()
    reg = attach(
        model, [sums, Shrink()], torch.optim.SGD(model.parameters(), lr=0.1), train_data=data
    )
    reg.loss(model(data.tensors[0]), data.tensors[1]).backward()
    assert sums.total.any()


def test_a_model_is_saved_and_copied_while_attached(tmp_path):
    import copy
    import pickle

    model = mlp()
    reg = attach(model, Shrink(), torch.optim.SGD(model.parameters(), lr=0.1))
    copied, loaded = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    x = samples(8).tensors[0]
    for other in (copied, loaded):
        assert torch.equal(other(x), model(x))
    reg.detach()
    assert not model[5]._forward_pre_hooks
    pickle.dumps(copied)


def test_a_deep_copy_of_the_model_does_not_disturb_the_tap():
    import copy

    x, y = samples(8).tensors
    model = mlp()
    reg = attach(model, Shrink(), torch.optim.SGD(model.parameters(), lr=0.1))
    average = copy.deepcopy(model)
    logits = model(x)
    average(x * 100)
    loss = reg.loss(logits, y)
    assert reg.parts["shrink"] < 1
    loss.backward()


@pytest.mark.slow
def test_inductor_gives_what_eager_gives():
    import shutil

    if shutil.which("g++") is None:
        pytest.skip("Inductor needs a C++ compiler, and there is none")
    torch._dynamo.reset()
    data = samples(32)
    results = []
    for compiled in (False, True):
        model = mlp()
        run = torch.compile(model) if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        method = AdaRand(weight="linear(1, 0)")
        reg = attach(run, method, optimizer, train_data=data, epochs=2)
        for _ in range(2):
            for x, y in reg.batches(DataLoader(data, batch_size=8)):
                reg.loss(run(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
