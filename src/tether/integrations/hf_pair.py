"""Methods in a Trainer that is not subclassed: a loss function and a callback."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from tether.engine.attach import attach
from tether.engine.checks import batch_entries, take_entries
from tether.engine.order import arrange
from tether.errors import TetherError
from tether.integrations.hf_callback import TetherCallback, check_arguments
from tether.integrations.hf_loss import shifted, shifts_labels
from tether.integrations.rows import SAMPLE_INDEX
from tether.integrations.shared import ModelLoss, as_list, refuse
from tether.losses import IGNORE
from tether.method import Method

LossFunction = Callable[..., Tensor]


class _PairCallback(TetherCallback):
    """Attaches when the Trainer has been made, before it can load a checkpoint."""

    def __init__(self, methods: list[Method], finish: bool, options: dict[str, Any]) -> None:
        super().__init__(finish=finish)
        self.methods, self.options = methods, options
        self.model_loss = options["loss"] if isinstance(options.get("loss"), ModelLoss) else None
        self.accumulation = 1
        self.rows: Tensor | None = None
        self.entries = batch_entries(arrange(methods))
        self.extras: dict[str, Any] = {}
        self._hook: Any = None
        self.own_horizon = "total_steps" not in options

    def on_init_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Attach to the model where the Trainer has put it."""
        check_arguments(args)
        if args.fsdp:
            raise TetherError("FSDP replaces the parameters after this callback: use TetherMixin")
        if self.entries and args.remove_unused_columns:
            name, who = next(iter(self.entries.items()))
            raise TetherError(
                f"method {who!r} needs the entry {name!r} of the batches, which the Trainer may "
                "drop: TrainingArguments(remove_unused_columns=False), or use TetherMixin"
            )
        self.accumulation = args.gradient_accumulation_steps
        given = {"seed": args.seed, "epochs": args.num_train_epochs, **self.options}
        if args.max_steps > 0:
            given.setdefault("total_steps", args.max_steps)
        self.handle = attach(now["model"], self.methods, **given)
        if self.handle.needs("index") or self.entries:
            self._hook = self.handle.inner.register_forward_pre_hook(
                self._take, with_kwargs=True, prepend=True
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **now: Any) -> None:
        """Leave nothing behind, where that was asked for."""
        super().on_train_end(args, state, control, **now)
        if self.finish and self._hook is not None:
            self._hook.remove()

    def _take(self, model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Keep rows and entries of methods from the model, which does not know the arguments."""
        if SAMPLE_INDEX in kwargs:
            self.rows = kwargs[SAMPLE_INDEX]
            kwargs = {name: value for name, value in kwargs.items() if name != SAMPLE_INDEX}
        if any(name in kwargs for name in self.entries):
            kwargs = dict(kwargs)
            self.extras = take_entries(self.entries, kwargs)
        return args, kwargs

    def compute_loss(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Tensor:
        """What the Trainer calls as ``compute_loss_func``."""
        handle = self.attached()
        if labels is None:
            raise TetherError(
                "the batch has no entry 'labels': name the column so, and where the model's "
                "forward takes no labels, keep it with TrainingArguments(label_names=['labels'])"
            )
        counted = labels
        if shifts_labels(handle.inner):
            counted, labels = labels[..., 1:], shifted(handle.task, labels)
        rows, extras = self.rows, self.extras
        self.rows, self.extras = None, {}
        loss = handle.loss(outputs, labels, index=rows, **extras)
        if num_items_in_batch is None:
            return loss / (self.accumulation if handle.inner.training else 1)
        # the Trainer counts every entry of the labels, also where a row has several
        share: Tensor = counted.ne(IGNORE).sum() / num_items_in_batch
        return loss * share


def hf_pair(
    methods: Method | Iterable[Method], *, finish: bool = False, **options: Any
) -> tuple[LossFunction | None, TetherCallback]:
    """``(compute_loss_func, callback)`` for a Trainer of one's own, without a subclass.

    Give both to the constructor of the Trainer: the callback attaches there, when the model is in
    place and no checkpoint is loaded. With ``loss="model"`` the first is None, and only methods
    that act on weights and gradients are taken; this is for Trainers that make a loss of their
    own, as those for preferences do.

    Args:
        methods: one method or several.
        finish: finish and detach when training ends.
        options: of :func:`tether.attach`; ``train_data`` is the training set, or a ``DataLoader``
            over it with the collator that the model needs. The horizon is the Trainer's.

    Raises:
        TetherError: a method that this seam does not reach; :class:`TetherMixin` reaches all.
    """
    listed = as_list(methods)
    arranged = arrange(listed)
    refuse(arranged, ("transform_batch",), "it changes batches before the forward: use TetherMixin")
    if options.get("loss") == "model":
        options["loss"] = ModelLoss(listed)
        refuse(arranged, ("penalty",), 'with loss="model" it adds to the loss: use TetherMixin')
    callback = _PairCallback(listed, finish, options)
    return (None if callback.model_loss else callback.compute_loss), callback
