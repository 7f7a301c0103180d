"""AdaRand: statistics, draws, the prior's loss and steps, kinds of targets."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tests.reference import feature_twins as twins
from tests.two_ranks import two_ranks
from tether import AdaRand, FeatureNormPenalty, RandReg, TetherError, attach
from tether.measure import feature_entropy
from tether.methods.features.adarand import (
    adarand_feature_loss,
    adarand_prior_gradient,
    adarand_prior_loss,
)
from tether.methods.features.class_membership import add_class_sums, pick_classes, quantile_edges
from tether.methods.features.class_moments import ClassMoments, class_feature_statistics
from tether.methods.features.class_prior import ClassPrior
from tether.methods.features.random_regression import unit_noise

DOUBLE = torch.float64
DISTANCES = ("cosine_squared", "cosine")
UPDATES = ("both", "intra", "inter")


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=DOUBLE, generator=source(seed))


def labels(n: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(k, (n,), generator=source(seed))


def one_hot(y: torch.Tensor, k: int) -> torch.Tensor:
    return nn.functional.one_hot(y, k).to(DOUBLE)


# -- class statistics ----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 20), d=st.integers(1, 4), k=st.integers(1, 5), seed=st.integers(0, 99),
    form=st.sampled_from(["index", "one_hot", "multi", "soft"]), cut=st.integers(1, 20),
)  # fmt: skip
def test_statistics_agree_with_the_twin_in_any_batches(n, d, k, seed, form, cut):
    f, y = rows(n, d, seed), labels(n, k, seed)
    weights = one_hot(y, k)
    if form == "multi":
        weights = (torch.rand(n, k, dtype=DOUBLE, generator=source(seed)) < 0.4).to(DOUBLE)
    elif form == "soft":
        weights = torch.softmax(rows(n, k, seed), 1)
    targets = y if form == "index" else weights
    wanted = twins.class_statistics(f.numpy(), weights.numpy())
    for found, twin in zip(class_feature_statistics(f, targets, k), wanted, strict=True):
        np.testing.assert_allclose(found.numpy(), twin, rtol=1e-9, atol=1e-9)
    moments = ClassMoments(k, d)
    for part, t in zip(f.split(cut), targets.split(cut), strict=True):
        moments.update(part, t)
    present = wanted[2] > 0
    np.testing.assert_allclose(
        moments.mean.numpy()[present], wanted[0][present], rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        moments.std().numpy()[present], wanted[1][present], rtol=1e-9, atol=1e-9
    )


def test_statistics_keep_their_digits_far_from_zero():
    noise = rows(5000, 3)
    moments = ClassMoments(2, 3)
    for part, y in zip((1e7 + noise).split(37), labels(5000, 2).split(37), strict=True):
        moments.update(part, y)
    wanted = twins.class_statistics(noise.numpy(), one_hot(labels(5000, 2), 2).numpy())
    np.testing.assert_allclose(moments.std().numpy(), wanted[1], rtol=1e-6)


def test_small_classes_and_rows_that_do_not_count():
    f = torch.tensor([[0.0, 5.0], [2.0, 5.0], [9.0, 1.0], [99.0, 99.0]])
    means, stds, counts = class_feature_statistics(f, torch.tensor([0, 0, 1, -100]), 3)
    assert counts.tolist() == [2, 1, 0]
    assert means[:2].tolist() == [[1, 5], [9, 1]]
    # class 1 has one sample: the pooled deviation, that of class 0; a dead unit stays at the floor
    torch.testing.assert_close(stds[:2], torch.tensor([[2**0.5, 1e-6], [2**0.5, 1e-6]]))
    assert means[2].isnan().all() and stds[2].isnan().all()


def test_extremes_by_class():
    moments = ClassMoments(2, 2, extremes=True)
    for part, y in zip(rows(20, 2).split(6), labels(20, 2).split(6), strict=True):
        moments.update(part, y)
    for k in range(2):
        mine = rows(20, 2)[labels(20, 2) == k]
        assert torch.equal(moments.low[k], mine.amin(0))
        assert torch.equal(moments.high[k], mine.amax(0))


# -- the prior's loss ----------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    k=st.integers(1, 7), d=st.integers(1, 7), seed=st.integers(0, 99),
    distance=st.sampled_from(DISTANCES), update=st.sampled_from(UPDATES),
)  # fmt: skip
def test_prior_loss_and_closed_gradient(k, d, seed, distance, update):
    mu, running = rows(k, d, seed).requires_grad_(), rows(k, d, seed + 1)
    value = adarand_prior_loss(mu, running, distance=distance, update=update)
    wanted = twins.prior_loss(mu.detach().numpy(), running.numpy(), distance, update)
    assert value.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    grad = adarand_prior_gradient(mu.detach(), running, distance=distance, update=update)
    if value.requires_grad:
        auto = torch.autograd.grad(value, mu)[0]
        scale = 1.0 + 1.0 / mu.detach().norm(dim=1).min()
        assert (grad - auto).abs().max() < 1e-10 * scale
    else:
        assert update == "inter" and k == 1 and not grad.any()
    assert (grad * mu.detach()).sum(1).abs().max() < 1e-10  # nothing pulls the lengths


@pytest.mark.parametrize("distance", DISTANCES)
def test_prior_loss_passes_gradcheck_and_is_blind_to_lengths(distance):
    mu, running = rows(4, 3).requires_grad_(), rows(4, 3, 1)
    assert torch.autograd.gradcheck(
        lambda m: adarand_prior_loss(m, running, distance=distance), (mu,)
    )
    plain = adarand_prior_loss(mu, running, distance=distance)
    scales = torch.tensor([[0.1], [3.0], [1.0], [50.0]], dtype=DOUBLE)
    for other in ((mu * scales, running), (mu, running * scales)):
        torch.testing.assert_close(adarand_prior_loss(*other, distance=distance), plain)


@pytest.mark.parametrize(("k", "d"), [(200, 8), (8, 200)])
def test_nothing_of_all_pairs_times_coordinates_is_held(k, d):
    mu, running, largest = rows(k, d).requires_grad_(), rows(k, d, 1), [0]

    def note(tensor):
        largest[0] = max(largest[0], tensor.numel())
        return tensor

    for distance in DISTANCES:
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            adarand_prior_loss(mu, running, distance=distance).backward()
    assert 0 < largest[0] <= k * d


def test_a_zero_mean_has_cosine_zero_and_a_finite_gradient():
    mu, running = rows(3, 4), rows(3, 4, 1)
    mu[1] = 0.0
    for distance in DISTANCES:
        wanted = twins.prior_loss(mu.numpy(), running.numpy(), distance, "both")
        found = adarand_prior_loss(mu, running, distance=distance)
        assert found.item() == pytest.approx(wanted, rel=1e-9)
        assert adarand_prior_gradient(mu, running, distance=distance).isfinite().all()


@pytest.mark.parametrize("distance", DISTANCES)
def test_where_the_inter_term_leads(distance):
    """Squared: every pair orthogonal; plain: only the mean cosine falls, to -1/(K-1)."""
    mu = rows(6, 10).abs()
    for _ in range(3000):
        mu -= 2.0 * adarand_prior_gradient(mu, mu, distance=distance, update="inter")
    unit = mu / mu.norm(dim=1, keepdim=True)
    pairs = (unit @ unit.T)[~torch.eye(6, dtype=torch.bool)]
    if distance == "cosine_squared":
        assert pairs.abs().max() < 1e-3
    else:
        assert pairs.mean().item() == pytest.approx(-1 / 5, abs=1e-4)
        assert pairs.max() - pairs.min() > 0.1


# -- draws ---------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 8), d=st.integers(1, 5), k=st.integers(1, 4), seed=st.integers(0, 99),
    distribution=st.sampled_from(["normal", "laplace", "uniform"]),
    reduction=st.sampled_from(["mean", "sum"]),
)  # fmt: skip
def test_feature_loss_agrees_with_the_twin_on_the_same_draw(n, d, k, seed, distribution, reduction):
    f, means, stds = rows(n, d, seed), rows(k, d, seed + 1), rows(k, d, seed + 2).abs()
    y = labels(n, k, seed)
    y[rows(n, 1, seed + 3)[:, 0] > 1.0] = -100
    noise = unit_noise(f, distribution, source(seed))
    aims = means[y.clamp(min=0)] + 0.5 * stds[y.clamp(min=0)] * noise
    kept = (y >= 0).nonzero().flatten().tolist()
    found = adarand_feature_loss(
        f, means, stds, y, sigma_scale=0.5, distribution=distribution, reduction=reduction,
        generator=source(seed),
    )  # fmt: skip
    wanted = twins.squared_distance(f.numpy(), aims.numpy(), kept, reduction)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_without_noise_the_gradient_is_the_pull_to_the_class_mean():
    f, means, y = rows(6, 5).requires_grad_(), rows(3, 5, 1), labels(6, 3)
    adarand_feature_loss(f, means, torch.zeros(3, 5, dtype=DOUBLE), y).backward()
    torch.testing.assert_close(f.grad, 2 * (f.detach() - means[y]) / 30, rtol=1e-13, atol=0)


def test_mean_over_draws_is_the_closed_form():
    f, means, stds, y = rows(4, 6), rows(3, 6, 1), rows(3, 6, 2).abs(), labels(4, 3)
    generator = source(4)
    values = [adarand_feature_loss(f, means, stds, y, generator=generator) for _ in range(4000)]
    wanted = (f - means[y]).square().mean() + stds[y].square().mean()
    assert torch.stack(values).mean().item() == pytest.approx(wanted.item(), rel=0.01)


def test_gradcheck_and_no_gradient_to_the_prior():
    f, y = rows(3, 4).requires_grad_(), torch.tensor([0, 1, -100])
    means, stds = rows(2, 4, 1).requires_grad_(), rows(2, 4, 2).abs().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: adarand_feature_loss(x, means, stds, y, generator=source()), (f,)
    )
    adarand_feature_loss(f, means, stds, y).backward()
    assert means.grad is None and stds.grad is None and not f.grad[2].any()


def test_classes_are_drawn_by_their_weight():
    weights = torch.tensor([[0.2, 0.0, 0.8], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    generator = source()
    draws = torch.stack([pick_classes(weights, generator)[0] for _ in range(4000)])
    share = torch.stack([(draws == k).double().mean(0) for k in range(3)], 1)
    wanted = torch.tensor([[0.2, 0.0, 0.8], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]], dtype=DOUBLE)
    torch.testing.assert_close(share[[0, 1, 3]], wanted, rtol=0, atol=0.04)
    assert share[0, 1] == 0 and share[1, 2] == 0 and share[3, 1] == 1
    assert pick_classes(weights)[1].tolist() == [True, True, False, True]


def test_several_labels_pull_to_the_even_mixture():
    f, means = rows(2, 3).requires_grad_(), rows(3, 3, 1)
    many = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=DOUBLE)
    generator, none = source(), torch.zeros(3, 3, dtype=DOUBLE)
    values = [adarand_feature_loss(f, means, none, many, generator=generator) for _ in range(3000)]
    grad = torch.autograd.grad(torch.stack(values).mean(), f)[0]
    middle = (means[0] + means[2]) / 2
    torch.testing.assert_close(grad[0], 2 * (f[0].detach() - middle) / 3, rtol=0, atol=0.06)
    assert not grad[1].any()


# -- class sums and running means ----------------------------------------------------------------


def test_running_means_follow_the_classes_that_are_present():
    prior = ClassPrior(4, 3, "cpu").double()
    prior.running_mu.copy_(rows(4, 3))
    before = prior.running_mu.clone()
    f, y = rows(6, 3, 1), torch.tensor([0, 0, 2, -100, 2, 2])
    sums, counts = torch.zeros(4, 3, dtype=DOUBLE), torch.zeros(4, dtype=DOUBLE)
    add_class_sums(sums, counts, f[:3], y[:3])
    add_class_sums(sums, counts, f[3:], y[3:])  # two micro-batches of one update
    assert counts.tolist() == [2, 0, 3, 0]
    dense = torch.zeros_like(sums), torch.zeros_like(counts)
    add_class_sums(*dense, f, one_hot(y.clamp(min=0), 4) * (y >= 0)[:, None])
    torch.testing.assert_close(dense, (sums, counts))
    prior.follow(sums, counts, 0.3, torch.tensor(0.0))
    assert torch.equal(prior.running_mu, before)  # the update was skipped
    prior.follow(sums, counts, 0.3, torch.tensor(1.0))
    assert torch.equal(prior.running_mu[[1, 3]], before[[1, 3]])
    torch.testing.assert_close(prior.running_mu[0], 0.3 * before[0] + 0.7 * f[:2].mean(0))
    torch.testing.assert_close(prior.running_mu[2], 0.3 * before[2] + 0.7 * f[[2, 4, 5]].mean(0))


def test_a_class_with_less_than_one_sample_moves_by_its_weight():
    prior = ClassPrior(2, 1, "cpu")
    prior.follow(torch.tensor([[1.0], [8.0]]), torch.tensor([0.25, 2.0]), 0.5, None)
    torch.testing.assert_close(prior.running_mu, torch.tensor([[0.5 * 0.25 * 4.0], [2.0]]))


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-5, 5), min_size=1, max_size=40), bins=st.integers(1, 12),
)  # fmt: skip
def test_bins_are_never_empty_and_equal_numbers_share_one(values, bins):
    targets = torch.tensor(values, dtype=torch.float32)
    edges = quantile_edges(targets, bins)
    place = torch.bucketize(targets, edges, right=True)
    assert len(edges) + 1 <= bins
    assert sorted(set(place.tolist())) == list(range(len(edges) + 1))
    order = targets.argsort(stable=True)
    assert (place[order].diff() >= 0).all()
    if len(set(values)) == len(values) and len(values) % bins == 0:
        assert place.bincount().tolist() == [len(values) // bins] * bins


def test_a_spike_of_equal_numbers_keeps_the_rest_apart():
    targets = torch.cat([torch.zeros(90), torch.arange(1.0, 11.0)])
    assert quantile_edges(targets, 10).tolist() == [1.0]


# -- attached ------------------------------------------------------------------------------------

X, Y = torch.randn(24, 4, generator=source(3)), torch.arange(24) % 3


def network(outputs: int = 3, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(4, 8), *middle, nn.ReLU(), nn.Linear(8, outputs))


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1)


def train(net, optimizer, reg, steps, y=Y, batch=8, accumulate=1):
    """Batches in row order; ``accumulate`` micro-batches make an update."""
    for step in range(steps):
        at = step * batch % len(X)
        x_parts = X[at : at + batch].chunk(accumulate)
        y_parts = y[at : at + batch].chunk(accumulate)
        for xs, ys in zip(x_parts, y_parts, strict=True):
            loss = reg.loss(net(xs), ys) if reg else nn.functional.cross_entropy(net(xs), ys)
            (loss / accumulate).backward()
        optimizer.step()
        optimizer.zero_grad()


def attached(method, net, data=None, y=Y, **options):
    optimizer = sgd(net)
    options = {"total_steps": 12} | options
    data = TensorDataset(X, y) if data is None else data
    return optimizer, attach(net, method, optimizer, train_data=data, **options)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_weight_zero_is_plain_training_bit_for_bit(distribution):
    plain, net = network(norm=True), network(norm=True)
    train(plain, sgd(plain), None, 6)
    train(net, *attached(AdaRand(weight=0.0, distribution=distribution), net), 6)
    for a, b in zip(plain.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("norm", [False, True])
def test_the_prior_starts_at_the_statistics_of_the_pretrained_features(norm):
    net = network(norm=norm)
    train(net, sgd(net), None, 3)  # batch norm: running statistics that are not the batch's
    net.eval()
    wanted = twins.class_statistics(net[:-1](X).detach().double().numpy(), one_hot(Y, 3).numpy())
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    method = AdaRand()
    _, reg = attached(method, net)
    reg.start_epoch()
    for found, twin in zip(
        (method.prior.mu, method.prior.sigma, method.prior.running_mu),
        (wanted[0], wanted[1], wanted[0]), strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(found.detach().numpy(), twin, rtol=1e-5, atol=2e-6)
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_uniform_prior_spans_the_features_of_its_class():
    net, method = network(), AdaRand(distribution="uniform", fixed=True)
    _, reg = attached(method, net)
    reg.start_epoch()
    features = net[:-1](X).detach()
    noise = unit_noise(torch.empty(20000, 8), "uniform", source())
    for k in range(3):
        drawn = method.prior.mu[k].detach() + method.prior.sigma[k] * noise
        mine = features[k == Y]
        torch.testing.assert_close(drawn.amin(0), mine.amin(0), rtol=0, atol=2e-3)
        torch.testing.assert_close(drawn.amax(0), mine.amax(0), rtol=0, atol=2e-3)


@pytest.mark.parametrize("distance", DISTANCES)
def test_the_prior_moves_as_its_twin(distance):
    net, method = network(), AdaRand(alpha=0.3, distance=distance)
    optimizer, reg = attached(method, net)
    reg.start_epoch()
    twin = twins.PriorTwin(method.prior.mu.detach().double().numpy(), 0.3, 1e-2, distance)
    for step in range(12):
        at = step * 5 % 19  # classes are absent from some batches
        seen = net[:-1](X[at : at + 5]).detach().double().numpy()
        twin.step(seen, Y[at : at + 5].numpy(), step / 12)
        reg.loss(net(X[at : at + 5]), Y[at : at + 5]).backward()
        optimizer.step()
        optimizer.zero_grad()
        np.testing.assert_allclose(
            method.prior.running_mu.numpy(), twin.running, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(method.prior.mu.detach().numpy(), twin.mu, rtol=1e-4, atol=1e-5)


def test_absent_classes_keep_their_running_mean_and_no_gradient_reaches_the_prior():
    net, method = network(), AdaRand(alpha=0.25)
    optimizer, reg = attached(method, net)
    reg.start_epoch()
    before = method.prior.running_mu.clone()
    seen, y = net[:-1](X[Y != 1]).detach(), Y[Y != 1]
    reg.loss(net(X[Y != 1]), y).backward()
    assert method.prior.mu.grad is None and not method.prior.sigma.requires_grad
    optimizer.step()
    assert torch.equal(method.prior.running_mu[1], before[1])
    for k in (0, 2):
        wanted = 0.25 * before[k] + 0.75 * seen[y == k].mean(0)
        torch.testing.assert_close(method.prior.running_mu[k], wanted)
    assert not torch.equal(method.prior.mu[1], before[1])  # every class takes part in the step


@pytest.mark.parametrize("update", ["fixed", "intra", "inter"])
def test_parts_of_the_update(update):
    fixed = update == "fixed"
    net, method = network(), AdaRand(fixed=fixed, update="both" if fixed else update, lr=0.05)
    optimizer, reg = attached(method, net)
    reg.start_epoch()
    start = reg.measure()["adarand"]
    train(net, optimizer, reg, 12)
    end = reg.measure()["adarand"]
    if fixed:
        assert end["prior_drift"] == 0 and end["prior_running_cosine"] == pytest.approx(1)
    elif update == "inter":
        assert end["prior_pair_cosine"] < start["prior_pair_cosine"] - 0.1
    else:
        assert end["prior_drift"] > 0 and end["prior_running_cosine"] > 0.95


def test_micro_batches_of_an_update_are_pooled():
    results = []
    for accumulate in (1, 4):
        net, method = network(), AdaRand(sigma_scale=0.0)
        optimizer, reg = attached(method, net)
        train(net, optimizer, reg, 6, accumulate=accumulate)
        results.append([method.prior.mu, method.prior.running_mu, *net.parameters()])
        assert not method.sums.any() and not method.counts.any()
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)


def test_save_load_and_go_on_is_bit_for_bit(tmp_path):
    net, method = network(), AdaRand()
    optimizer, reg = attached(method, net)
    train(net, optimizer, reg, 5)
    reg.loss(net(X[:8]), Y[:8])  # in the middle of an update
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    reg.save(tmp_path / "state")
    train(net, optimizer, reg, 5)
    again, other = network(), AdaRand()
    second, resumed = attached(other, again)
    again.load_state_dict(weights)
    resumed.load(tmp_path / "state")
    train(again, second, resumed, 5)
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, value in method.prior.state_dict().items():
        assert torch.equal(value, other.prior.state_dict()[name])


@pytest.mark.parametrize("fused", [True, False])
def test_an_update_that_a_loss_scaler_skips_leaves_the_prior(fused):
    net, method = network(), AdaRand()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-120)
    reg = attach(net, method, optimizer, train_data=TensorDataset(X, Y), total_steps=12)
    reg.start_epoch()
    kept = {name: value.clone() for name, value in method.prior.state_dict().items()}
    for skipped in (True, False):
        scaler.scale(100.0 * reg.loss(net(X[:8]), Y[:8])).backward()
        if not skipped:  # of the skipped update nothing is left in the sums
            assert method.counts.tolist() == Y[:8].bincount().tolist()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        same = [torch.equal(kept[n], value) for n, value in method.prior.state_dict().items()]
        assert all(same) is skipped


def test_labels_that_do_not_count():
    y = Y.clone()
    y[::4] = -100
    net, method = network(), AdaRand(sigma_scale=0.0, fixed=True)
    optimizer, reg = attached(method, net, y=y)
    reg.loss(net(X), y)
    kept = y >= 0
    features = net[:-1](X).detach()
    means = torch.stack([features[y == k].mean(0) for k in range(3)])
    torch.testing.assert_close(method.prior.mu.detach(), means)
    wanted = (features[kept] - means[y[kept]]).square().mean()
    torch.testing.assert_close(reg.parts["adarand"], wanted)
    train(net, optimizer, reg, 3, y=y)


def test_one_class_and_one_sample():
    net = network(outputs=1)
    method = AdaRand()
    optimizer, reg = attached(method, net, y=torch.zeros(24, dtype=torch.long))
    train(net, optimizer, reg, 3, y=torch.zeros(24, dtype=torch.long), batch=1)
    assert all(p.isfinite().all() for p in [*net.parameters(), method.prior.mu])
    assert np.isnan(reg.measure()["adarand"]["prior_pair_cosine"])


# -- other targets -------------------------------------------------------------------------------


def test_soft_labels_that_are_hard_give_the_same_prior():
    results = []
    for y in (Y, one_hot(Y, 3).float()):
        net, method = network(), AdaRand(sigma_scale=0.0)
        optimizer, reg = attached(method, net, y=y)
        train(net, optimizer, reg, 6, y=y)
        results.append(
            [method.prior.mu, method.prior.running_mu, method.prior.sigma, net[0].weight]
        )
    for hard, soft in zip(*results, strict=True):
        torch.testing.assert_close(hard, soft, rtol=1e-4, atol=1e-5)


def test_several_labels_end_to_end():
    y = (torch.rand(24, 3, generator=source(8)) < 0.5).float()
    y[0] = 0.0
    net, method = network(), AdaRand(lr=1e-3)
    optimizer, reg = attached(method, net, y=y, loss="binary_cross_entropy")
    reg.start_epoch()
    wanted = twins.class_statistics(net[:-1](X).detach().double().numpy(), y.double().numpy())
    np.testing.assert_allclose(method.prior.mu.detach().numpy(), wanted[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(method.prior.sigma.numpy(), wanted[1], rtol=1e-4, atol=2e-6)
    before = method.prior.running_mu.clone()
    seen = net[:-1](X[:8]).detach()
    train(net, optimizer, reg, 1, y=y)
    for k in range(3):
        mine = 0.5 * before[k] + 0.5 * seen[y[:8, k] == 1].mean(0)
        torch.testing.assert_close(method.prior.running_mu[k], mine)
    losses = [reg.loss(net(X), y).item()]
    train(net, optimizer, reg, 11, y=y)
    assert reg.loss(net(X), y).item() < losses[0]


def test_one_column_of_binary_labels_is_two_classes():
    y = (torch.arange(24) % 2).float()
    net, method = network(outputs=1), AdaRand(lr_schedule="constant")
    optimizer, reg = attached(method, net, y=y, loss="binary_cross_entropy", total_steps=None)
    reg.start_epoch()
    features = net[:-1](X).detach()
    for k in (0, 1):
        torch.testing.assert_close(method.prior.mu[k].detach(), features[y == k].mean(0))
    train(net, optimizer, reg, 3, y=y.view(-1, 1))


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_regression_by_quantile_bins(loss):
    y = X[:, 0] * 3.0 + 1.0
    net, method = network(outputs=1), AdaRand(num_bins=4)
    optimizer, reg = attached(method, net, y=y, loss=loss)
    reg.start_epoch()
    features, order = net[:-1](X).detach(), y.argsort()
    for k in range(4):
        mine = features[order[6 * k : 6 * k + 6]]
        torch.testing.assert_close(method.prior.mu[k].detach(), mine.mean(0))
        torch.testing.assert_close(method.prior.sigma[k], mine.std(0).clamp(min=1e-6))
    first = reg.loss(net(X), y).item()
    train(net, optimizer, reg, 12, y=y)
    assert reg.loss(net(X), y).item() < first


# -- what it refuses -----------------------------------------------------------------------------


def test_classes_without_samples_are_named():
    net = network(outputs=5)
    _, reg = attached(AdaRand(), net)
    with pytest.raises(TetherError, match=r"2 of 5 classes have no training sample: 3, 4; give"):
        reg.loss(net(X), Y)


def test_refusals():
    with pytest.raises(TetherError, match="several outputs has no such bins"):
        attached(AdaRand(), network(outputs=2), y=torch.randn(24, 2), loss="mse")
    with pytest.raises(
        TetherError, match=r"total_steps=\.\.\., or AdaRand\(lr_schedule='constant'"
    ):
        attached(AdaRand(), network(), total_steps=None)
    with pytest.raises(TetherError, match="cannot be combined"):
        attached([AdaRand(), FeatureNormPenalty()], network())
    with pytest.raises(ValueError, match="0 <= alpha <= 1"):
        AdaRand(alpha=1.5)
    with pytest.raises(ValueError, match="distance='euclidean' is not one of"):
        AdaRand(distance="euclidean")


# -- two processes -------------------------------------------------------------------------------


def distributed_run(rank, out):
    torch.manual_seed(0)
    net = nn.parallel.DistributedDataParallel(network())
    method = AdaRand(sigma_scale=0.0)
    data = TensorDataset(X[:23], Y[:23])  # the statistics pass pads one row
    optimizer, reg = attached(method, net, data)
    loader = DataLoader(TensorDataset(X, Y), 4, sampler=DistributedSampler(X, shuffle=False))
    for _ in range(2):
        for x, y in reg.batches(loader):
            reg.loss(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.save(method.prior.state_dict(), out / f"prior{rank}.pt")


@pytest.mark.distributed
def test_two_ranks_have_one_prior_and_it_is_that_of_one_process(tmp_path):
    two_ranks(distributed_run, tmp_path)
    first, second = (torch.load(tmp_path / f"prior{rank}.pt") for rank in (0, 1))
    net, method = network(), AdaRand(sigma_scale=0.0)
    optimizer, reg = attached(method, net, TensorDataset(X[:23], Y[:23]))
    for _ in range(2):
        train(net, optimizer, reg, 3)
    for name, value in method.prior.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5)


# -- what the method is for ----------------------------------------------------------------------


def digits(seed):
    """A network pretrained on digits, and a shifted task with ten labels a class."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    raw, y = load_digits(return_X_y=True)
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=g)
    x, y = torch.from_numpy(raw).float()[order] / 16.0, torch.from_numpy(y)[order]
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64), nn.ReLU())
    head = nn.Linear(64, 10)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(12):
        for rows_ in torch.randperm(900, generator=g).split(64):
            nn.functional.cross_entropy(head(net(x[rows_])), y[rows_]).backward()
            optimizer.step()
            optimizer.zero_grad()
    image = x[900:].view(-1, 8, 8).roll(1, 2).transpose(1, 2).flatten(1)
    few = torch.cat([(y[900:] == k).nonzero().flatten()[:10] for k in range(10)])
    rest = torch.ones(len(image), dtype=torch.bool).index_fill_(0, few, False)
    return net, (image[few], y[900:][few]), (image[rest], y[900:][rest])


def fine_tune(backbone, task, seed, method, epochs=70):
    net = nn.Sequential(backbone, nn.Linear(64, 10))
    torch.manual_seed(seed)
    nn.init.normal_(net[1].weight, std=0.01)
    nn.init.zeros_(net[1].bias)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    data = TensorDataset(*task)
    reg = attach(net, method or [], optimizer, train_data=data, epochs=epochs, seed=seed)
    loader = DataLoader(data, 32, shuffle=True)
    for _ in range(epochs):
        for x, y in reg.batches(loader):
            reg.loss(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return net, reg


def test_norms_collapse_under_random_regression_and_not_under_adarand():
    recipes = {
        "plain": lambda: None,
        "normal": lambda: RandReg(distribution="normal"),
        "fnp": lambda: FeatureNormPenalty(),
        "adarand": lambda: AdaRand(),
    }
    for seed in (0, 1):
        backbone, task, test = digits(seed)
        start = backbone(test[0]).norm(dim=1).mean().item()
        norms, entropies = {}, {}
        for name, make in recipes.items():
            net, reg = fine_tune(deepcopy(backbone), task, seed, make())
            with torch.no_grad():
                features = net[0](test[0])
            norms[name] = features.norm(dim=1).mean().item()
            entropies[name] = float(feature_entropy(features[:400]))
        assert norms["normal"] < 0.2 * start and norms["fnp"] < 0.2 * start
        assert norms["adarand"] > 0.75 * start
        assert entropies["adarand"] > max(entropies["normal"], entropies["fnp"]) + 60
        assert entropies["adarand"] > entropies["plain"] + 5
        # the class means began nearly parallel
        prior = reg.methods["adarand"].prior
        first = adarand_prior_loss(prior.start_mu, prior.mu, distance="cosine", update="inter") + 1
        assert first > 0.8
        assert reg.measure()["adarand"]["prior_pair_cosine"] < 0.55
