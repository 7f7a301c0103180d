"""Bi-Tuning: both contrasts, the queues of keys, the moving average, and what views do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import normalize

from tests.methods.transfer import fine_tune
from tests.reference import transfer_twins as twins
from tether import BiTuning, TetherError, attach
from tether.methods.features.contrast import class_contrast, projected_contrast, with_one

DOUBLE = torch.float64


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 4), k=st.integers(1, 4), q=st.integers(1, 3), seed=st.integers(0, 99))
def test_both_contrasts_agree_with_the_twin(n, k, q, seed):
    d, p = 3, 2
    f, keys, labels = rows(n, d, seed=seed), rows(n, d, seed=seed + 1), torch.arange(n) % k
    projection, key_projection = rows(p, d, seed=2), rows(p, d, seed=3)
    head = rows(k, d + 1, seed=4)
    queue_z, queue_h = (normalize(rows(k, q, w, seed=5), dim=2) for w in (p, d + 1))
    there = torch.rand(k, q, generator=torch.Generator().manual_seed(seed)) < 0.6
    z, own = normalize(f @ projection.T, dim=1), normalize(keys @ key_projection.T, dim=1)
    first = projected_contrast(z, own, queue_z, there, labels, temperature=0.3)
    h = normalize(with_one(f), dim=1)
    second = class_contrast(h, normalize(head, dim=1), queue_h, there, labels, temperature=0.3)
    kept = [
        [[queue[c, i].numpy() for i in range(q) if there[c, i]] for c in range(k)]
        for queue in (queue_z, queue_h)
    ]
    wanted = twins.bi_tuning(
        f.numpy(), keys.numpy(), projection.numpy(), key_projection.numpy(), head.numpy(),
        *kept, labels.numpy(), 0.3,
    )  # fmt: skip
    assert (first + second).mean().item() == pytest.approx(wanted, rel=1e-9, abs=1e-10)


def test_gradcheck_and_where_gradients_go():
    z, h = (normalize(rows(3, w), dim=1).requires_grad_() for w in (4, 5))
    own, head = rows(3, 4, seed=1).requires_grad_(), rows(2, 5, seed=1).requires_grad_()
    queue_z, queue_h = rows(2, 3, 4, seed=2).requires_grad_(), rows(2, 3, 5).requires_grad_()
    there, labels = torch.ones(2, 3, dtype=torch.bool), torch.tensor([0, 1, 1])

    def both(z, h):
        first = projected_contrast(z, own, queue_z, there, labels, temperature=0.5)
        return first + class_contrast(h, head, queue_h, there, labels, temperature=0.5)

    assert torch.autograd.gradcheck(both, [z, h])
    both(z, h).sum().backward()
    assert all(t.grad is None for t in (own, head, queue_z, queue_h))
    # of the second part only the sample's own entry carries one: along the head's row
    along = normalize(h.grad, dim=1) * normalize(head.detach()[labels], dim=1)
    torch.testing.assert_close(along.sum(1).abs(), torch.ones(3, dtype=DOUBLE))


def test_with_random_keys_it_lies_near_the_logarithm_of_the_share():
    """Keys in many dimensions are nearly orthogonal: all are as likely."""
    z, own = (normalize(rows(64, 512, seed=s), dim=1) for s in (0, 1))
    queue = normalize(rows(10, 4, 512, seed=2), dim=2)
    there, labels = torch.ones(10, 4, dtype=torch.bool), torch.arange(64) % 10
    found = projected_contrast(z, own, queue, there, labels, temperature=1.0).mean()
    assert float(found) == pytest.approx(math.log((1 + 40) / (4 + 1)), abs=0.01)


def test_bad_options_are_refused():
    for options in ({"weight": -1.0}, {"momentum": 1.0}, {"temperature": 0.0},
                    {"projection_dim": 0}, {"queue_size": 0}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(options))):
            BiTuning(**options)


# -- attached ------------------------------------------------------------------------------------

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 1, 0, 2, 2, 1, 0, 2])


def make(method, **given):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    return net, optimizer, attach(net, method, optimizer, **given)


def test_steps_agree_with_the_twin():
    """Own loop: a moving average by hand, queues as lists."""
    method = BiTuning(weight=0.7, momentum=0.9, projection_dim=4, queue_size=2)
    net, optimizer, reg = make(method)
    average = [p.detach().clone() for p in net.parameters()]
    moving = [p.detach().clone() for p in method.projection.parameters()]
    queue_z: list[list[np.ndarray]] = [[] for _ in range(3)]
    queue_h: list[list[np.ndarray]] = [[] for _ in range(3)]
    for step in range(4):
        part = slice(3 * step, 3 * step + 3)
        view = X[part] + 0.1
        loss = reg.loss(net(X[part]), Y[part], views=[view])
        key = torch.relu(view @ average[0].T + average[1])
        head = torch.cat([net[2].weight, net[2].bias[:, None]], 1).detach()
        project = list(method.projection.parameters())
        # the bias of the projection as a further coordinate
        one = with_one(net[:-1](X[part]).detach()).double().numpy()
        key_one = with_one(key).double().numpy()
        now, then = (
            torch.cat([w, b[:, None]], 1).detach().double().numpy() for w, b in (project, moving)
        )
        wanted = 0.0
        for i, c in enumerate(Y[part].tolist()):
            f, k = one[i][:-1], key_one[i]
            wanted += _one(one[i], k, now, then, queue_z, c)
            second = [float(twins.unit(np.append(f, 1)) @ twins.unit(head[c].double().numpy()))]
            mine = twins.unit(head[c].double().numpy())
            positives = [0]
            for other, kept in enumerate(queue_h):
                for h in kept:
                    positives += [len(second)] if other == c else []
                    second.append(float(h @ mine))
            wanted += twins.even_divergence(second, positives, 0.07)
        assert float(reg.parts["bi_tuning"]) == pytest.approx(0.7 * wanted / 3, rel=2e-4)
        for i, c in enumerate(Y[part].tolist()):
            queue_z[c] = [*queue_z[c], twins.unit(then @ key_one[i])][-2:]
            queue_h[c] = [*queue_h[c], twins.unit(key_one[i])][-2:]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for mean, p in zip([*average, *moving], [*net.parameters(), *project], strict=True):
            mean.mul_(0.9).add_(p.detach(), alpha=0.1)
    for kept, p in zip(average, method.key.parameters(), strict=True):
        torch.testing.assert_close(kept, p.detach())
        assert not p.requires_grad and p.grad is None
    assert method.seen.tolist() == torch.bincount(Y).tolist()
    assert reg.measure()["bi_tuning"]["filled"] == 1.0


def _one(row, key, now, then, queue, c) -> float:
    z, own = twins.unit(now @ row), twins.unit(then @ key)
    values, positives = [float(z @ own)], [0]
    for other, kept in enumerate(queue):
        for k in kept:
            positives += [len(values)] if other == c else []
            values.append(float(z @ k))
    return twins.even_divergence(values, positives, 0.07)


def test_rows_that_do_not_count_join_no_queue_and_mappings_are_views():
    class Named(nn.Sequential):
        def forward(self, pixels):
            return super().forward(pixels)

    torch.manual_seed(0)
    net = Named(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    method = BiTuning(queue_size=3)
    reg = attach(net, method, torch.optim.SGD(net.parameters(), lr=0.1))
    labels = torch.tensor([0, -100, 2, 0])
    reg.loss(net(pixels=X[:4]), labels, views=[{"pixels": X[:4] + 0.1}])
    assert method.seen.tolist() == [2, 0, 1]
    assert not method.keys_h[1].any() and torch.isfinite(reg.parts["bi_tuning"])


def test_views_and_a_linear_head_are_asked_for():
    net, _, reg = make(BiTuning())
    logits = net(X[:4])
    with pytest.raises(TetherError, match="views"):
        reg.loss(logits, Y[:4])


def within(features: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean cosine of held-out features with others of their class, less that with all."""
    unit = normalize(features - features.mean(0), dim=1)
    same = labels[:, None] == labels[None, :]
    cosine = unit @ unit.T
    return float(cosine[same].mean() - cosine[~same].mean())


def test_classes_draw_together_on_digits():
    gains = []
    for seed in range(3):
        plain = fine_tune([], seed, views=True)
        found = fine_tune([BiTuning(queue_size=10, momentum=0.9)], seed, views=True)
        near, far = (
            within(run.features(run.data.test_x), run.data.test_y) for run in (found, plain)
        )
        assert near > far + 0.02
        assert found.reg.measure()["bi_tuning"]["filled"] == 1.0
        gains.append(found.accuracy - plain.accuracy)
    assert sum(gains) / 3 > 0.005
