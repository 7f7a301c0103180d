"""Two real gloo processes: DDP, FSDP2, tables of samples, modules of methods."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from tests.engine.toys import Critic, Pull, Shrink, Sums, Table, mlp, samples
from tests.two_ranks import two_ranks
from tether import attach

pytestmark = pytest.mark.distributed


def loop(model, reg, loader, epochs=2):
    for epoch in range(epochs):
        if isinstance(loader.sampler, DistributedSampler):
            loader.sampler.set_epoch(epoch)
        for x, y in reg.batches(loader):
            reg.loss(model(x), y).backward()
            reg.seam.optimizer.step()
            reg.seam.optimizer.zero_grad()


def recipe():
    return [Pull(0.3), Shrink(), Table(), Critic(), Sums()]


def run_ddp(rank, out):
    model = mlp(seed=0 if rank == 0 else 5)  # DDP brings rank 0's weights
    model = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = samples(32)
    reg = attach(model, recipe(), optimizer, train_data=data)
    # rows 0, 2, 4, … on rank 0 and 1, 3, 5, … on rank 1
    loader = DataLoader(data, batch_size=4, sampler=DistributedSampler(data, shuffle=False))
    loop(model, reg, loader)
    reg.save(out / "ddp.safetensors")
    torch.save([p.detach() for p in model.parameters()], out / f"ddp{rank}.pt")
    # a run of new processes goes on from the files of its own rank
    reg.detach()
    fresh = torch.nn.parallel.DistributedDataParallel(mlp())
    again = attach(fresh, recipe(), torch.optim.SGD(fresh.parameters(), lr=0.1), train_data=data)
    again.load(out / "ddp.safetensors")
    assert torch.equal(again.methods["table"].rows, reg.methods["table"].rows)


def run_fsdp(rank, out):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model = mlp()
    for layer in (model[0], model[3]):
        fully_shard(layer)
    fully_shard(model)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = samples(32)
    reg = attach(model, recipe(), optimizer, train_data=data)
    assert all(isinstance(t, DTensor) for t in reg.reference.values())
    loader = DataLoader(data, batch_size=4, sampler=DistributedSampler(data, shuffle=False))
    loop(model, reg, loader)
    state = reg.state_dict()
    whole = [p.detach().full_tensor() for p in model.parameters()]
    if rank == 0:
        torch.save((whole, state["reference"]["fingerprint"]), out / "fsdp.pt")


def one_process():
    """The same batches whole: rows 0-7, 8-15, … hold the two ranks' rows."""
    model = mlp()
    reg = attach(
        model, recipe(), torch.optim.SGD(model.parameters(), lr=0.1), train_data=samples(32)
    )
    loop(model, reg, DataLoader(samples(32), batch_size=8))
    return model, reg


def test_two_ddp_ranks_equal_one_process(tmp_path):
    two_ranks(run_ddp, tmp_path)
    model, reg = one_process()
    from tether.engine.state import load_tree

    first, second = (torch.load(tmp_path / f"ddp{r}.pt", weights_only=True) for r in (0, 1))
    for a, b, p in zip(first, second, model.parameters(), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, p.detach(), rtol=1e-5, atol=1e-6)
    states = [load_tree(tmp_path / name) for name in ("ddp.safetensors", "ddp.safetensors.rank1")]
    for state in states:
        table = state["methods"]["table"]
        torch.testing.assert_close(table["rows"], reg.methods["table"].rows, rtol=1e-5, atol=1e-6)
        assert torch.equal(table["visits"], torch.full((32,), 2))
        assert table["count"] == 64
        critic = state["auxiliaries"]["critic.net"]["module"]["weight"]
        torch.testing.assert_close(
            critic, reg.methods["critic"].net.weight.detach(), rtol=1e-5, atol=1e-6
        )
        torch.testing.assert_close(
            state["methods"]["sums"]["total"], states[0]["methods"]["sums"]["total"]
        )
    torch.testing.assert_close(
        states[0]["methods"]["sums"]["total"], reg.methods["sums"].total, rtol=1e-5, atol=1e-5
    )


def test_two_sharded_ranks_equal_one_process(tmp_path):
    two_ranks(run_fsdp, tmp_path)
    model, reg = one_process()
    whole, fingerprint = torch.load(tmp_path / "fsdp.pt", weights_only=True)
    for a, p in zip(whole, model.parameters(), strict=True):
        torch.testing.assert_close(a, p.detach(), rtol=1e-5, atol=1e-6)
    own = reg.state_dict()["reference"]["fingerprint"]
    torch.testing.assert_close(fingerprint, own, rtol=1e-9, atol=1e-9)
