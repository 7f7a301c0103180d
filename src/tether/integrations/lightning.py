"""tether under Lightning: one callback, right under closures, float16 and accumulation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader

from tether.engine.attach import attach
from tether.engine.handle import Handle
from tether.engine.loader import check_rows, taped_copy
from tether.engine.order import arrange
from tether.engine.reference import unwrap
from tether.errors import TetherError
from tether.integrations.shared import as_list, begin_anew, bind_once, refuse, set_horizon
from tether.method import Method

try:
    from lightning.pytorch import Callback
except (ImportError, RuntimeError) as error:
    raise ImportError(
        f"tether.integrations.lightning needs lightning: pip install 'tether[lightning]' ({error})"
    ) from error


class TetherCallback(Callback):
    """Puts methods into a LightningModule; its ``training_step`` calls ``self.tether.loss``.

    Lightning steps with a closure that holds forward and backward; the edits come after it, and
    after gradient clipping. w0 is taken in ``setup``, before Lightning restores a checkpoint. The
    methods' state travels in Lightning's checkpoint. In ``validation_step`` the same call is the
    plain loss.

    Args:
        methods: one method or several.
        model: name of the submodule to attach to, where it is not the LightningModule itself
            (whose ``forward`` must then give the logits).
        finish: finish and detach when training ends.
        options: of :func:`tether.attach`; ``train_data`` where a method asks for it. The horizon
            is the Trainer's.

    Raises:
        TetherError: something is missing, several optimisers, or a method that changes batches.
    """

    handle: Handle | None = None

    def __init__(
        self, methods: Method | Iterable[Method], *, model: str | None = None,
        finish: bool = False, **options: Any,
    ) -> None:  # fmt: skip
        self.methods = as_list(methods)
        refuse(
            arrange(self.methods),
            ("transform_batch",),
            "it changes batches before training_step, which Lightning does not let a callback do",
        )
        self.model, self.finish, self.options = model, finish, options
        self._own_horizon = options.get("total_steps") is None
        self._pending: dict[str, Any] | None = None
        self._rows: deque[Any] = deque()

    def attached(self) -> Handle:
        """The handle.

        Raises:
            TetherError: ``trainer.fit`` has not begun.
        """
        if self.handle is None:
            raise TetherError("tether is attached when trainer.fit begins")
        return self.handle

    # -- attaching -------------------------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Attach, where the weights are still the pretrained ones."""
        if stage != "fit":
            return
        kind = type(trainer.strategy).__name__
        if kind.startswith(("FSDP", "ModelParallel", "DeepSpeed")):
            raise TetherError(
                f"{kind} replaces the parameters after this callback: use ddp, or the bare loop "
                "with fully_shard"
            )
        pl_module.to(trainer.strategy.root_device)  # w0 and states are kept beside the weights
        target = pl_module if self.model is None else pl_module.get_submodule(self.model)
        if self.handle is not None and self.handle.inner is not unwrap(target):
            self.handle.detach()
            self.handle = None
        if self.handle is None:
            given: dict[str, Any] = {"epochs": trainer.max_epochs, **self.options}
            if (given["epochs"] or 0) <= 0:
                given["epochs"] = None
            if trainer.max_steps > 0:
                given.setdefault("total_steps", trainer.max_steps)
            self.handle = attach(target, self.methods, **given)
        pl_module.tether = self.handle
        if self.handle.needs("index"):
            self._watch_loaders(trainer)

    def _watch_loaders(self, trainer: Any) -> None:
        """Let the training loader that Lightning makes note its rows."""
        strategy, plain = trainer.strategy, type(trainer.strategy).process_dataloader

        def process(loader: Any) -> Any:
            loader = plain(strategy, loader)
            if not trainer.training:
                return loader
            check_rows(loader, self.attached().num_samples)
            self._rows = deque()
            return taped_copy(loader, self._rows, 0, self._rows.clear)[0]

        strategy.process_dataloader = process

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Leave the strategy as it was; the handle stays, for measuring."""
        trainer.strategy.__dict__.pop("process_dataloader", None)

    # -- training --------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Bind the optimiser, then go on from the checkpoint's state."""
        if len(trainer.optimizers) != 1:
            raise TetherError(
                f"the LightningModule has {len(trainer.optimizers)} optimisers: tether acts on one"
            )
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        bind_once(self.attached(), trainer.optimizers[0], scaler)
        self._load_pending()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the length of training, which is known by now."""
        handle = self.attached()
        if handle.needs("index") and not isinstance(trainer.train_dataloader, DataLoader):
            raise TetherError("a method keeps a table of samples: give one training loader")
        if trainer.global_step == 0:
            begin_anew(handle)
        if self._own_horizon:
            set_horizon(handle, trainer.estimated_stepping_batches)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Start an epoch (Lightning does not call this for a resumed one)."""
        self.attached().start_epoch(trainer.current_epoch)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the rows of this batch."""
        if self._rows:
            handle = self.attached()
            rows = torch.as_tensor(self._rows.popleft(), dtype=torch.int64)
            handle.stream.rows = rows.to(handle.device)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """End the epoch; checkpoints are written after it."""
        self.attached().end_epoch()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Finish, where that was asked for."""
        if self.finish:
            self.attached().finish()

    # -- state -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The methods' state, for Lightning's checkpoint."""
        return {} if self.handle is None else self.handle.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, as soon as the optimiser is bound."""
        self._pending = state_dict
        if self.handle is not None and self.handle.seam.optimizer is not None:
            self._load_pending()

    def _load_pending(self) -> None:
        if self._pending:
            self.attached().load_state_dict(self._pending)
        self._pending = None
