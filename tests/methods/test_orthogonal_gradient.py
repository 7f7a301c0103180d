from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.reference import gradient_twins as twins
from tether import L2SP, OrthogonalGradient, TetherError, attach
from tether.errors import ConfigError
from tether.functional import orthogonalize_gradients_
from tether.measure import weight_gradient_alignment
from tether.methods.gradients.orthogonal import orthogonalize_


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("rescale", [True, False])
def test_it_agrees_with_its_twin(rescale: bool) -> None:
    weights = [normal(3, 4), normal(5, seed=1), normal(2, 3, 2, 2, seed=2)]
    grads = [normal(*w.shape, seed=7 + i) for i, w in enumerate(weights)]
    wanted = [
        twins.orthogonal_gradient(g.numpy(), w.numpy(), rescale)
        for g, w in zip(grads, weights, strict=True)
    ]
    found = [g.clone() for g in grads]
    cosines = orthogonalize_(found, weights, rescale=rescale)
    for g, w, want, cosine, given in zip(found, weights, wanted, cosines, grads, strict=True):
        np.testing.assert_allclose(g.numpy(), want, atol=1e-12)
        assert float((g * w).sum().abs()) < 1e-10
        assert float(cosine) == pytest.approx(float((given * w).sum() / given.norm() / w.norm()))
        if rescale:
            assert float(g.norm()) == pytest.approx(float(given.norm()))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_layouts_do_not_matter(layout: torch.memory_format) -> None:
    w, g = normal(4, 3, 2, 2), normal(4, 3, 2, 2, seed=1)
    wanted = twins.orthogonal_gradient(g.numpy(), w.numpy(), True)
    g = g.contiguous(memory_format=layout)
    orthogonalize_([g], [w.contiguous(memory_format=torch.channels_last)])
    np.testing.assert_allclose(g.numpy(), wanted, atol=1e-12)


def test_twice_is_once_and_scales_do_not_matter() -> None:
    w, g = normal(4, 6), normal(4, 6, seed=1)
    once = g.clone()
    orthogonalize_([once], [w])
    for grad, weight, factor in ((once, w, 1.0), (3.0 * g, w, 3.0), (g, -7.0 * w, 1.0)):
        again = grad.clone()
        orthogonalize_([again], [weight])
        torch.testing.assert_close(again, factor * once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_edges(dtype: torch.dtype) -> None:
    w = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    start, empty = torch.full_like(w, 0.5), torch.zeros_like(w)
    grads = [0.3 * w, start.clone(), empty.clone()]
    orthogonalize_(grads, [w, empty, w])
    assert not grads[0].any(), "rounding was blown up"
    assert torch.equal(grads[1], start), "a weight of zeros has no direction"
    assert not grads[2].any()


def test_what_is_left_alone() -> None:
    params = [
        nn.Parameter(normal(4)), nn.Parameter(normal(1, 1)), nn.Parameter(normal(2, 2)),
        nn.Parameter(normal(3, 3)),
    ]  # fmt: skip
    for p in params[:2] + params[3:]:
        p.grad = normal(*p.shape, seed=3)
    before = [None if p.grad is None else p.grad.clone() for p in params]
    orthogonalize_gradients_(params)
    assert torch.equal(params[0].grad, before[0]) and torch.equal(params[1].grad, before[1])
    assert params[2].grad is None and not torch.equal(params[3].grad, before[3])
    orthogonalize_gradients_(params, min_ndim=1)
    assert not torch.equal(params[0].grad, before[0])


def test_bad_options_and_sparse_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match="eps"):
        OrthogonalGradient(eps=0)
    with pytest.raises(ValueError, match="min_ndim"):
        OrthogonalGradient(min_ndim=-1)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(TetherError, match="exclude='1.wieght' fits no .* mean '1.weight'"):
        attach(net, OrthogonalGradient(exclude=["1.wieght"]))
    words = nn.Embedding(5, 3, sparse=True)
    words(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TetherError, match="sparse=False"):
        orthogonalize_gradients_(words.parameters())


# -- attached ------------------------------------------------------------------------------------


def test_the_norm_of_a_weight_grows_by_pythagoras() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.zeros_(net[2].weight)  # has to grow along itself: left out
    method = OrthogonalGradient(exclude="0.bias")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    reg = attach(net, method, optimizer)
    assert {id(p) for p in method.acts_on()} == {id(net[0].weight)}
    x, y = torch.randn(20, 6), torch.arange(20) % 3
    for _ in range(5):
        w = net[0].weight.detach().clone()
        reg.loss(net(x), y).backward()
        length = net[0].weight.grad.norm()
        optimizer.step()
        optimizer.zero_grad()
        after = net[0].weight.detach()
        torch.testing.assert_close(after.square().sum(), w.square().sum() + (0.5 * length) ** 2)
    found = reg.measure()["orthogonal_gradient"]
    assert found["tensors"] == 1 and 0 < found["radial_share"] < 1


def test_it_comes_after_the_edits_of_others() -> None:
    """The decay towards zero is radial: nothing of it may be left."""
    torch.manual_seed(0)
    net = nn.Linear(5, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    decay = L2SP(weight=50.0, head_weight=50.0, form="l2")
    reg = attach(net, [OrthogonalGradient(rescale=False), decay], optimizer)
    before = net.weight.detach().clone()
    reg.loss(net(torch.randn(6, 5)), torch.arange(6) % 4).backward()
    optimizer.step()
    after = net.weight.detach()
    assert float(((after - before) * before).sum().abs()) < 1e-4
    assert float(after.norm()) >= float(before.norm())


def modular_addition(p: int, share: float, seed: int) -> tuple[Tensor, ...]:
    """All pairs as two one-hot vectors, their sum modulo p; a part of them for training."""
    torch.manual_seed(seed)
    a, b = torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij")
    x = torch.cat([F.one_hot(a.flatten(), p), F.one_hot(b.flatten(), p)], 1).float()
    order = torch.randperm(p * p)
    train, test = order[: int(share * p * p)], order[int(share * p * p) :]
    y = (a + b).flatten() % p
    return x[train], y[train], x[test], y[test]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_modular_addition_is_learnt_at_once_and_only_memorised_without(seed: int) -> None:
    accuracy, seen = {}, {}
    for name, methods in (("plain", []), ("orthogonal", [OrthogonalGradient()])):
        x, y, test_x, test_y = modular_addition(31, 0.6, seed)
        net = nn.Sequential(
            nn.Linear(62, 128, bias=False), nn.ReLU(), nn.Linear(128, 128, bias=False), nn.ReLU(),
            nn.Linear(128, 31, bias=False),
        )  # fmt: skip
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.0)
        reg = attach(net, methods, optimizer)
        for _ in range(120):
            optimizer.zero_grad()
            logits = net(x)
            reg.loss(logits, y).backward()
            optimizer.step()
        assert float((logits.argmax(1) == y).float().mean()) > 0.99
        accuracy[name] = float((net(test_x).argmax(1) == test_y).float().mean())
        seen[name] = weight_gradient_alignment(net)
    assert accuracy["plain"] < 0.1 and accuracy["orthogonal"] > 0.9
    # plain training mostly lengthens the weights; this is what was taken away
    assert seen["plain"].overall > 0.2
    assert max(abs(c) for c in seen["orthogonal"].tensors.values()) < 0.2


def test_alignment_of_step_and_weights() -> None:
    w, b = nn.Parameter(torch.tensor([[3.0, 4.0]])), nn.Parameter(torch.zeros(1))
    w.grad, b.grad = -2 * w.detach(), torch.ones(1)
    found = weight_gradient_alignment({"w": w, "b": b, "none": nn.Parameter(torch.ones(1))})
    assert found.tensors["w"] == 1.0 and np.isnan(found.tensors["b"])
    assert found.overall == pytest.approx(50 / (5 * np.sqrt(101)))
    with pytest.raises(ConfigError, match="after backward"):
        weight_gradient_alignment(nn.Linear(2, 2))
