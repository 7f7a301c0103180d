"""The Trainer of a run: keyed order and transforms, our optimiser groups, extra batches."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from tether.integrations.hf import TetherMixin
from tether.tuning.checkpoints import MANIFEST
from tether.tuning.options import TuneConfig

if TYPE_CHECKING:
    from tether.tuning.epoch_measures import EpochMeasures

OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
}


#: Those that have a fused kernel on the CPU and on CUDA.
FUSED = ("adamw", "adam", "sgd")


#: A disk with so few bytes free is taken for full when a write fails.
LITTLE = 2**20


class TuneTrainer(TetherMixin, Trainer):  # type: ignore[misc]
    """The Trainer with tether's loss, as ``tether tune`` runs it.

    Args:
        config: the settings.
        head: dotted name of the model's head.
        sampler: makes the sampler of the training data; it has ``set_epoch``.
        extra_batches: entry of a batch -> what makes it from the number of the micro-batch
            (unlabelled inputs, preference pairs).
    """

    def __init__(
        self, *args: Any, config: TuneConfig, head: str, sampler: Callable[[], Any],
        extra_batches: dict[str, Callable[[int], Any]], **kwargs: Any,
    ) -> None:  # fmt: skip
        self._config, self._head_name = config, head
        self._sampler, self._extra_batches = sampler, extra_batches
        #: What is measured beside each evaluation; None: nothing.
        self.measures: EpochMeasures | None = None
        super().__init__(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's, while the features of the first samples are kept."""
        with self.measures.listening() if self.measures is not None else nullcontext():
            return super().evaluate(*args, **kwargs)

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """The mixin's; the features that were kept are brought together from all processes."""
        found = super().prediction_step(*args, **kwargs)
        if self.measures is not None:
            self.measures.gather(self.accelerator)
        return found

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._sampler()

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """An optimiser of torch over groups by depth, norms and biases without decay."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(
                self._config, self.model if model is None else model, self._head_name
            )
        return self.optimizer

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The mixin's, with the batches that methods asked for beside the labelled one."""
        if self._extra_batches and self.tether is not None and self.tether.inner.training:
            step = self.tether.micro_step
            extra = {name: make(step) for name, make in self._extra_batches.items()}
            inputs = {**inputs, **self._prepare_inputs(extra)}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's; what torch says of a write that failed becomes an ``OSError``."""
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        if self.args.process_index == 0:
            (folder / MANIFEST).unlink(missing_ok=True)  # of an older one of this name
        try:
            super()._save_checkpoint(*args, **kwargs)
        except RuntimeError as error:
            if not any(word in str(error) for word in ("inline_container", "PytorchStreamWriter")):
                raise
            full = shutil.disk_usage(folder.parent).free < LITTLE
            number = errno.ENOSPC if full else errno.EIO  # torch does not tell
            raise OSError(number, os.strerror(number), str(folder)) from error

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The weights in the order of their dimensions, as safetensors takes them."""
        model: Any = self.model
        state = model.state_dict() if state_dict is None else state_dict
        super()._save(output_dir, {name: value.contiguous() for name, value in state.items()})

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: the number is for texts only, and costs a walk over the parameters."""
        return 0


def make_optimizer(config: TuneConfig, model: Any, head: str) -> torch.optim.Optimizer:
    """The optimiser that the settings name.

    Raises:
        ConfigError: it does not take one of ``optim_args``.
    """
    from tether.errors import ConfigError
    from tether.models.groups import parameter_groups

    groups: Iterable[dict[str, Any]] = parameter_groups(
        model, head, lr=config.lr, head_lr_mult=config.head_lr_mult,
        weight_decay=config.weight_decay, layer_decay=config.layer_decay,
    )  # fmt: skip
    kind = OPTIMISERS[config.optim]
    given = dict(config.optim_args)
    if config.optim == "sgd":
        given.setdefault("momentum", 0.9)
    if config.optim in FUSED:
        given.setdefault("fused", True)  # one pass over the weights: several times faster
    try:
        return kind(groups, lr=config.lr, **given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"option optim_args: {config.optim}: {error}") from None
