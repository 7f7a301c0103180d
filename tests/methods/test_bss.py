"""Batch spectral shrinkage: the formula, its gradient, and the weakest direction of features."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.methods.transfer import Trained, fine_tune
from tests.reference import transfer_twins as twins
from tether import BatchSpectralShrinkage
from tether.methods.features.bss import batch_spectral_shrinkage

DOUBLE = torch.float64


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 7), d=st.integers(1, 7), k=st.integers(1, 9), seed=st.integers(0, 99))
def test_value_and_gradient_agree_with_the_twin(n, d, k, seed):
    f = rows(n, d, seed).requires_grad_()
    k_there = min(k, n, d)
    value = batch_spectral_shrinkage(f, k=k)
    wanted = twins.spectral_shrinkage(f.detach().numpy(), k_there)
    assert value.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    value.backward()
    grad = torch.from_numpy(twins.spectral_gradient(f.detach().numpy(), k_there))
    torch.testing.assert_close(f.grad, grad, rtol=1e-7, atol=1e-9)


def test_gradcheck_and_all_values_are_the_squared_norm():
    f = rows(5, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: batch_spectral_shrinkage(x, k=2), [f])
    torch.testing.assert_close(batch_spectral_shrinkage(f, k=5), f.square().sum())


def test_rotations_and_the_order_of_the_batch_do_not_matter():
    f = rows(6, 9)
    turn = torch.linalg.qr(rows(9, 9, 1)).Q
    for other in (f @ turn, f[torch.tensor([3, 1, 5, 0, 2, 4])]):
        torch.testing.assert_close(
            batch_spectral_shrinkage(other, k=2), batch_spectral_shrinkage(f, k=2)
        )


@pytest.mark.parametrize("d", [3, 12])
def test_rows_that_do_not_count_have_no_part(d):
    f = rows(8, d).requires_grad_()
    mask = torch.tensor([True, False, True, True, False, True, False, True])
    for k in (1, 2, 9):
        value = batch_spectral_shrinkage(f, k=k, mask=mask)
        torch.testing.assert_close(value, batch_spectral_shrinkage(f.detach()[mask], k=k))
    (grad,) = torch.autograd.grad(value, f)
    assert not grad[~mask].any() and grad[mask].all()
    assert batch_spectral_shrinkage(f, mask=torch.zeros(8, dtype=torch.bool)) == 0


def test_a_sample_that_occurs_twice_leaves_no_gradient():
    f = rows(4, 9)
    f[3] = f[0]
    f.requires_grad_()
    batch_spectral_shrinkage(f).backward()
    assert f.grad is not None and f.grad.abs().max() < 1e-12


def test_half_features_are_taken_in_float32():
    found = batch_spectral_shrinkage(torch.full((2, 3), 300.0, dtype=torch.float16), k=2)
    assert found.dtype == torch.float32 and found.item() == pytest.approx(540000.0, rel=1e-5)


def test_bad_options_are_refused():
    for options in ({"weight": -1.0}, {"k": 0}, {"k": 1.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            BatchSpectralShrinkage(**options)


def smallest(run: Trained) -> float:
    """Mean smallest singular value of held-out batches."""
    parts = run.features(run.data.test_x)[:480].split(16)
    return sum(float(torch.linalg.svdvals(part)[-1]) for part in parts) / len(parts)


def test_the_weakest_direction_of_held_out_batches_is_weaker_than_after_plain_training():
    for seed in range(3):
        plain, found = (
            fine_tune([BatchSpectralShrinkage(weight=w)], seed, epochs=10, batch_size=16)
            for w in (0.0, 0.1)
        )
        assert smallest(found) < 0.85 * smallest(plain)
        assert found.accuracy > plain.accuracy - 0.04
        assert found.reg.measure()["bss"]["smallest"] < plain.reg.measure()["bss"]["smallest"]
