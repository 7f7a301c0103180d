"""What has to be known of a Trainer and its model to compute a loss outside the model."""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tether.engine.loader import LABEL_KEYS
from tether.engine.reference import unwrap
from tether.errors import TetherError
from tether.losses import IGNORE, TaskLoss


def check_loss_arguments(trainer: Any) -> None:
    """Refuse arguments of the Trainer that a loss outside the model would drop in silence.

    Raises:
        TetherError: label smoothing, a second loss function, or several label columns.
    """
    if trainer.args.label_smoothing_factor:
        raise TetherError(
            "label_smoothing_factor acts inside the Trainer's own loss: leave it 0 and give "
            "LabelSmoothing(smoothing=...) among tether_methods"
        )
    if trainer.compute_loss_func is not None:
        raise TetherError(
            "compute_loss_func and tether would both make the loss: give "
            "tether_options={'loss': callable} from (logits, targets) to [N] losses"
        )
    if len(trainer.label_names) > 1:
        raise TetherError(
            f"the model takes the labels {', '.join(trainer.label_names)}: name one in "
            "TrainingArguments(label_names=[...]), or keep the model's own loss with "
            "tether_options={'loss': 'model'}"
        )


def label_name(trainer: Any, batch: Any) -> str:
    """The batch's entry with the labels.

    Raises:
        TetherError: there is none.
    """
    for name in (*trainer.label_names, *LABEL_KEYS):
        if name in batch:
            return str(name)
    raise TetherError(
        f"no labels in a batch with {', '.join(batch)}: the data set needs a column "
        f"{trainer.label_names[0]!r} (or name it in TrainingArguments(label_names=[...]))"
    )


def shifts_labels(model: nn.Module) -> bool:
    """Whether the model's own loss predicts the next token, so that labels are the inputs."""
    from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss

    inner: Any = _base(model)
    coder = getattr(getattr(inner, "config", None), "is_encoder_decoder", False)
    return (
        LOSS_MAPPING.get(getattr(inner, "loss_type", None) or "") is ForCausalLMLoss and not coder
    )


def divides_by_items(model: nn.Module) -> bool:
    """Whether the model's own loss divides by ``num_items_in_batch`` where that is given.

    A signature with ``**kwargs`` does not tell: classifiers take the number and ignore it.
    Causal language models that call ``self.loss_function`` use it.
    """
    forward = inspect.unwrap(type(_base(model)).forward)
    return shifts_labels(model) and "loss_function" in forward.__code__.co_names


def _base(model: nn.Module) -> nn.Module:
    """The model inside adapters of peft."""
    inner = unwrap(model)
    get = getattr(inner, "get_base_model", None)
    return get() if callable(get) else inner


def shifted(task: TaskLoss, labels: Tensor) -> Tensor:
    """Token labels moved by one, so that position t is told what stands at t + 1."""
    if task.kind != "token_cross_entropy":
        return labels
    return F.pad(labels[..., 1:], (0, 1), value=IGNORE)
