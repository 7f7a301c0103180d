"""tether under the Trainer of transformers: a mixin, and a pair of hooks without a subclass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tether.engine.attach import attach
from tether.engine.checks import batch_entries, take_entries
from tether.engine.handle import Handle
from tether.engine.order import arrange
from tether.engine.reference import is_sharded, unwrap
from tether.engine.taps import as_logits
from tether.errors import TetherError
from tether.integrations.hf_callback import TetherCallback, check_arguments
from tether.integrations.hf_loss import (
    check_loss_arguments,
    divides_by_items,
    label_name,
    shifted,
    shifts_labels,
)
from tether.integrations.hf_pair import hf_pair
from tether.integrations.rows import SAMPLE_INDEX
from tether.integrations.shared import ModelLoss, as_list, bind_once
from tether.method import Method

if TYPE_CHECKING:
    _Trainer = Any
else:
    _Trainer = object

__all__ = ["TetherCallback", "TetherMixin", "hf_pair"]


class TetherMixin(_Trainer):  # type: ignore[misc]
    """Puts methods into a Trainer: ``class MyTrainer(TetherMixin, Trainer)``.

    The loss is tether's: labels are taken out before the forward, and the mean is over the items
    of the whole accumulated batch, so that accumulation 4 x 2 is a batch of 8, on one process or
    several. w0 is what the model holds when the Trainer is made. Evaluation is the Trainer's own,
    with the plain loss. Entries of a batch that a method asks for (``views``, ``domains``,
    ``unlabelled``, ``pairs``) are taken out before the forward and given to the method.

    Args:
        tether_methods: one method or several; ``[]`` trains plainly, with the same loss.
        tether_options: options of :func:`tether.attach`. By default ``train_data`` is the
            Trainer's (under its collator), ``seed`` its seed, the horizon its number of updates.
            ``loss="model"`` keeps the model's own loss; methods that need losses or targets of
            samples are then refused.
        tether_finish: finish and detach when training ends.

    Raises:
        TetherError: something is missing or cannot be combined.
    """

    tether: Handle | None = None
    label_names: list[str]
    _signature_columns: list[str] | None
    _tether_entries: Mapping[str, str] = {}

    def __init__(
        self, *args: Any, tether_methods: Method | Iterable[Method],
        tether_options: Mapping[str, Any] | None = None, tether_finish: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(*args, **kwargs)
        check_arguments(self.args)
        self._tether_methods = as_list(tether_methods)
        self._tether_entries = batch_entries(arrange(self._tether_methods))
        self._tether_options = dict(tether_options or {})
        loss = self._tether_options.get("loss", "cross_entropy")
        self._tether_model_loss = ModelLoss(self._tether_methods) if loss == "model" else None
        if self._tether_model_loss is not None:
            self._tether_options["loss"] = self._tether_model_loss
            self.model_accepts_loss_kwargs = divides_by_items(self.model)
        else:
            check_loss_arguments(self)
            self.model_accepts_loss_kwargs = False
            if not self.label_names:  # a model of one's own, whose forward takes no labels
                self.label_names = ["labels"]
        # Said outright, since the Trainer would guess from the model's signature: it divides what
        # compute_loss gives by the number of micro-batches, which is made up for there.
        self.loss_is_scaled_for_ga = False
        self._tether_callback = TetherCallback(finish=tether_finish)
        self._tether_callback.own_horizon = "total_steps" not in self._tether_options
        self.add_callback(self._tether_callback)
        self._tether_shards = self.is_fsdp_enabled or bool(self.args.fsdp)
        if not self._tether_shards:  # fully_shard replaces the parameters: see create_scheduler
            self._tether_attach()

    # -- attaching -------------------------------------------------------------------------------

    def _tether_attach(self) -> Handle:
        """Attach to the present model, unless that is done (``model_init`` makes new ones)."""
        if self.tether is not None:
            if self.tether.inner is unwrap(self.model):
                return self.tether
            self.tether.detach()
        if self._tether_shards and not any(is_sharded(p) for p in self.model.parameters()):
            raise TetherError(
                "FSDP was asked for and no parameter is sharded: it needs an accelerator and "
                "FSDP2 (fsdp_config version 2)"
            )
        given = dict(self._tether_options)
        data = given.pop("train_data", self.train_dataset)
        if self.args.max_steps > 0:
            given.setdefault("total_steps", self.args.max_steps)
        given.setdefault("epochs", self.args.num_train_epochs)
        given.setdefault("seed", self.args.seed)
        self.tether = attach(
            self.model, self._tether_methods, train_data=self._tether_loader(data), **given
        )
        self._tether_callback.handle = self.tether
        return self.tether

    def _tether_loader(self, data: Any) -> Any:
        """The training data as the model takes them: the Trainer's collator and columns."""
        if data is None or isinstance(data, DataLoader):
            return data
        collate = self.data_collator
        if hasattr(data, "remove_columns") and hasattr(data, "column_names"):
            data = self._remove_unused_columns(data, description="training")
        else:
            collate = self._get_collator_with_removed_columns(collate, description="training")
        return DataLoader(data, batch_size=self.args.eval_batch_size, collate_fn=collate)

    def _set_signature_columns_if_needed(self) -> None:
        """Keep columns that a method asks for, though the model's forward does not take them."""
        super()._set_signature_columns_if_needed()
        columns = self._signature_columns or []
        self._signature_columns = [*columns, *(e for e in self._tether_entries if e not in columns)]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Take w0 before a checkpoint is loaded."""
        if not self._tether_shards:
            self._tether_attach()
        self._tether_callback.resume_from = resume_from_checkpoint
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Bind here: the model is wrapped, the optimiser final, no checkpoint loaded into it."""
        bind_once(self._tether_attach(), self.optimizer, self.accelerator.scaler)
        return super().create_scheduler(*args, **kwargs)

    # -- the loss --------------------------------------------------------------------------------

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """The micro-batches of an update, with their number of items over all processes."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        if self._tether_model_loss is None:
            items = self._tether_items(batches)
        return batches, items

    def _tether_items(self, batches: list[Any]) -> Tensor | int:
        task, shift = self._tether_attach().task, shifts_labels(self.model)
        labels = [batch[label_name(self, batch)] for batch in batches]
        items: Any = sum(task.items(shifted(task, x) if shift else x) for x in labels)
        if self.args.world_size > 1 and self.args.average_tokens_across_devices:
            # DDP averages the gradients over the ranks
            items = torch.as_tensor(items, dtype=torch.float32, device=self.args.device)
            items = self.accelerator.reduce(items, reduction="mean")
        return items.clamp(min=1) if isinstance(items, Tensor) else max(items, 1)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False,
        num_items_in_batch: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """The loss with all that the methods make of it; in evaluation mode the plain one."""
        handle, inputs = self._tether_attach(), dict(inputs)
        index = inputs.pop(SAMPLE_INDEX, None)
        if self._tether_model_loss is not None:
            known = {"index": index, **take_entries(self._tether_entries, inputs)}
            loss, outputs = self._with_model_loss(model, inputs, known, num_items_in_batch, kwargs)
            return (loss, outputs) if return_outputs else loss
        training, whole = handle.inner.training, num_items_in_batch
        labels = inputs.pop(label_name(self, inputs))
        transforms = handle.acting("transform_batch") if training else []
        if transforms:
            handle.stream.rows, index = index, None
            given = {**inputs, "labels": labels}
            inputs = dict(next(handle.maker.transformed(iter([given]), transforms)))
            labels = inputs.pop("labels")
        extras = take_entries(self._tether_entries, inputs)
        if shifts_labels(self.model):
            labels = shifted(handle.task, labels)
        outputs = model(**inputs)
        whole = whole if training else None
        loss = handle.loss(outputs, labels, index=index, num_items=whole, **extras)
        if whole is not None:
            # it is a share of the accumulated batch; the Trainer divides it once more
            loss = loss * self.current_gradient_accumulation_steps
        if not return_outputs:
            return loss
        # the Trainer drops the first entry of what is not a dict, as if it were the loss
        return loss, outputs if isinstance(outputs, dict) else {"logits": as_logits(outputs)}

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's own, also where there are no labels and so no loss."""
        inputs = {key: value for key, value in inputs.items() if key not in self._tether_entries}
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _with_model_loss(
        self, model: Any, inputs: Any, known: dict[str, Any], items: Any, kwargs: Any
    ) -> tuple[Tensor, Any]:
        handle, own = self._tether_attach(), self._tether_model_loss
        assert own is not None
        loss, outputs = super().compute_loss(
            model, inputs, return_outputs=True, num_items_in_batch=items, **kwargs
        )
        if not handle.inner.training:
            return loss, outputs
        if self.model_accepts_loss_kwargs and items is not None:
            loss = loss * self.current_gradient_accumulation_steps  # as above
        return own.with_penalties(handle, loss, outputs, **known), outputs
