"""The handle of an attached model: the loss, the batches, the numbers and the state of a run."""

from __future__ import annotations

import os
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from tether.engine import checks, resume
from tether.engine.auxiliary import Auxiliaries
from tether.engine.context import Context
from tether.engine.hooks import OptimizerSeam, check_covered, unwrap_optimizer
from tether.engine.layers import WeightRef, weight_refs
from tether.engine.loader import BatchStream
from tether.engine.order import overrides
from tether.engine.reference import Reference, unwrap
from tether.engine.registry import attached_to, forget, remember, span
from tether.engine.seeds import mix_seed
from tether.engine.state import RankSync, kept_random_state
from tether.engine.statistics import StatisticsPass
from tether.engine.step import StepMaker
from tether.engine.taps import Taps, as_logits, find_head
from tether.engine.window import Window
from tether.errors import TetherError
from tether.losses import LossLike, TaskLoss
from tether.method import Method


class Handle:
    """What :func:`attach` returns: the loss, the batches, the numbers and the state of a run."""

    def __init__(
        self, model: nn.Module, methods: Mapping[str, Method], *, train_data: Any, valid_data: Any,
        num_classes: int | None, epochs: float | None, total_steps: int | None, loss: LossLike,
        head: str | None, source_head: nn.Module | None, seed: int, scaler: Any,
        reference_device: torch.device | str | None, nan_check: str | None,
    ) -> None:  # fmt: skip
        self.model = model
        self.inner = unwrap(model)
        self.methods = dict(methods)
        self.train_data, self.valid_data, self.source_head = train_data, valid_data, source_head
        self.epochs, self.total_steps, self.seed, self.scaler = epochs, total_steps, seed, scaler
        self.task = TaskLoss(loss)
        self.device = next((p.device for p in self.inner.parameters()), torch.device("cpu"))
        self.autocast_dtype: torch.dtype | None = None
        self.micro_step = 0
        self.step = 0
        self.phase = "setup"
        self.deferred: list[Callable[[], None]] = []
        self.at_backward: list[Callable[[], None]] = []
        self.auxiliaries = Auxiliaries()
        self._num_classes = num_classes
        self._head: tuple[str, nn.Module] | None = None
        self._head_error: TetherError | None = None
        self._weights: list[WeightRef] | None = None
        self._attached = False
        self._warned_eval = False
        #: The shared teacher's forward of this step and the inputs that it belongs to.
        self.taught: tuple[Any, Any] | None = None
        try:
            self._head = find_head(self.inner, head, num_classes)
        except TetherError as error:
            self._head_error = error
        name, module = self._head if self._head is not None else (None, None)
        self.taps = Taps(self.inner, name, module)
        self.reference = Reference(self.inner, reference_device)
        self.stream = BatchStream(self.device, self._epoch_start, self._epoch_end)
        self.sync = RankSync(self.methods)
        self.statistics = StatisticsPass(self)
        acting = {m: self.acting(m) for m in ("edit_gradients", "after_step")}
        self._editors, self._steppers = acting["edit_gradients"], acting["after_step"]
        self.seam = OptimizerSeam(self._edit, self._after, edits=bool(self._editors))
        acts = bool(self._editors or self._steppers)
        self.window = Window(self.seam, self.auxiliaries, self.methods.values(), acts)
        weakref.finalize(self, self.taps.remove).atexit = False  # dropped without detach()
        if nan_check not in (None, "step", "log"):
            raise TetherError(f"nan_check {nan_check!r}: 'step' or 'log'")
        by_default = "step" if self.device.type == "cpu" else "log"
        self.maker = StepMaker(self, nan_check or by_default)

    # -- set up ----------------------------------------------------------------------------------

    def acting(self, moment: str) -> list[tuple[str, Method]]:
        """(name, method) of those that override a moment."""
        return [(name, m) for name, m in self.methods.items() if overrides(m, moment)]

    def needs(self, need: str) -> list[str]:
        """Names of the methods whose record asks for something."""
        return [name for name, m in self.methods.items() if need in m.info.needs]

    def set_up(self) -> None:
        if attached_to(self.inner) is not None:
            raise TetherError(
                "tether is attached to this model already: detach() the other handle first, or "
                "give all methods to one attach()"
            )
        checks.check_needs(self)
        remember(self)
        self._attached = True
        if self.needs("features"):
            self.need_head(self.needs("features")[0])
            self.taps.tap_features()
            checks.warn_if_frozen(self)
        if self.needs("inputs"):
            self.taps.tap_inputs()
        if self.needs("reference"):
            len(self.reference)  # taken now, before anything moves
        for name, method in self.methods.items():
            for stale in ("_state_syncs", "_schedules"):
                method.__dict__.pop(stale, None)
            method.ctx = Context(self, name)
            method.__dict__["_attached"] = True
            with kept_random_state(self.device):  # the user's random numbers stay as they are
                torch.manual_seed(mix_seed(self.seed, name, "setup"))
                method.setup(method.ctx)
        self.reference.sealed = True
        self.sync.remember()

    def bind(self, optimizer: Any, scaler: Any = None) -> Handle:
        """Give the optimiser, where it did not exist at attach. Returns the handle."""
        self._check_attached()
        inner = unwrap_optimizer(optimizer)
        check_covered(inner, checks.wanted_parameters(self))
        self.seam.bind(inner)
        self.auxiliaries.bind(inner, self.inner)
        self.scaler = scaler if scaler is not None else self.scaler
        return self

    def _check_attached(self) -> None:
        if not self._attached:
            raise TetherError("this handle is detached: call tether.attach() again")

    # -- what contexts ask -----------------------------------------------------------------------

    def need_head(self, who: str) -> tuple[str, nn.Module]:
        if self._head is None:
            assert self._head_error is not None
            raise TetherError(f"method {who!r} needs the model's head: {self._head_error}")
        return self._head

    def need_num_classes(self, who: str) -> int:
        return checks.num_classes(self._num_classes, self._head, who)

    def need_num_features(self, who: str) -> int:
        return checks.num_features(self.need_head(who))

    def need_train_data(self, who: str) -> Any:
        if self.train_data is None:
            raise TetherError(
                f"method {who!r} reads the training data: attach(..., train_data=...)"
            )
        return self.train_data

    def need_num_samples(self, who: str) -> int:
        return checks.num_samples(self.need_train_data(who), who)

    @cached_property
    def num_samples(self) -> int | None:
        return self.need_num_samples(self.needs("index")[0]) if self.needs("index") else None

    def weights(self) -> list[WeightRef]:
        if self._weights is None:
            self._weights = weight_refs(self.inner, self._head[0] if self._head else "")
        return self._weights

    @cached_property
    def pooling(self) -> str | None:
        """How token features are pooled: only where every method that reads them can."""
        records = [self.methods[name].info.pooling for name in self.needs("features")]
        return "mean" if records and all(p == "mean" for p in records) else None

    @property
    def head_matters(self) -> bool:
        """Whether a method reads features, or treats the head's weights apart."""
        return bool(self.needs("features")) or (
            self._head is not None and self._weights is not None and bool(self.needs("reference"))
        )

    def current_inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.maker.inputs is None:
            raise TetherError(
                'the arguments of the model\'s call are unknown: declare needs=("inputs",)'
            )
        return self.maker.inputs

    # -- progress --------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Present epoch, 0-based; a resumed loop runs over ``range(reg.epoch, epochs)``."""
        return self.stream.epoch

    @property
    def has_horizon(self) -> bool:
        return bool(self.epochs or self.total_steps)

    @property
    def progress(self) -> float:
        """Share of training done, 0 to 1."""
        if self.total_steps:
            return min(self.step / self.total_steps, 1.0)
        if self.epochs and not self.stream.open and self.phase in ("loss", "edit", "after"):
            raise TetherError(
                "the length of training was given in epochs, but no epoch was begun: iterate "
                "reg.batches(loader), call reg.start_epoch() and reg.end_epoch(), or give "
                "total_steps=... instead"
            )
        return min(self.stream.position / self.epochs, 1.0) if self.epochs else 0.0

    def batches(
        self, loader: Iterable[Any], device: torch.device | str | None = None
    ) -> Iterator[Any]:
        """The loader's batches, for one epoch; the rows of each are known to ``loss``.

        The epoch ends when the loader is exhausted, or when the next one starts. After a state
        was loaded in the middle of an epoch, it goes on with the first unseen batch.

        Args:
            loader: usually a ``DataLoader`` (any ``collate_fn``, workers, samplers).
            device: where to move the batches; None leaves them.
        """
        self._check_attached()
        self.statistics.run(loader)
        rows = bool(self.needs("index"))
        source = self.stream.iterate(loader, device, rows, self.num_samples)
        transforms = self.acting("transform_batch")
        return self.maker.transformed(source, transforms) if transforms else source

    def start_epoch(self, epoch: int | None = None) -> None:
        """Tell that an epoch starts, in loops that do not use ``batches``."""
        self._check_attached()
        self.statistics.run()
        self.stream.start_epoch(epoch)

    def end_epoch(self) -> None:
        """Tell that an epoch is over, in loops that do not use ``batches``."""
        self.stream.end_epoch()

    def _epoch_start(self, epoch: int) -> None:
        self.phase = f"epoch {epoch}"
        with torch.no_grad():
            for _, method in self.acting("epoch_start"):
                method.epoch_start(epoch)

    def _epoch_end(self, epoch: int) -> None:
        self.phase = f"end of epoch {epoch}"
        self.maker.raise_if_nonfinite()
        with torch.no_grad():
            self.sync.merge()
            for _, method in self.acting("epoch_end"):
                method.epoch_end(epoch)

    # -- the step --------------------------------------------------------------------------------

    def loss(
        self, logits: Any, targets: Tensor, index: Tensor | None = None,
        num_items: int | Tensor | None = None, **extras: Any,
    ) -> Tensor:  # fmt: skip
        """The task loss with all that the methods make of it; call ``backward`` on it.

        In evaluation mode it is the plain task loss and nothing else happens.

        Args:
            logits: the model's output, a tensor or an object with ``.logits``.
            targets: labels of the batch; see :class:`tether.losses.TaskLoss`.
            index: rows of the samples in the training set; known by itself inside ``batches``.
            num_items: items (samples, or tokens that count) of the whole accumulated batch: the
                loss is then a share of it, and needs no division by the number of micro-batches.
            extras: whatever a method reads from ``batch.extras``.

        Raises:
            TetherError: bad labels, missing rows, a head that was not called.
            NonFiniteError: a part is infinite or not a number; nothing has changed.
        """
        self._check_attached()
        logits = as_logits(logits)
        if not self.inner.training:
            return self.maker.plain(logits, targets, num_items)
        if self.seam.optimizer is None and checks.acts_at_updates(self):
            raise TetherError("no optimiser is bound: give attach(..., optimizer) or reg.bind(...)")
        self.statistics.run()
        with span("tether::loss"):
            total = self.maker.make(logits, targets, index, num_items, extras)
        self.window.watch(total, list(self.at_backward))
        self.at_backward.clear()
        return total

    def _inert(self) -> bool:
        """In evaluation mode nothing acts; said once, since a forgotten train() looks the same."""
        if self.inner.training:
            return False
        if not self._warned_eval:
            self._warned_eval = True
            warnings.warn(
                "the model is in evaluation mode at the optimiser's step: tether's methods do not "
                "act; call model.train()",
                stacklevel=4,
            )
        return True

    def _edit(self) -> None:
        if self._inert():
            return
        self.phase = "edit"
        with torch.no_grad(), span("tether::edit_gradients"):
            for _, method in self._editors:
                method.edit_gradients()

    def _after(self) -> None:
        if self._inert():
            return
        self.phase = "after"
        with torch.no_grad(), span("tether::after_step"):
            own_scale = None if self.scaler is None else getattr(self.scaler, "_scale", None)
            scale = self.seam.grad_scale if self.seam.grad_scale is not None else own_scale
            self.auxiliaries.unscale(scale, self.autocast_dtype is torch.float16)
            for _, method in self._steppers:
                method.after_step()
            self.auxiliaries.step(self.seam.found_inf)
        self.taps.clear()
        self.step += 1
        self.stream.updated()
        self.window.updated()

    # -- numbers ---------------------------------------------------------------------------------

    @property
    def parts(self) -> dict[str, Tensor]:
        """Task loss and weighted penalties of the last ``loss``: detached 0-dim tensors."""
        self.maker.raise_if_nonfinite()
        return dict(self.maker.parts)

    def measure(self) -> dict[str, dict[str, Any]]:
        """Numbers of every method that has some, by method name."""
        with torch.no_grad():
            return {name: method.measure() for name, method in self.acting("measure")}

    # -- end -------------------------------------------------------------------------------------

    def finish(self) -> nn.Module:
        """End the epoch, bake what ``prepare`` put in, detach; returns the inner model."""
        self._check_attached()
        self.stream.end_epoch()
        for _, method in reversed(self.acting("finish")):
            method.finish(self.inner)
        self.detach()
        return self.inner

    def detach(self) -> None:
        """Remove every hook; the methods keep their state for reading."""
        self.taps.remove()
        self.auxiliaries.unbind(self.seam.optimizer)
        self.seam.remove()
        if self._attached and attached_to(self.inner) is self:
            forget(self)
            for method in self.methods.values():
                method.__dict__["_attached"] = False
        self._attached = False

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.detach()

    def __repr__(self) -> str:
        return f"Handle({', '.join(map(repr, self.methods.values()))})"

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model, optimiser and scheduler (copies)."""
        return resume.state_dict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; nothing changes where it does not fit.

        Raises:
            TetherError: other methods, another w0, another data set, or another version.
        """
        self._check_attached()
        resume.load_state_dict(self, state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state as safetensors, atomically; in several processes every rank calls it."""
        resume.save(self, path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what :meth:`save` wrote and go on from there."""
        self.load_state_dict(resume.read(path))
