"""What mixup, CutMix and their decoupled form share: batches whose rows are of two samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.batch import Batch
from tether.errors import TetherError
from tether.method import Method
from tether.methods.inputs.input_layers import input_embedding
from tether.methods.inputs.mixing import (
    Mix,
    cutmix_box,
    mix_rows,
    mixable,
    mixed_targets,
    mixing_ratio,
    partners,
    paste,
)
from tether.schedule import Schedule, ScheduleLike

if TYPE_CHECKING:
    from tether.engine.context import Context

MIXES = ("mixup", "cutmix")
MASK = "attention_mask"


def check_alpha(alpha: ScheduleLike) -> None:
    """Refuse a number below 0."""
    if isinstance(alpha, (int, float)) and not alpha >= 0:
        raise ValueError(f"alpha must be >= 0, got {alpha!r}")


class PairMixing(Method):
    """Mixes inputs before the forward and targets behind it; the labels stay as they are."""

    alpha: ScheduleLike
    mix: str = "mixup"

    def schedules(self) -> dict[str, Schedule]:
        """``alpha`` may follow the progress of training; where it is 0 nothing is mixed."""
        return {"alpha": Schedule(self.alpha)}

    def setup(self, ctx: Context) -> None:
        """Words are mixed behind the model's embedding layer."""
        self._words: tuple[Tensor, Tensor, Tensor | None] | None = None
        self._embedded = False
        self._layer = input_embedding(ctx.model) if self.mix == "mixup" else None
        if self._layer is not None:
            ctx.change_output(self._layer, self._mix_words)

    # -- before the forward ----------------------------------------------------------------------

    def transform_batch(self, batch: Batch) -> Batch:
        """Rows of two samples each; ``extras`` say which, and hold the inputs as they were."""
        self._words, self._embedded = None, False
        alpha, size, ctx = self.value("alpha"), len(batch.targets), self.ctx
        if alpha == 0.0 or size < 2:
            return batch
        place: dict[str, Any] = {"generator": ctx.generator, "device": ctx.device}
        lam = mixing_ratio(alpha, **place)
        rows = partners(size, others=self.mix == "cutmix", **place)
        if self.mix == "cutmix":
            height, width = self._image_size(batch)
            box, lam = cutmix_box(height, width, lam, **place)
        else:  # the pair (a, b, lam) is (b, a, 1 - lam): name the larger share first
            lam = torch.maximum(lam, 1.0 - lam)
        classes = ctx.loss_kind == "cross_entropy"
        share = mixable(batch.targets, rows, lam) if classes else lam.expand(size)
        extras = {
            **batch.extras, "mix": Mix(rows, share), "unmixed": (batch.args, dict(batch.kwargs)),
        }  # fmt: skip
        if self.mix == "cutmix":
            boxes = box & (share < 1.0)[:, None, None]
            mixed = _map_numbers(batch, lambda x: paste(x, rows, boxes))
        else:
            mixed = self._blend(batch, rows, share)
        return replace(mixed, extras=extras)

    def _blend(self, batch: Batch, rows: Tensor, share: Tensor) -> Batch:
        """Numbers are blended here, words when the model has made numbers of them."""
        mixed = _map_numbers(batch, lambda x: mix_rows(x, rows, share))
        words = [name for name, x in _inputs(batch).items() if not x.is_floating_point()]
        if words and self._layer is not None:
            mask = batch.kwargs.get(MASK)
            self._words = (rows, share, mask)
            if mask is not None and mask.ndim == 2:
                seen = torch.maximum(mask, mask[rows.to(mask.device)])
                partly = (share < 1.0).to(mask.device)[:, None]
                mixed.kwargs[MASK] = torch.where(partly, seen, mask)
        elif len(words) == len(_inputs(batch)):
            raise TetherError(
                f"method {self.info.name!r} blends numbers, and the inputs {', '.join(words)} have "
                "none: the model has no embedding layer whose output could be mixed in their place"
            )
        return mixed

    def _image_size(self, batch: Batch) -> tuple[int, int]:
        shapes = [tuple(x.shape) for x in _inputs(batch).values()]
        if not shapes or any(len(s) != 4 or s[-2:] != shapes[0][-2:] for s in shapes):
            raise TetherError(
                f"method {self.info.name!r} cuts boxes out of images [N, C, H, W], and the inputs "
                f"have shape {' and '.join(map(str, shapes))}: use mixup"
            )
        return int(shapes[0][-2]), int(shapes[0][-1])

    def _mix_words(self, output: Tensor) -> Tensor:
        """Vectors of words, blended; padding counts as nothing."""
        if self._words is None or output.shape[0] != self._words[0].shape[0]:
            return output
        self._embedded = True
        rows, share, mask = self._words
        if mask is not None and mask.shape == output.shape[:2]:
            output = output * mask.to(output).unsqueeze(-1)
        return mix_rows(output, rows.to(output.device), share)

    # -- after the forward -----------------------------------------------------------------------

    def mix_of(self, batch: Batch) -> Mix | None:
        """How this batch was mixed, where the logits are; None where it was not."""
        mix: Mix | None = batch.extras.get("mix")
        if mix is None:
            return None
        if len(mix.lam) != batch.logits.shape[0]:
            raise TetherError(
                f"{len(mix.lam)} rows were mixed and there are {batch.logits.shape[0]} rows of "
                "logits: give the model and reg.loss each batch of reg.batches(loader) whole"
            )
        if self._words is not None and not self._embedded:
            raise TetherError(
                f"method {self.info.name!r} mixes behind the layer {self._layer!r}, which was not "
                f"called with the {len(mix.lam)} rows of the batch: nothing was mixed"
            )
        device = batch.logits.device
        return Mix(mix.permutation.to(device), mix.lam.to(device))

    def transform_targets(self, batch: Batch) -> Tensor:
        """Targets mixed as the rows were."""
        mix = self.mix_of(batch)
        if mix is None:
            return batch.targets
        classes = batch.logits.shape[-1]
        targets = mixed_targets(batch.targets, mix.permutation, mix.lam, num_classes=classes)
        return targets.to(batch.logits.dtype)


def _inputs(batch: Batch) -> dict[str, Tensor]:
    """The model's tensors by name or place, masks left out."""
    named = {f"argument {at}": value for at, value in enumerate(batch.args)} | batch.kwargs
    return {n: x for n, x in named.items() if isinstance(x, Tensor) and n != MASK}


def _map_numbers(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every tensor of numbers changed that has a row a sample."""

    def changed(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return change(value) if value.shape[:1] == batch.targets.shape[:1] else value

    kwargs = {n: value if n == MASK else changed(value) for n, value in batch.kwargs.items()}
    return replace(batch, args=tuple(map(changed, batch.args)), kwargs=kwargs)
