from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.methods.noisy_digits import images
from tests.reference import sparse_twins as twins
from tether import GroupEnvelope, TetherError, attach
from tether.methods.weights.envelope import group_envelope, prox_group_envelope


def problem(seed: int, m: int = 7) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Norms with zeros and ties, weights, k and a strength."""
    rng = np.random.default_rng(seed)
    norms = np.abs(rng.normal(size=m))
    norms[rng.random(m) < 0.15] = 0.0
    if seed % 3 == 0:
        norms[1] = norms[2]
    d = np.ones(m) if seed % 2 else rng.uniform(0.3, 3.0, m)
    k = float(rng.integers(1, m + 1)) if seed % 4 else float(rng.uniform(0.5, m))
    return norms, d, k, float(rng.choice([0.01, 0.3, 3.0]))


def as_tensors(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(a) for a in arrays]


@pytest.mark.parametrize("seed", range(40))
def test_value_and_prox_agree_with_their_twins(seed: int) -> None:
    norms, d, k, lam = problem(seed)
    n, w = as_tensors(norms, d)
    assert float(group_envelope(n, k, w)) == pytest.approx(twins.envelope(norms, k, d), rel=1e-9)
    found = prox_group_envelope(n, k, lam, w).numpy()
    np.testing.assert_allclose(found, twins.envelope_prox(norms, k, lam, d) * 1.0, atol=1e-6)
    assert (found > 0)[norms > 0].sum() >= min(np.floor(k), (norms > 0).sum())


@pytest.mark.parametrize("seed", range(4))
def test_prox_is_the_minimum_found_by_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    norms, d = rng.uniform(0.2, 2.0, 3), rng.uniform(0.5, 2.0, 3)
    k, lam = (1.0, 2.0, 1.5, 1.0)[seed], (0.3, 0.5, 1.0, 0.05)[seed]
    n, w = as_tensors(norms, d)
    found = prox_group_envelope(n, k, lam, w).numpy()
    wanted = twins.envelope_prox_by_search(norms, k, lam, d)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_limits_are_weight_decay_and_the_squared_group_lasso() -> None:
    n, d = torch.rand(6, dtype=torch.float64) + 0.1, torch.rand(6, dtype=torch.float64) + 0.5
    torch.testing.assert_close(group_envelope(n, 6, d), 0.5 * (d * n.square()).sum())
    torch.testing.assert_close(group_envelope(n, 1, d), 0.5 * (d.sqrt() * n).sum().square())
    torch.testing.assert_close(group_envelope(3 * n, 2.5, d), 9 * group_envelope(n, 2.5, d))
    torch.testing.assert_close(prox_group_envelope(n, 6, 0.3, d), 1 / (1 + 0.3 * d))
    torch.testing.assert_close(prox_group_envelope(n[:1], 1, 0.3), n.new_tensor([1 / 1.3]))
    assert torch.equal(prox_group_envelope(n, 2, 0.0, d), torch.ones_like(n))
    near = prox_group_envelope(n, 2, 1e-10, d)
    torch.testing.assert_close(near, torch.ones_like(n), atol=1e-4, rtol=0)


def test_value_is_below_its_variational_bound_and_reaches_it() -> None:
    rng = np.random.default_rng(0)
    norms, k = rng.uniform(0.1, 2.0, 8), 3
    value = float(group_envelope(torch.from_numpy(norms), k))
    for _ in range(200):
        u = rng.dirichlet(np.ones(8)) * k
        u = np.minimum(u, 1.0)
        assert value <= 0.5 * float((norms**2 / u).sum()) + 1e-9
    s = next(s for s in np.linspace(5, 1e-3, 20001) if np.minimum(1, norms / s).sum() >= k)
    assert value == pytest.approx(0.5 * (norms**2 / np.minimum(1, norms / s)).sum(), rel=1e-3)


def test_the_slope_is_the_ridge_s_or_the_lasso_s() -> None:
    n = torch.tensor([3.0, 1.0, 0.6, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: group_envelope(x, 2), (n,))
    (slope,) = torch.autograd.grad(group_envelope(n, 2), n)
    torch.testing.assert_close(slope, torch.tensor([3.0, 2.1, 2.1, 2.1], dtype=torch.float64))


def test_prox_is_non_expansive_and_follows_permutations() -> None:
    torch.manual_seed(0)

    def prox(t: Tensor) -> Tensor:
        return t * prox_group_envelope(t.norm(dim=1), 2, 0.7)[:, None]

    for _ in range(50):
        a, b = torch.randn(2, 5, 3, dtype=torch.float64)
        assert (prox(a) - prox(b)).norm() <= (a - b).norm() + 1e-9
        order = torch.randperm(5)
        torch.testing.assert_close(prox(a[order]), prox(a)[order])


def test_rows_are_solved_apart() -> None:
    n = torch.rand(3, 9, dtype=torch.float64)
    n[1, 6:] = 0.0
    k = torch.tensor([2.0, 3.0, 9.0])
    found, values = prox_group_envelope(n, k, 0.4), group_envelope(n, k)
    for row in range(3):
        torch.testing.assert_close(found[row], prox_group_envelope(n[row], float(k[row]), 0.4))
        torch.testing.assert_close(values[row], group_envelope(n[row], float(k[row])))


# -- attached ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": "rows"}, "groups 'rows'"),
        ({"groups": {}}, "empty"),
        ({"group_weights": "flops"}, "group_weights"),
        ({"scope": "block"}, "scope"),
        ({"weight": -1.0}, "weight must be >= 0"),
        ({"k": 0}, "k must be above 0"),
        ({"every": 0}, "every"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroupEnvelope(**options)  # type: ignore[arg-type]


class Attention(nn.Module):
    def __init__(self, width: int = 8, heads: int = 2, kept: int | None = None) -> None:
        super().__init__()
        self.num_heads = heads
        self.q_proj, self.v_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.k_proj, self.out_proj = nn.Linear(width, kept or width), nn.Linear(width, width)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def attached(model: nn.Module, method: GroupEnvelope) -> GroupEnvelope:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, method, optimizer, total_steps=10):
        return method


def test_groups_that_do_not_fit_are_refused_by_name() -> None:
    model = network()
    with pytest.raises(TetherError, match=r"'0\.weight' cover 5 of its 8 slices"):
        attached(model, GroupEnvelope(groups={"0.weight": [0, 0, 1, 1, 2]}))
    with pytest.raises(TetherError, match=r"'0\.weigth'.*0\.weight"):
        attached(model, GroupEnvelope(groups={"0.weigth": [0]}))
    with pytest.raises(TetherError, match="no trainable heads"):
        attached(model, GroupEnvelope(groups="heads"))
    with pytest.raises(TetherError, match="k=41.* 40 groups"):
        attached(model, GroupEnvelope(k=41))
    shared = nn.Sequential(Attention(8, 4, kept=4), nn.Linear(8, 2))
    with pytest.raises(TetherError, match="do not cover"):
        attached(shared, GroupEnvelope(groups="heads"))


def test_what_belongs_to_a_filter_a_channel_a_head() -> None:
    model = network()
    method = attached(model, GroupEnvelope())
    assert [m.name for m in method._members] == [
        f"{at}.{part}" for at in (0, 1, 3, 4, 6, 7) for part in ("weight", "bias")
    ]
    channels = attached(model, GroupEnvelope(groups="channels"))
    assert [(m.name, m.dim) for m in channels._members] == [("3.weight", 1), ("6.weight", 1)]
    heads = nn.Sequential(Attention(), nn.Linear(8, 2))
    found = attached(heads, GroupEnvelope(groups="heads"))
    assert len(found._members) == 7
    assert found._members[-1].name == "0.out_proj.weight" and found._members[-1].dim == 1
    with torch.no_grad():
        for item in found._members:  # empty the second head
            part = item.param.narrow(item.dim, 4, 4)
            part.zero_()
    assert found.nonzero_groups() == 1
    several = nn.Sequential(nn.MultiheadAttention(8, 2), nn.Linear(8, 2))
    assert len(attached(several, GroupEnvelope(groups="heads"))._members) == 3


def test_projection_keeps_the_largest_groups_of_every_pool() -> None:
    for scope, wanted in (("global", [40 // 2]), ("layer", [4, 8, 8])):
        model = network()
        method = attached(model, GroupEnvelope(k=0.5, scope=scope))
        assert method.nonzero_groups() == 40
        method.project_()
        left = [int((model[at].weight.flatten(1).norm(dim=1) > 0).sum()) for at in (0, 3, 6)]
        assert left == wanted if scope == "layer" else sum(left) == wanted[0]


def hidden_units() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(),
        nn.Linear(48, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10),
    )  # fmt: skip


def digits(seed: int, model: nn.Module, methods: list, epochs: int = 10) -> float:
    """Test accuracy after training."""
    x, y = images()
    x = x if isinstance(model[0], nn.Linear) else x.view(-1, 1, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    with attach(model, methods, optimizer, total_steps=epochs * 20):
        for epoch in range(epochs):
            order = torch.randperm(1280, generator=torch.Generator().manual_seed(99 * seed + epoch))
            for group in optimizer.param_groups:
                group["lr"] = 0.2 * (1 - epoch / epochs)
            for rows in order.split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
        model.eval()
        return float((model(x[1280:]).argmax(1) == y[1280:]).float().mean())


def compare(
    make, weight: str, k: float, epochs: int = 10
) -> tuple[list[float], list[float], list[int]]:
    """Accuracy without and with the method, and the groups that are left, for three seeds."""
    plain, pruned, left = [], [], []
    for seed in range(3):
        method = GroupEnvelope(weight, k=k)
        for methods, results in (([], plain), ([method], pruned)):
            torch.manual_seed(seed)
            results.append(digits(seed, make(), methods, epochs))
        left.append(method.nonzero_groups())
    return plain, pruned, left


def test_half_of_the_hidden_units_go_within_a_point_of_accuracy() -> None:
    plain, pruned, left = compare(hidden_units, "step(0.4, 0, 0.6)", 0.35)
    assert max(left) <= 48, left  # of 96
    assert np.mean(pruned) > np.mean(plain) - 0.01, (plain, pruned)


@pytest.mark.long
def test_half_of_the_filters_of_a_narrow_network_go_within_two_and_a_half_points() -> None:
    plain, pruned, left = compare(network, "step(0.5, 0, 0.6)", 0.3, epochs=16)
    assert max(left) <= 20, left  # of 40; none of them is idle in a network as narrow as this
    assert np.mean(pruned) > np.mean(plain) - 0.025, (plain, pruned)


def test_groups_that_are_zero_stay_so_when_the_weight_has_come_down() -> None:
    model = hidden_units()
    method = GroupEnvelope("step(5.0, 0, 0.5)", k=0.2)
    digits(0, model, [method], epochs=1)
    assert method.nonzero_groups() == int(method.alive.sum()) < 60


def test_no_weight_is_plain_training_bit_for_bit() -> None:
    results = []
    for methods in ([], [GroupEnvelope(0.0)]):
        torch.manual_seed(0)
        model = hidden_units()
        digits(0, model, methods, epochs=1)
        results.append(model[0].weight.detach())
    assert torch.equal(*results)
