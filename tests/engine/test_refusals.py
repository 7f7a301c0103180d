"""Bad input: one clear message, and nothing is changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.engine.toys import Flip, Noise, Pull, Shrink, Table, mlp, samples, toy
from tether import AdaRand, Method, TetherError, attach, create_method, prepare
from tether.engine.registry import attached_to

X, Y = samples(32).tensors


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def untouched(model, optimizer):
    hooks = [m for m in model.modules() if m._forward_pre_hooks or m._forward_hooks]
    steps = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return not hooks and not steps and attached_to(model) is None


@pytest.fixture
def table():
    model = mlp()
    return attach(model, Table(), sgd(model), train_data=samples(32))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 3, 1, 2]), "label 3 is out of range: the model has 3 outputs"),
        (torch.tensor([0, -1, 1, 2]), "label -1 is out of range"),
        (torch.tensor([0.0, 1.0, 2.0, 1.0]), "float targets of shape .4,.*loss='mse'"),
        (torch.tensor([0, 1, 2]), "one label a row: 4 rows of logits"),
        (torch.tensor([[0], [1], [2], [1]]), "one label a row"),
        ([0, 1, 2, 1], "targets must be a tensor, not list"),
    ],
)
def test_bad_labels(table, labels, message):
    rows = table.methods["table"].rows.clone()
    with pytest.raises(TetherError, match=message):
        table.loss(table.model(X[:4]), labels, index=torch.arange(4))
    assert torch.equal(rows, table.methods["table"].rows)
    table.loss(table.model(X[:4]), Y[:4], index=torch.arange(4))  # and it goes on


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, r"'table' keeps a table of samples and the rows of this batch are unknown"),
        (torch.tensor([0, 1, 2, 32]), "index 32 is out of range: train_data has 32 samples"),
        (torch.tensor([0, 1, 2, -1]), "index -1 is out of range"),
        (torch.tensor([0, 1, 2]), "one whole number a row: 4 rows"),
        (torch.tensor([0.0, 1.0, 2.0, 3.0]), "one whole number a row"),
    ],
)
def test_bad_rows(table, index, message):
    with pytest.raises(TetherError, match=message):
        table.loss(table.model(X[:4]), Y[:4], index=index)
    assert not table.methods["table"].rows.any()


def refused(message, model=None, methods=None, **options):
    model = model or mlp()
    optimizer = options.pop("optimizer", None) or sgd(model)
    with pytest.raises(TetherError, match=message):
        attach(model, methods, optimizer, **options)
    assert untouched(model, optimizer)


def test_recipes_that_lack_something():
    refused("'table' reads the training data: attach.*train_data", methods=Table())
    refused("'shrink': the schedule of 'weight' needs the length", methods=Shrink("cosine(1, 0)"))
    refused(
        "num_classes=4, but the head '5' has 3 outputs",
        methods=Table(),
        train_data=samples(),
        num_classes=4,
    )
    refused("Shrink is a class", methods=Shrink)
    refused("is not a tether method", methods=[torch.nn.ReLU()])
    refused("loss 'focal': give a callable or one of", methods=[], loss="focal")
    refused("nan_check 'always'", methods=[], nan_check="always")
    one = Shrink()
    refused("epochs must be above 0, got -1", methods=[], epochs=-1)
    refused("one method object is given twice", methods=[one, one])


def test_iterable_data_cannot_size_a_table():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([])

    refused("must be a map-style data set with a length", methods=Table(), train_data=Stream())


def test_two_methods_that_cannot_combine():
    methods = [
        create_method("adarand", lr_schedule="constant"),
        create_method("randreg", distribution="normal"),
    ]
    refused("'adarand' and 'randreg' cannot be combined", methods=methods, train_data=samples())

    @toy("own_loss")
    class OwnLoss(Method):
        """Replaces the loss."""

        def __init__(self):
            pass

        def sample_loss(self, batch):
            return batch.logits.sum(1)

    refused(
        "only one method may replace the loss: own_loss and own_loss",
        methods=[OwnLoss(), OwnLoss()],
    )


def test_attaching_twice():
    model = mlp()
    optimizer = sgd(model)
    first = attach(model, Shrink(), optimizer)
    with pytest.raises(TetherError, match="attached to this model already"):
        attach(model, Pull(), sgd(model))
    with pytest.raises(TetherError, match="attached to this model already"):
        attach(torch.compile(model), Pull(), sgd(model))
    first.loss(model(X), Y).backward()  # the first one is as it was
    optimizer.step()
    other = mlp()
    with pytest.raises(TetherError, match="object is attached to another model"):
        attach(other, first.methods["shrink"], sgd(other))
    first.detach()
    attach(model, Pull(), sgd(model)).detach()
    assert untouched(model, optimizer)


def test_a_method_object_can_be_used_again_after_detach():
    method = Shrink()
    for _ in range(2):
        model = mlp()
        with attach(model, method, sgd(model)) as reg:
            reg.loss(model(X), Y).backward()
            reg.seam.optimizer.step()


def test_an_optimiser_that_lacks_parameters():
    model = mlp()
    optimizer = torch.optim.SGD(model[5].parameters(), lr=0.1)
    refused(
        r"'pull' acts on trainable parameters that the optimiser does not hold: 0.weight, 0.bias, "
        r"3.weight, 3.bias; give",
        model=model,
        methods=Pull(),
        optimizer=optimizer,
    )
    for name in (0, 3):
        model[name].requires_grad_(False)
    attach(model, Pull(), optimizer)


def test_the_optimiser_may_come_later_but_must_come():
    model = mlp()
    reg = attach(model, Pull(weight=1.0))
    with pytest.raises(TetherError, match=r"reg.bind"):
        reg.loss(model(X), Y)
    other = mlp()
    scheduled = attach(other, Noise("linear(1, 0)"), total_steps=4)
    with pytest.raises(TetherError, match=r"reg.bind"):
        scheduled.loss(other(X), Y)
    optimizer = sgd(model)
    assert reg.bind(optimizer) is reg
    with pytest.raises(TetherError, match="bound already"):
        reg.bind(optimizer)
    reg.loss(model(X), Y).backward()
    with pytest.raises(TetherError, match="is not a torch optimiser"):
        reg.bind(object())


def test_calls_in_the_wrong_order():
    model = mlp()
    reg = attach(model, Shrink(), sgd(model))
    logits = model(X)
    reg.loss(logits, Y)
    with pytest.raises(TetherError, match="was not called since the last loss"):
        reg.loss(logits, Y)
    first, _ = model(X), model(X * 2)
    with pytest.raises(TetherError, match="called 2 times since the last loss"):
        reg.loss(first, Y)
    logits = model(X)
    with torch.no_grad():
        model(X * 2)  # a look without gradients takes nothing away
    reg.loss(logits, Y)
    model(X * 2)  # nor does a forward that was thrown away
    reg.loss(model(X), Y)
    model(X[:4])
    with pytest.raises(TetherError, match="the head saw 4 rows, the logits have 32"):
        reg.loss(logits, Y)
    reg.detach()
    with pytest.raises(TetherError, match="detached"):
        reg.loss(model(X), Y)
    with pytest.raises(TetherError, match="detached"):
        reg.batches([])


def test_methods_that_change_the_model_must_be_prepared():
    @toy("swap", kind="layers")
    class Swap(Method):
        """Swaps an activation."""

        def __init__(self):
            pass

        def prepare(self, model):
            model[1] = nn.GELU()

        def finish(self, model):
            model[1] = nn.ReLU()

    refused(r"'swap' changes the model: call tether.prepare", methods=Swap())
    model, swap = mlp(), Swap()
    assert prepare(model, swap) is model
    reg = attach(model, swap, sgd(model))
    assert isinstance(model[1], nn.GELU)
    assert reg.finish() is model
    assert isinstance(model[1], nn.ReLU)


def test_token_losses_refuse_methods_of_one_row_a_sample():
    refused(
        "'adarand'", methods=AdaRand(), train_data=samples(), epochs=1, loss="token_cross_entropy"
    )


def test_relabelled_targets_are_what_the_loss_sees():
    model = mlp()
    reg = attach(model, Flip(), sgd(model))
    loss = reg.loss(model(X), Y)
    expected = nn.functional.cross_entropy(model(X), torch.zeros_like(Y))
    assert torch.equal(loss, expected)
