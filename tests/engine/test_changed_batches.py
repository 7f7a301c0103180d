"""Batches that methods change: what they leave for the loss, and who may stand beside them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.engine.toys import mlp, samples, toy
from tether import EarlyLearningRegularization, Mixup, TetherError, attach
from tether.engine.order import arrange
from tether.labels import SampleRecord
from tether.method import Method
from tether.methods.inputs.mixing import mix_rows
from tether.methods.targets.elr import clamped_probabilities, elr_penalty


@toy("leaving", kind="inputs")
class Leaving(Method):
    """Leaves a note for its loss."""

    def __init__(self):
        self.heard, self.autocast = [], []

    def transform_batch(self, batch):
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        batch.extras["note"] = len(self.autocast)
        return batch

    def penalty(self, batch):
        self.heard.append(batch.extras["note"])
        return batch.logits.sum() * 0.0


def test_what_a_method_leaves_is_in_the_loss_of_that_batch_alone():
    model, method = mlp(), Leaving()
    reg = attach(model, method, torch.optim.SGD(model.parameters(), lr=0.1))
    with torch.autocast("cpu", torch.bfloat16):
        for form in (samples(), [{"x": x, "labels": y} for x, y in samples()]):
            for batch in reg.batches(DataLoader(form, batch_size=16)):
                x, y = batch if isinstance(batch, (tuple, list)) else batch.values()
                assert len(batch) == 2
                reg.loss(model(x), y)
                with pytest.raises(TetherError, match="'leaving'.*once for each of its batches"):
                    reg.loss(model(x), y)
    assert method.heard == [1, 2, 3, 4] and not any(method.autocast)
    model.eval()
    next(reg.batches(DataLoader(samples(), batch_size=16)))
    assert len(method.autocast) == 4


@toy("changing", kind="layers", needs=("inputs", "reference"))
class Changing(Method):
    """Doubles what a layer gives."""

    def __init__(self, look):
        self.look = look

    def setup(self, ctx):
        len(ctx.reference)
        ctx.change_output("0", lambda output: 2 * output)

    def penalty(self, batch):
        self.found = self.look(self.ctx)
        return batch.logits.sum() * 0.0


def test_a_layers_output_is_changed_in_training_and_where_the_step_is_repeated():
    x, y = samples().tensors
    model = mlp()
    plain, doubled = model(x[:8]), model[1:](2 * model[0](x[:8]))
    other = model(x[8:16])
    method = Changing(lambda ctx: [ctx.teacher(), ctx.forward(), ctx.forward(x[8:16])])
    reg = attach(model, method, torch.optim.SGD(model.parameters(), lr=0.1))
    logits = model(x[:8])
    torch.testing.assert_close(logits, doubled)
    reg.loss(logits, y[:8])
    teacher, again, foreign = (forward.logits for forward in method.found)
    torch.testing.assert_close(teacher, doubled)
    torch.testing.assert_close(again, doubled)
    torch.testing.assert_close(foreign, other)
    torch.testing.assert_close(model.eval()(x[:8]), plain)
    reg.detach()
    torch.testing.assert_close(model.train()(x[:8]), plain)
    with pytest.raises(TetherError, match="no layer 'stem'"):
        attach(model, Changing(None), torch.optim.SGD(model.parameters(), lr=0.1)).taps._layer(
            "stem"
        )


@toy("sided", kind="targets", needs=("domains",))
class Sided(Method):
    """Goes by domains."""


def test_rows_of_two_samples_have_no_sample_and_no_domain():
    with pytest.raises(TetherError, match="'sided' and 'mixup'.*by the domain of each row"):
        arrange([Mixup(), Sided()])
    assert list(arrange([Mixup(), EarlyLearningRegularization()])) == ["mixup", "elr"]


def test_elr_and_the_record_ask_about_the_unmixed_inputs(tmp_path):
    data = samples()
    x, y = data.tensors
    model = mlp()
    calls = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    elr, record = EarlyLearningRegularization(2.0, beta=0.6), SampleRecord(tmp_path / "record")
    methods = [elr, record, Mixup(1.0)]
    reg = attach(model, methods, torch.optim.SGD(model.parameters(), lr=0.1), train_data=data)
    for rows, labels in reg.batches(DataLoader(data, batch_size=32)):
        assert not torch.equal(rows, x)
        partner, lam = reg.maker._carried["mix"]
        clean = model(x).detach()
        probs = clamped_probabilities(clean)
        table = 0.4 * probs / probs.sum(1, keepdim=True)
        calls.clear()
        logits = model(rows)
        loss = reg.loss(logits, labels)
        assert len(calls) == 2  # the training forward, and one for both methods
        torch.testing.assert_close(elr.running_targets, table)
        one_hot = nn.functional.one_hot(y, 3).float()
        soft = mix_rows(one_hot, partner, lam)
        wanted = nn.functional.cross_entropy(logits, soft)
        wanted = wanted + 2.0 * elr_penalty(logits, mix_rows(table, partner, lam))
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(record.sums, clean.softmax(1))
        assert torch.equal(record.given.long(), y)


def test_texts_without_a_mask_are_asked_about_unmixed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 6), nn.Flatten(), nn.Linear(24, 3))
    ids, y = torch.randint(9, (8, 4)), torch.arange(8) % 3
    data = torch.utils.data.TensorDataset(ids, y)
    plain = clamped_probabilities(model(ids).detach())
    elr = EarlyLearningRegularization(beta=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reg = attach(model, [elr, Mixup(1.0)], optimizer, train_data=data)
    for given, labels in reg.batches(DataLoader(data, batch_size=8)):
        logits = model(given)
        reg.loss(logits, labels)
    torch.testing.assert_close(elr.running_targets, plain / plain.sum(1, keepdim=True))
    assert not torch.allclose(logits.softmax(1), plain, atol=1e-3)
