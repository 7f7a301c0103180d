"""One pass for all measures: forms of batches, sums over samples, nothing disturbed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from tests.measure.models import Named, Snapshot, image_model, images, rows, seeded, texts
from tether.errors import ConfigError, TetherError
from tether.measure import (
    collect,
    hessian_distance,
    hessian_trace,
    noise_stability,
    pac_bayes_bound,
)
from tether.measure.evaluation import Evaluation, sample_errors
from tether.measure.weights import undisturbed


def start_of(model):
    return {n: t.detach().clone() * 0.9 for n, t in model.state_dict().items()}


MEASURES = {
    "collect": lambda m, d, **k: collect(m, d, **k),
    "noise": lambda m, d, **k: noise_stability(m, d, draws=2, per_layer=True, **k),
    "trace": lambda m, d, **k: hessian_trace(m, d, max_draws=3, **k),
    "differences": lambda m, d, **k: hessian_trace(
        m, d, max_draws=3, method="finite_difference", layers="all", **k
    ),
    "distance": lambda m, d, **k: hessian_distance(m, start_of(m), d, **k),
    "pac": lambda m, d, **k: pac_bayes_bound(m, start_of(m), d, draws=4, sigmas=[0.1], **k),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_model_and_random_numbers_are_as_before_bit_by_bit(measure):
    net = image_model()
    before = Snapshot(net)
    first = measure(net, images())
    before.check()
    assert first.as_json()
    pending = net(images()[0][0]).sum()  # a graph that is still to be used
    before = Snapshot(net)
    measure(net, images())
    before.check()
    pending.backward()


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize("after", [0, 4])
def test_so_they_are_after_an_exception(measure, after):
    net, calls = image_model(), []

    def loss(logits, targets):
        calls.append(1)
        torch.rand(1), np.random.rand(), random.random()
        net.bn.num_batches_tracked.add_(1)
        if len(calls) > after:
            raise KeyError("broken loss")
        return nn.functional.cross_entropy(logits, targets, reduction="none")

    before = Snapshot(net)
    # two of them look at losses in the first pass alone
    with pytest.raises(KeyError, match="broken loss"):
        measure(net, images() * 2, loss=loss)
    before.check()


def test_replaced_buffers_and_nan_weights_come_back():
    net = nn.BatchNorm1d(2)
    with torch.no_grad():
        net.weight[0] = float("nan")
    buffer, value = net.running_mean, net.running_mean.clone()
    with undisturbed(net):
        net.running_mean = torch.ones(2)
        net.weight.requires_grad_(False)
    assert net.running_mean is buffer and torch.equal(buffer, value)
    assert net.weight.isnan()[0] and net.weight.requires_grad


def test_autocast_and_inference_mode_around_a_measure_change_nothing():
    net, data = image_model(), images()
    plain = noise_stability(net, data, draws=2).curve.draws
    traces = hessian_trace(net, data, max_draws=2).draws
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert np.array_equal(noise_stability(net, data, draws=2).curve.draws, plain)
    with torch.inference_mode():
        assert np.allclose(hessian_trace(net, data, max_draws=2).draws, traces)


# -- forms of data -----------------------------------------------------------------------------


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, a, b):
        return self.head(a + b)


def test_every_form_of_batch_gives_the_same():
    net = seeded(Two)
    x, y = rows(10, 4, 3, torch.float32)
    expected = collect(net, [(x, 2 * x, y)])
    cut = [slice(0, 3), slice(3, 10)]
    forms = {
        "tuple of inputs": [((x[s], 2 * x[s]), y[s]) for s in cut],
        "list of inputs": [[[x[s], 2 * x[s]], y[s]] for s in cut],
        "dict of inputs": [({"a": x[s], "b": 2 * x[s]}, y[s]) for s in cut],
        "dict": [{"a": x[s], "b": 2 * x[s], "labels": y[s]} for s in cut],
        "entries of methods": [
            {"a": x[s], "b": 2 * x[s], "labels": y[s], "domains": y[s], "views": x[s]} for s in cut
        ],
        "lists of labels": [(x[s], 2 * x[s], y[s].tolist()) for s in cut],
        "data set": TensorDataset(x, 2 * x, y),
        "loader": DataLoader(TensorDataset(x, 2 * x, y), 4, shuffle=True),
        "generator": ((x[s], 2 * x[s], y[s]) for s in cut),
    }
    for name, data in forms.items():
        found = collect(net, data)
        assert torch.equal(found.labels, y), name
        assert torch.allclose(found.logits, expected.logits), name
        assert torch.allclose(found.features, expected.features), name
        assert found.rows.tolist() == list(range(10)) and found.complete


def test_a_model_may_have_an_entry_of_that_name_itself():
    class Domains(Two):
        def forward(self, a, domains):
            return self.head(a + domains)

    x, y = rows(4, 4, 3, torch.float32)
    found = collect(seeded(Domains), [{"a": x, "domains": x, "labels": y}])
    assert torch.equal(found.features, 2 * x)


def test_loaders_with_samplers_of_their_own_are_read_as_they_are():
    x, y = rows(10, 4, 3, torch.float32)
    net, data = seeded(lambda: nn.Linear(4, 3)), TensorDataset(x, y)
    some = collect(net, DataLoader(data, 4, sampler=SubsetRandomSampler([7, 2, 5])))
    assert sorted(some.labels.tolist()) == sorted(y[[7, 2, 5]].tolist())
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(data, 4, sampler=RandomSampler(data, generator=generator))
    state = generator.get_state()
    assert torch.equal(collect(net, loader).labels, y)
    batches = torch.utils.data.BatchSampler(RandomSampler(data, generator=generator), 3, False)
    collect(net, DataLoader(data, batch_sampler=batches))
    assert torch.equal(generator.get_state(), state)

    class Stream(IterableDataset):
        def __iter__(self):
            return zip(x, y, strict=True)

    assert torch.equal(collect(net, DataLoader(Stream(), 3)).labels, y)


def test_a_model_of_transformers_in_dict_batches():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, num_labels=3, max_position_embeddings=16,
    )  # fmt: skip
    net = seeded(lambda: transformers.BertForSequenceClassification(config))
    before = Snapshot(net)
    found = collect(net, texts())
    assert found.logits.shape == (12, 3) and found.features.shape == (12, 8)
    again = net.classifier(found.features)
    assert torch.allclose(again, found.logits, atol=1e-6)
    trace = hessian_trace(net, texts(), max_draws=2, method="autograd")
    assert np.isfinite(trace.trace).all() and "classifier.weight" in trace.layers
    noise = noise_stability(net, texts(), sigmas=[1e-2], draws=2, per_layer="group")
    assert {"head"} < set(noise.profile) and noise.curve.increase[0] != 0
    before.check()


# -- sums over samples -------------------------------------------------------------------------


def test_means_are_over_samples_not_over_batches():
    net = image_model()
    x, y = (torch.cat(parts) for parts in zip(*images(), strict=True))
    whole, uneven = [(x, y)], [(x[:17], y[:17]), (x[17:19], y[17:19]), (x[19:], y[19:])]
    assert noise_stability(net, uneven, draws=2).curve.draws == pytest.approx(
        noise_stability(net, whole, draws=2).curve.draws, rel=1e-3, abs=2e-7
    )
    doubled, data = net.double(), [(x.double(), y)]
    a = hessian_trace(doubled, data, max_draws=3)
    for size in (1, 7, None):
        b = hessian_trace(doubled, [(x.double(), y)], max_draws=3, micro_batch=size)
        assert np.allclose(a.draws, b.draws)
    cut = [(p.double(), q) for p, q in uneven]
    assert np.allclose(hessian_trace(doubled, cut, max_draws=3).draws, a.draws)


def test_rows_without_a_label_do_not_count():
    net = image_model()
    (x, y), *_ = images(8)
    given = y.clone()
    given[[1, 4]] = -100
    keep = [0, 2, 3, 5, 6, 7]
    found, kept = collect(net, [(x, given)]), collect(net, [(x[keep], y[keep])])
    assert found.rows.tolist() == keep and torch.equal(found.labels, y[keep])
    assert torch.allclose(found.losses, kept.losses, atol=1e-6)
    assert torch.allclose(found.features, kept.features, atol=1e-6)
    a, b = (noise_stability(net, d, draws=1) for d in ([(x, given)], [(x[keep], y[keep])]))
    assert a.loss == pytest.approx(b.loss) and a.samples == b.samples == 6
    traces = [hessian_trace(net, d, max_draws=1) for d in ([(x, given)], [(x[keep], y[keep])])]
    assert traces[0].total == pytest.approx(traces[1].total, rel=1e-4)


def test_losses_and_features_are_what_a_hand_written_loop_gives():
    net = image_model()
    seen = []
    hook = net.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found = collect(net, images())
    hook.remove()
    net.eval()
    x, y = (torch.cat(parts) for parts in zip(*images(), strict=True))
    with torch.no_grad():
        logits = net(x)
    assert torch.allclose(found.logits, logits, atol=1e-6)
    losses = nn.functional.cross_entropy(logits, y, reduction="none")
    assert torch.allclose(found.losses, losses, atol=1e-6)
    assert torch.equal(found.features, torch.cat(seen))
    assert collect(net, images(), features=False).features is None


def test_errors_of_classes_labels_and_tokens():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]])
    assert sample_errors(logits, torch.tensor([0, 0, -100])).tolist() == [0.0, 1.0, 0.0]
    soft = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    assert sample_errors(logits, soft).tolist() == [0.0, 1.0, 1.0]
    several = torch.tensor([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    signed = torch.tensor([[2.0, -1.0], [-1.0, 1.0], [3.0, 1.0]])
    assert sample_errors(signed, several).tolist() == [0.5, 0.0, 0.0]
    assert sample_errors(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0])).tolist() == [0.0, 1.0]
    tokens = torch.tensor([[0, 0, -100], [1, 1, 1]])
    scores = torch.zeros(2, 3, 2)
    scores[..., 0] = 1.0
    assert sample_errors(scores, tokens).tolist() == [0.0, 1.0]
    with pytest.raises(ConfigError, match="class indices"):
        sample_errors(logits, torch.full((3, 2), 4.0))


# -- limits, heads, refusals -------------------------------------------------------------------


@pytest.mark.parametrize(("most", "count", "complete"), [(5, 5, False), (20, 20, True), (8, 8, False), (None, 20, True), (99, 20, True)])  # fmt: skip # noqa: E501
def test_max_samples_is_exact(most, count, complete):
    found = collect(image_model(), images(), max_samples=most)
    assert len(found.logits) == len(found.features) == count and found.complete is complete


def test_max_seconds_ends_a_pass_after_a_batch_at_least():
    def endless():
        while True:
            yield images()[0]

    found = collect(image_model(), endless(), max_seconds=0.05)
    assert not found.complete and len(found.logits) >= 8 and found.seconds >= 0.05
    assert len(collect(image_model(), images(), max_seconds=1e-9).logits) == 8


def test_one_sample_is_enough():
    net, data = image_model(), images(1)
    assert collect(net, data).logits.shape == (1, 3)
    assert noise_stability(net, data, draws=2).samples == 1
    assert hessian_trace(net, data, max_draws=2).samples == 1
    assert pac_bayes_bound(net, start_of(net), data, draws=2).vacuous


def test_the_number_of_classes_tells_the_head():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 3)
            self.last = nn.Linear(3, 5)  # an extra that makes no logits

        def forward(self, x):
            return self.first(x)

    net, (x, y) = seeded(Odd), rows(6, 4, 3, torch.float32)
    assert torch.equal(collect(net, [(x, y)]).features, x)
    with pytest.raises(TetherError, match="'last' does not make the 3 outputs"):
        collect(net, [(x, y)], head="last")
    with pytest.raises(TetherError, match="is not a module"):
        collect(net, [(x, y)], head="lost")
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_a_head_for_every_token_has_no_features_of_samples():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.score = nn.Linear(4, 3)

        def forward(self, x):
            return self.score(x)[:, -1]

    net, x = seeded(Tokens), torch.ones(2, 5, 4)
    with pytest.raises(TetherError, match="one row a token"):
        collect(net, [(x, torch.tensor([0, 1]))])
    assert collect(net, [(x, torch.tensor([0, 1]))], features=False).logits.shape == (2, 3)


def test_bad_input_gets_one_clear_message():
    net = image_model()
    with pytest.raises(ConfigError, match="max_samples must be at least 1"):
        collect(net, images(), max_samples=0)
    with pytest.raises(ConfigError, match="max_seconds must be above 0"):
        collect(net, images(), max_seconds=0)
    for empty in ([], [(torch.ones(2, 3, 5, 5), torch.tensor([-100, -100]))]):
        for measure in MEASURES.values():
            with pytest.raises(ConfigError, match="no sample with a label"):
                measure(net, empty)
    with pytest.raises(ConfigError, match="a batch is"):
        collect(net, [torch.ones(2, 3, 5, 5)])
    with pytest.raises(ConfigError, match="not single samples"):
        collect(net, [(torch.ones(3, 5, 5), 1)])
    with pytest.raises(ConfigError, match="must give batches, a int"):
        collect(net, 3)
    with pytest.raises(TetherError, match="label 7 is out of range"):
        collect(net, [(torch.ones(1, 3, 5, 5), torch.tensor([7]))])
    bad = [(torch.full((1, 3, 5, 5), float("nan")), torch.tensor([1]))]
    with pytest.raises(TetherError, match="before any change of its weights"):
        noise_stability(net, bad)


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_nan_weights_are_named(measure):
    net = image_model()
    with torch.no_grad():
        net.downsample.weight[0] = float("nan")
    before = {n: t.clone() for n, t in net.state_dict().items()}
    with pytest.raises(TetherError, match=r"'downsample\.weight' hold NaN"):
        measure(net, images())
    assert all(
        torch.equal(t.nan_to_num(7.0), before[n].nan_to_num(7.0))
        for n, t in net.state_dict().items()
    )


def test_half_precision_is_refused_where_weights_change():
    net = nn.Linear(4, 3).bfloat16()
    data = [(torch.ones(2, 4, dtype=torch.bfloat16), torch.tensor([0, 1]))]
    assert collect(net, data).logits.dtype is torch.float32
    with pytest.raises(TetherError, match="too coarse"):
        noise_stability(net, data)


def test_an_evaluation_knows_its_numbers():
    net = seeded(Named).eval()
    found = Evaluation(net, texts(), loss="cross_entropy")
    collected = collect(net, texts())
    assert found.count == 12 and found.outputs == 3
    assert found.base == pytest.approx(collected.losses.double().mean().item(), rel=1e-6)
    assert found.largest == pytest.approx(collected.losses.max().item(), rel=1e-6)
    assert found.loss() == pytest.approx(found.base)
    errors = sum(float(found.errors(i)) for i in range(len(found.batches)))
    assert errors == float((collected.logits.argmax(1) != collected.labels).sum())
