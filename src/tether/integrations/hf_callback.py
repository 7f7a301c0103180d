"""Epochs, the optimiser, rows, checkpoints and resuming under the Trainer of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tether.engine.handle import Handle
from tether.engine.reference import unwrap
from tether.errors import TetherError
from tether.integrations.rows import carry_rows
from tether.integrations.shared import begin_anew, bind_once, set_horizon

try:
    from transformers import TrainerCallback
except (ImportError, RuntimeError) as error:
    raise ImportError(
        "tether.integrations.hf needs transformers and accelerate: pip install 'tether[text]' "
        f"({error})"
    ) from error

STATE_FILE = "methods.safetensors"


def check_arguments(args: Any) -> None:
    """Refuse what would go wrong in silence.

    Raises:
        TetherError: replicas by ``nn.DataParallel``, DeepSpeed's own steps, or training that
            begins anew half-way.
    """
    if args.n_gpu > 1:
        raise TetherError(
            f"the Trainer would copy the model to {args.n_gpu} devices (nn.DataParallel): start "
            "one process a device (torchrun, accelerate launch), or show it one device "
            "(CUDA_VISIBLE_DEVICES=0)"
        )
    if getattr(args, "deepspeed", None):
        raise TetherError(
            "DeepSpeed updates the weights inside its engine, where methods cannot act: use FSDP2"
        )
    if args.auto_find_batch_size:
        raise TetherError(
            "auto_find_batch_size begins training anew with half-changed methods: set "
            "per_device_train_batch_size"
        )


class TetherCallback(TrainerCallback):
    """Tells the methods of epochs, binds the optimiser, saves and restores their state.

    Args:
        handle: what is attached; None where :func:`tether.integrations.hf.hf_pair` attaches it.
        finish: detach at the end of training, with ``finish`` of every method.
    """

    def __init__(self, handle: Handle | None = None, finish: bool = False) -> None:
        self.handle = handle
        self.finish = finish
        #: The checkpoint that is resumed from, where it is not ``output_dir/checkpoint-STEP``.
        self.resume_from: str | None = None
        #: Whether schedules run over the Trainer's updates, and not over a given number.
        self.own_horizon = True

    def attached(self) -> Handle:
        """The handle.

        Raises:
            TetherError: nothing is attached yet.
        """
        if self.handle is None:
            raise TetherError(
                "tether is not attached: give the callback to Trainer(callbacks=[...]), so that "
                "it sees the pretrained weights"
            )
        return self.handle

    # -- events ----------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Bind, then go on from the checkpoint's state where training is resumed."""
        check_arguments(args)
        handle = self.attached()
        if unwrap(now["model"]) is not handle.inner:
            raise TetherError(
                "the Trainer trains another model than the one tether is attached to (model_init?)"
                ": use TetherMixin, or give the Trainer model="
            )
        optimizer = now["optimizer"]
        bind_once(handle, optimizer, getattr(optimizer, "scaler", None))
        if self.own_horizon:
            set_horizon(handle, state.max_steps)
        if handle.needs("index"):
            carry_rows(now["train_dataloader"], handle.num_samples)
        if state.global_step > 0:
            handle.load(self._state_file(args, state))
        else:
            begin_anew(handle)
        self.resume_from = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Start an epoch, unless a resumed one goes on."""
        handle = self.attached()
        if handle.stream.open and int(state.epoch or 0) > handle.stream.epoch:
            handle.end_epoch()  # the checkpoint was saved after the last update of an epoch
        if not handle.stream.open:
            handle.start_epoch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """End the epoch; a checkpoint is saved after it."""
        self.attached().end_epoch()

    def on_save(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Write the methods' state into the checkpoint's folder, on every process."""
        if not state.is_hyper_param_search:
            self.attached().save(_checkpoint(args, state) / STATE_FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Finish, where that was asked for."""
        if self.finish:
            self.attached().finish()

    # -- resuming --------------------------------------------------------------------------------

    def _state_file(self, args: Any, state: Any) -> Path:
        named = [self.resume_from, args.resume_from_checkpoint, _checkpoint(args, state)]
        folders = [Path(folder) for folder in named if isinstance(folder, (str, Path))]
        for folder in folders:
            if (folder / STATE_FILE).is_file():
                return folder / STATE_FILE
        raise TetherError(
            f"resuming at step {state.global_step}: no {STATE_FILE} in "
            f"{' or '.join(map(str, folders))}; the checkpoint was broken off or saved without "
            "tether, or it is elsewhere (name its folder in the callback's resume_from)"
        )


def _checkpoint(args: Any, state: Any) -> Path:
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
