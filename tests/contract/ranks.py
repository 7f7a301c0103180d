"""Two gloo ranks for the checks of all methods, forked once."""

from __future__ import annotations

import functools
import gc
import itertools
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # slow to import: once, before the ranks are forked
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from tether.catalogue import MethodInfo
from tether.engine.reference import local
from tether.method import Method

from .cases import LONG, Case, NotApplicable, Run, Shares, cases, check_finite, compare
from .training import outcome, restore, snapshot

WORLD = 2
#: Seconds after which a rank gives up on the other.
PATIENCE = 60

Connect = Callable[[], AbstractContextManager[Path]]
Job = Callable[[Connect], None]


class Pair:
    """Two processes that do every job together, and write down how each ended.

    They are forked before this process has trained anything. Each job has a process group of its
    own: where one rank fails, the group is torn down, the other rank's collectives end with an
    error instead of waiting, and the next job starts clean.

    Args:
        jobs: name -> what both ranks do; it calls ``connect()`` for the process group.
        folder: for results and logs.
    """

    def __init__(self, jobs: Mapping[str, Job], folder: Path) -> None:
        self.folder = folder
        context = multiprocessing.get_context("fork")
        self.processes = [
            context.Process(target=_serve, args=(rank, jobs, folder), daemon=True)
            for rank in range(WORLD)
        ]
        for process in self.processes:
            process.start()

    def check(self, name: str, patience: float = 280.0) -> None:
        """Wait for a job; raise what its ranks raised."""
        texts = [self._result(rank, name, time.monotonic() + patience) for rank in range(WORLD)]
        reasons = [text.removeprefix("skip:") for text in texts if text.startswith("skip:")]
        if reasons:
            raise NotApplicable(reasons[0])
        failed = [f"rank {rank}: {text}" for rank, text in enumerate(texts) if text]
        assert not failed, "\n".join(failed)

    def _result(self, rank: int, name: str, until: float) -> str:
        path = self.folder / f"{name}.{rank}"
        while not path.exists():
            alive = self.processes[rank].is_alive()
            if not alive and not path.exists():
                return f"died, exit code {self.processes[rank].exitcode}: {self._log(rank)}"
            if time.monotonic() > until:
                return f"did not answer: {self._log(rank)}"
            time.sleep(0.01)
        return path.read_text()

    def _log(self, rank: int) -> str:
        return (self.folder / f"log.{rank}").read_text()[-2000:]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


def _serve(rank: int, jobs: Mapping[str, Job], folder: Path) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # needs no name of this host
    log = os.open(folder / f"log.{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for name, job in jobs.items():
        _meet(rank, name, folder)
        connect = functools.partial(_connected, rank, folder / name, itertools.count())
        text = ""
        try:
            job(connect)
        except NotApplicable as reason:
            text = f"skip:{reason}"
        except BaseException:
            text = traceback.format_exc()
        if dist.is_initialized():
            # the other rank stops waiting once all that holds the group is gone
            gc.collect()
            dist.destroy_process_group()
        part = folder / f"{name}.{rank}.part"
        part.write_text(text)
        part.rename(folder / f"{name}.{rank}")


def _meet(rank: int, name: str, folder: Path) -> None:
    """Begin a job together: the other rank may still wait for the end of a failed one."""
    (folder / f"{name}.{rank}.begun").touch()
    until = time.monotonic() + 5 * PATIENCE
    while not (folder / f"{name}.{1 - rank}.begun").exists() and time.monotonic() < until:
        time.sleep(0.001)


@contextmanager
def _connected(rank: int, folder: Path, groups: Iterator[int]) -> Iterator[Path]:
    """A process group; yields a folder of its own that both ranks see."""
    own = folder / str(next(groups))  # a file store must not be used twice
    own.mkdir(parents=True, exist_ok=True)
    dist.init_process_group(
        "gloo", init_method=f"file://{own}/store", rank=rank, world_size=WORLD,
        timeout=timedelta(seconds=PATIENCE),
    )  # fmt: skip
    yield own
    dist.barrier()
    dist.destroy_process_group()


# -- the checks ----------------------------------------------------------------------------------


def ranks(info: MethodInfo, connect: Connect) -> None:
    """Two DDP ranks equal one process, and each other; resuming is bit-exact on both.

    One process and two are compared in weights, modules and declared state, on batches of the
    same rows (rows change their rank between epochs), without dropout and with frozen batch
    norms, for methods that draw numbers under their neutral options. The ranks are compared with
    each other, bit for bit, under the options of the example, too, with dropout, moving batch
    norms and noise.
    """
    for case in cases(info)[: None if LONG else 1]:
        single = _still(case)
        with connect():
            if single is not None:
                run = _pair_run(case, case.noiseless(), _ddp, still=True).train()
                compare(run.weights(), single.weights(), 1e-5, case.kind)
                syncs = ("replicated", "sum", "mean", "per_sample")
                compare(run.states(*syncs), single.states(*syncs), 1e-5, case.kind)
                _must_agree(run)
            run = _pair_run(case, case.method(), _ddp).train()
            check_finite(run, case.kind)
            _must_agree(run)
    with connect() as folder:
        _resume(cases(info)[0], _ddp, folder)


def shards(info: MethodInfo, connect: Connect) -> None:
    """Under ``fully_shard`` parameters are sharded, and the weights equal one process."""
    case = cases(info)[0]
    single = _still(case)
    with connect():
        method = case.method() if single is None else case.noiseless()
        run = _pair_run(case, method, _sharded, still=True).train()
        whole = {}
        for name, parameter in run.reg.inner.named_parameters():
            assert type(parameter.data).__name__ == "DTensor", f"{name} is not sharded"
            whole[name] = parameter.detach().full_tensor()
        if single is not None:
            compare(whole, single.weights(), 1e-5)
        if info.stochastic or single is None:
            run = _pair_run(case, case.method(), _sharded).train()
        for name, parameter in run.reg.inner.named_parameters():
            assert torch.isfinite(parameter.detach().full_tensor()).all(), f"{name} is not finite"
    with connect() as folder:
        _resume(case, _sharded, folder)


def _resume(case: Case, wrap: Callable[[nn.Module], nn.Module], folder: Path) -> None:
    """Every rank goes on from its file, in the middle of an epoch and of a window."""
    kept: dict[str, Any] = {}

    def after(run: Run, where: str) -> None:
        if (run.micro, where) == (5, "step"):
            kept.update(_each(snapshot(run), lambda tensor: tensor.detach().clone()))
            run.reg.save(folder / "tether.safetensors")

    run = _pair_run(case, case.method(), wrap).train(accumulate=2, after=after)
    again = _pair_run(case, case.method(), wrap, epoch=1)
    restore(again, kept)
    again.reg.load(folder / "tether.safetensors")
    again.train(accumulate=2)
    compare(_each(outcome(again), local), _each(outcome(run), local), path="resumed")


def _each(tree: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, (list, tuple)):
        return [_each(part, change) for part in tree]
    return {k: _each(part, change) for k, part in tree.items()} if isinstance(tree, dict) else tree


def _still(case: Case) -> Run | None:
    """The run of one process to compare with, where there is one."""
    try:
        method = case.noiseless()
    except NotApplicable:
        return None
    return Run(case, method, rows=25, still=True, batches=Shares(25, 8)).train()


def _pair_run(
    case: Case, method: Method, wrap: Callable[[nn.Module], nn.Module], epoch: int = 0, **more: Any
) -> Run:
    batches = Shares(25, 8, dist.get_rank(), WORLD, epoch)
    return Run(case, method, rows=25, batches=batches, wrap=wrap, **more)


def _ddp(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model)


def _sharded(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (WORLD,))
    for child in model.children():
        if any(True for _ in child.parameters()):
            fully_shard(child, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _must_agree(run: Run) -> None:
    """Weights and synchronised state are the same, bit for bit, on all ranks."""
    mine = {"weights": run.weights(), **run.states("replicated", "sum", "mean", "per_sample")}
    flat = torch.cat([t.detach().double().flatten() for t in _tensors(mine)])
    parts = [torch.empty_like(flat) for _ in range(WORLD)]
    dist.all_gather(parts, flat)
    if not torch.equal(parts[0], parts[1]):
        other = [None] * WORLD
        dist.all_gather_object(other, mine)
        compare(other[1], other[0], path="rank 1 against rank 0")


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (dict, list, tuple)):
        for part in tree.values() if isinstance(tree, dict) else tree:
            yield from _tensors(part)


RANK_CHECKS: dict[str, Callable[[MethodInfo, Connect], None]] = {"ranks": ranks, "shards": shards}


def jobs_of(
    infos: Iterable[MethodInfo], checks: Iterable[str] = tuple(RANK_CHECKS)
) -> dict[str, Job]:
    """The distributed checks of some methods, those excused left out."""
    names = list(checks)
    return {
        f"{info.name}.{name}": lambda connect, info=info, check=RANK_CHECKS[name]: check(
            info, connect
        )
        for info in infos
        for name in names
        if name not in info.exempt
    }
