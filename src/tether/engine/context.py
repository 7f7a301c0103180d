"""What the engine offers a method, so that no method reaches into a model by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tether.engine.auxiliary import Auxiliary, OptimizerLike
from tether.engine.layers import BatchNormRef, WeightRef, batch_norm_refs
from tether.engine.reference import (
    Reference,
    canonical,
    is_sharded,
    local,
    named_tensors,
    sum_over_shards,
)
from tether.engine.seeds import mix_seed
from tether.engine.services import Services
from tether.engine.state import distributed, rank, world_size
from tether.engine.statistics import (
    Update,
    gather_ranks,
    quiet_forward,
    restore_mode,
    training_targets,
)
from tether.engine.taps import wide
from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.engine.handle import Handle


class Forward(NamedTuple):
    """Result of a repeated forward; ``taps`` as in :class:`tether.Batch`."""

    logits: Tensor
    features: Tensor | None
    taps: dict[str, Any]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a copy of the model, by canonical name."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {canonical(name): tensor for name, tensor in named}


class Context(Services):
    """One method's view of the run. Every service raises a clear error where it cannot serve."""

    def __init__(self, handle: Handle, name: str) -> None:
        self._handle = handle
        self.name = name
        self._generator: torch.Generator | None = None
        self._seeded_for = (-1, "")

    # -- facts -----------------------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The inner model, without DDP and compile wrappers."""
        return self._handle.inner

    @property
    def device(self) -> torch.device:
        return self._handle.device

    @property
    def loss_kind(self) -> str:
        return self._handle.task.kind

    @property
    def num_classes(self) -> int:
        return self._handle.need_num_classes(self.name)

    @property
    def num_features(self) -> int:
        """Width of the head's input."""
        return self._handle.need_num_features(self.name)

    @property
    def num_samples(self) -> int:
        """Rows of the training set."""
        return self._handle.need_num_samples(self.name)

    @property
    def head_module(self) -> nn.Module:
        return self._handle.need_head(self.name)[1]

    @property
    def source_head(self) -> nn.Module | None:
        """The discarded head of the pretrained model, where the user gave it."""
        return self._handle.source_head

    @property
    def valid_data(self) -> Any:
        return self._handle.valid_data

    @property
    def epoch(self) -> int:
        """Present epoch, 0-based."""
        return self._handle.epoch

    @property
    def step(self) -> int:
        """Updates done."""
        return self._handle.step

    @property
    def progress(self) -> float:
        """Share of training done, 0 to 1 (0 where the horizon is unknown)."""
        return self._handle.progress

    @property
    def has_horizon(self) -> bool:
        return self._handle.has_horizon

    rank = property(lambda self: rank())
    world_size = property(lambda self: world_size())

    @property
    def generator(self) -> torch.Generator:
        """Random numbers of this method, on the model's device.

        Seeded anew for each moment from (seed, method, rank, step, moment), so that a resumed run
        draws what an uninterrupted one would, on every rank, without a generator's state being
        saved; and a step refused for a non-finite number can be made again.
        """
        if self._generator is None:
            self._generator = torch.Generator(self.device)
        now = (self._handle.micro_step, self._handle.phase)
        if self._seeded_for != now:
            self._seeded_for = now
            self._generator.manual_seed(mix_seed(self._handle.seed, self.name, rank(), *now))
        return self._generator

    # -- weights ---------------------------------------------------------------------------------

    @property
    def reference(self) -> Reference:
        """w0: parameters and buffers at attach, by canonical name."""
        return self._handle.reference

    def weights(self) -> list[WeightRef]:
        """Every parameter once, in the model's order, frozen ones included."""
        return self._handle.weights()

    def batch_norms(self) -> list[BatchNormRef]:
        return batch_norm_refs(self.model, self.weights())

    @staticmethod
    def local(tensors: Iterable[Tensor]) -> list[Tensor]:
        """The shards of this rank; arithmetic on them needs no communication."""
        return [local(tensor) for tensor in tensors]

    @staticmethod
    def sum_over_shards(values: Tensor, like: Tensor) -> Tensor:
        """Sum partial values over the ranks between which ``like`` is split, in place."""
        return sum_over_shards(values, like)

    @property
    def grad_scale(self) -> Tensor | None:
        """Factor by which the gradients are still multiplied (fused optimisers), or None."""
        return self._handle.seam.grad_scale

    @property
    def step_mask(self) -> Tensor | None:
        """1 where the update was made, 0 where it was skipped; None where it was made for sure."""
        found = self._handle.seam.found_inf
        return None if found is None else 1.0 - found.reshape(())

    def lr(self, parameter: nn.Parameter) -> float:
        """Present learning rate of a parameter."""
        return self._handle.seam.lr(parameter)

    # -- while the loss is made ------------------------------------------------------------------

    def defer(self, write: Callable[[], None]) -> None:
        """Run ``write`` once all parts of this loss were found finite."""
        self._handle.deferred.append(write)

    def defer_to_backward(self, write: Callable[[], None]) -> None:
        """Run ``write`` when this loss is backpropagated: for what is gathered for the update."""
        self._handle.at_backward.append(write)

    @staticmethod
    def all_reduce(tensor: Tensor, op: str = "sum") -> Tensor:
        """Reduce in place over the data-parallel ranks; ``op``: sum, mean, max or min."""
        if distributed():
            kinds = {"max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}
            dist.all_reduce(tensor, op=kinds.get(op, dist.ReduceOp.SUM))
            if op == "mean":
                tensor.div_(world_size())
        return tensor

    @staticmethod
    def all_gather(tensor: Tensor) -> Tensor:
        """``[world, ...]``: the tensor of every rank."""
        return gather_ranks(tensor)

    def head(self, rows: Tensor) -> Tensor:
        """The head's output for feature rows ``[N, d]``, in float32 or wider."""
        weight = next(self.head_module.parameters(), rows)
        if is_sharded(weight) and not hasattr(self.head_module, "unshard"):
            self._unshard_owner()
        output: Tensor = self.head_module(rows.to(weight.dtype))
        return wide(output)

    def _unshard_owner(self) -> None:
        """Gather the FSDP2 unit that the head belongs to; its backward scatters it again."""
        path = self._handle.need_head(self.name)[0]
        owners = [
            module
            for name, module in self.model.named_modules()
            if hasattr(module, "unshard") and f"{path}.".startswith(f"{name}." if name else "")
        ]
        if owners:
            owners[-1].unshard()

    def task_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The plain task loss, a mean over the items that count."""
        return self._handle.task.mean(logits, targets)

    def grad(
        self, loss: Tensor, tensors: Sequence[Tensor], *, create_graph: bool = False
    ) -> tuple[Tensor, ...]:
        """Gradients of ``loss`` apart from the training backward; the graph is kept.

        After a float16 forward the loss is multiplied by 1024 on the way, an exact power of two,
        so that small gradients survive.
        """
        scale = 1024.0 if self._handle.autocast_dtype is torch.float16 else 1.0
        grads = torch.autograd.grad(
            loss * scale, list(tensors), create_graph=create_graph, retain_graph=True
        )
        return tuple(g / scale for g in grads) if scale != 1.0 else tuple(grads)

    def forward(
        self, *args: Any, grad: bool = True, mode: str | None = None,
        weights: str | nn.Module = "current", **kwargs: Any,
    ) -> Forward:  # fmt: skip
        """Repeat the model's call: adversarial examples, second views, teachers.

        It goes through the inner module, under the autocast state of the user's forward. Random
        numbers, batch-norm statistics and train flags are as before afterwards.

        Args:
            args: the model's arguments; none (and no ``kwargs``): those of the last call
                (``needs=("inputs",)``).
            grad: build a graph.
            mode: ``"train"``, ``"eval"``, or None to leave the flags alone.
            weights: ``"current"``, ``"reference"`` for the model with w0 (no graph into w0), or a
                copy of the model (a second network, a moving average): its parameters, which get
                gradients, and its buffers, which a train-mode forward moves.
        """
        handle = self._handle
        if not args and not kwargs:
            args, kwargs = handle.current_inputs()
        flags = {module: module.training for module in self.model.modules()}
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            if mode is not None:
                self.model.train(mode == "train")
            with (
                torch.random.fork_rng(devices=devices),
                torch.set_grad_enabled(grad),
                torch.autocast(
                    self.device.type,
                    handle.autocast_dtype,
                    enabled=handle.autocast_dtype is not None,
                ),
                self._kept_buffers(weights),
            ):
                if isinstance(weights, nn.Module):
                    return self._read(quiet_forward(handle, args, kwargs, _tensors(weights)))
                if weights == "reference":
                    with self._reference_weights() as tensors:
                        return self._read(quiet_forward(handle, args, kwargs, tensors))
                return self._read(quiet_forward(handle, args, kwargs, None))
        finally:
            restore_mode(flags)

    def _read(self, found: tuple[Tensor, Tensor | None, dict[str, Any]]) -> Forward:
        """With one row of features a sample, as in a batch; those of tokens stay as they are."""
        logits, features, taps = found
        if features is not None and self.loss_kind != "token_cross_entropy":
            features = self._handle.taps.pool(features, None, self._handle.pooling)
        return Forward(logits, features, taps)

    def teacher(self) -> Forward:
        """The model with w0 on the inputs of this step: evaluation mode, no graph.

        One forward a step, however many methods ask (``needs=("inputs", "reference")``); they
        share its tensors, so that nobody may change them in place.
        """
        handle = self._handle
        inputs = handle.current_inputs()
        if handle.taught is None or handle.taught[0] is not inputs:
            args, kwargs = inputs
            found = self.forward(*args, grad=False, mode="eval", weights="reference", **kwargs)
            handle.taught = (inputs, found)
        result: Forward = handle.taught[1]
        return result

    @contextmanager
    def _kept_buffers(self, weights: str | nn.Module) -> Iterator[None]:
        """Put back the model's batch-norm statistics, unseen by graphs that need their version."""
        kept = [
            (buffer, buffer.detach().clone())
            for module in self.model.modules()
            if module.training and not isinstance(weights, nn.Module)
            for buffer in module.buffers(recurse=False)
        ]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.data.copy_(value)

    @contextmanager
    def _reference_weights(self) -> Iterator[dict[str, Tensor] | None]:
        """w0 as tensors for ``functional_call``; sharded parameters are swapped in place."""
        named = list(named_tensors(self.model))  # batch-norm statistics among them
        if not any(is_sharded(p) for _, p in named):
            yield {name: tensor.to(self.device) for name, tensor in self.reference.items()}
            return
        if torch.is_grad_enabled():
            raise TetherError("the reference under fully_shard gives values only: grad=False")
        mine = [local(p).data for _, p in named]  # unseen by graphs that need their version
        kept = [shard.clone() for shard in mine]
        with torch.no_grad():
            torch._foreach_copy_(mine, [local(self.reference[name]) for name, _ in named])
        try:
            yield None
        finally:
            with torch.no_grad():
                torch._foreach_copy_(mine, kept)

    # -- in setup --------------------------------------------------------------------------------

    def tap(self, name: str) -> None:
        """Ask for the output of a layer, by name: ``batch.taps[name]`` in every step."""
        self._handle.taps.tap_output(name)

    def add_module(
        self, name: str, module: nn.Module, optimizer: OptimizerLike = "like_main", *,
        ema_of: nn.Module | None = None, ema_decay: float | Callable[[], float] = 0.999,
        reduce: bool = True,
    ) -> nn.Module:  # fmt: skip
        """Give the engine a module to keep: saved, reduced over ranks, stepped after the main step.

        Args:
            name: unique within the method.
            module: moved to the model's device; equal on all ranks afterwards.
            optimizer: ``"like_main"`` (same class, options and schedule; for a copy of the model
                the same groups), ``"main"`` (joins the main optimiser), a factory, or None.
            ema_of: keep the module as a moving average of this one.
            ema_decay: weight of the old value, or what tells it before each update.
            reduce: average its gradients over the ranks; False where they are equal already.
        """
        module = module.to(self.device)
        spec = None if ema_of is not None else optimizer
        full = f"{self.name}.{name}"
        self._handle.auxiliaries.add(
            Auxiliary(full, module, spec, ema_of=ema_of, ema_decay=ema_decay, reduce=reduce)
        )
        return module

    def optimizer_of(self, name: str) -> torch.optim.Optimizer:
        """The optimiser of an auxiliary module."""
        found = self._handle.auxiliaries.items[f"{self.name}.{name}"].optimizer
        if found is None:
            raise RuntimeError(f"{name!r} has no optimiser of its own (yet): bind comes first")
        return found

    def statistics(self, update: Update, finish: Callable[[], None]) -> None:
        """Ask for a share in the pass over the training data before the first step.

        The pass runs in evaluation mode without gradients; it is shared by all methods that ask
        and cancelled when a state is loaded.

        Args:
            update: called with each batch (logits, features, targets, index; ``mask`` False for
                padding rows).
            finish: called once after the last batch. In several processes each rank has seen its
                share: merge with :meth:`all_gather` or :meth:`all_reduce`.
        """
        self._handle.statistics.request(self.name, update, finish)

    def training_targets(self) -> Tensor:
        """Targets of the whole training set, in row order."""
        return training_targets(self._handle.need_train_data(self.name))
