"""The order of one step, from the model's output to the loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tether.batch import Batch
from tether.engine import checks
from tether.engine.loader import LABEL_KEYS, split_batch
from tether.engine.taps import wide, width
from tether.errors import NonFiniteError, TetherError
from tether.method import Method

if TYPE_CHECKING:
    from tether.engine.handle import Handle


class StepMaker:
    """Makes the loss of a batch in a fixed order; keeps its parts."""

    def __init__(self, handle: Handle, nan_check: str) -> None:
        self.handle = handle
        self.task = handle.task
        self.nan_check = nan_check
        self.parts: dict[str, Tensor] = {}
        self.inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self.row_weights: Tensor | None = None
        self._first_bad: dict[str, Tensor] = {}
        self._logits_checked = False

        self._transforms = handle.acting("transform_batch")
        #: Whether a batch came through them.
        self._transformed = False
        #: What they left for the loss of that batch.
        self._carried: dict[str, Any] = {}
        #: Rows of that batch, as a multiple of those that the loader gave.
        self._grown = 1.0
        self._relabel = handle.acting("transform_targets")
        self._replace = handle.acting("sample_loss")
        self._weigh = handle.acting("weight_samples")
        self._penalise = handle.acting("penalty")
        self._want_rows = handle.needs("index")
        self._want_epochs = handle.needs("epochs")
        self._want_features = handle.needs("features")
        self._want_inputs = handle.needs("inputs")
        #: Entries of dict batches that are a method's and not the model's.
        self.entries = checks.batch_entries(handle.methods)

    # -- before the forward ----------------------------------------------------------------------

    def transformed(
        self, source: Iterator[Any], methods: list[tuple[str, Method]]
    ) -> Iterator[Any]:
        """Batches after ``transform_batch`` of every method, in the form the loader gave them.

        In evaluation mode they are handed through. Entries of ``extras`` that are not the batch's
        own, which a method adds, are in the ``extras`` of its loss.
        """
        stream, device = self.handle.stream, self.handle.device.type
        for given in source:
            if not self.handle.inner.training:
                yield given
                continue
            args, kwargs, targets = split_batch(given)
            self.handle.phase = "inputs"
            none = torch.empty(0)
            extras = checks.take_entries(self.entries, kwargs)
            batch = Batch(
                none, targets, targets, index=stream.rows, args=args, kwargs=kwargs, extras=extras
            )
            with torch.autocast(device, enabled=False):
                for _, method in methods:
                    batch = method.transform_batch(batch)
            stream.rows, self.row_weights = batch.index, batch.weights
            self._transformed = True
            self._carried = dict(batch.extras)
            self._grown = len(batch.targets) / max(len(targets), 1)
            if hasattr(given, "items"):
                own = {n: self._carried.pop(n) for n in self.entries if n in batch.extras}
                key = next(k for k in LABEL_KEYS if k in given)
                yield {**batch.kwargs, **own, key: batch.targets}
            else:
                yield (*batch.args, batch.targets)

    # -- after the forward -----------------------------------------------------------------------

    def plain(self, logits: Tensor, targets: Tensor, num_items: int | Tensor | None) -> Tensor:
        with torch.autocast(logits.device.type, enabled=False):
            logits = wide(logits)
            targets = self.task.check(logits, targets)
            mean = self.task.mean(logits, targets)
            return mean if num_items is None else mean * (self.task.items(targets) / num_items)

    def make(
        self, logits: Tensor, targets: Tensor, index: Tensor | None,
        num_items: int | Tensor | None, extras: dict[str, Any],
    ) -> Tensor:  # fmt: skip
        handle = self.handle
        handle.phase = "loss"
        handle.deferred.clear()
        handle.at_backward.clear()
        low = wide(logits) is not logits and self._parameter_dtype() is torch.float32
        handle.autocast_dtype = logits.dtype if low else None
        try:
            with torch.autocast(logits.device.type, enabled=False):
                batch = self._batch(logits, targets, index, extras)
                total, parts = self._compose(batch, num_items)
                self._check_finite(parts)
        finally:
            handle.taps.calls.clear()
        with torch.no_grad():
            for write in handle.deferred:
                write()
        handle.deferred.clear()
        self.parts = parts
        handle.micro_step += 1
        handle.taps.clear()
        self.inputs = self.row_weights = handle.taught = None
        self._grown = 1.0
        if self._carried:  # it belongs to one loss
            self._carried, self._transformed = {}, False
        return total

    def repeats(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether these are the very arguments of the model's call in this step."""
        if self.inputs is None:
            return False
        own, named = self.inputs
        return (
            len(own) == len(args)
            and named.keys() == kwargs.keys()
            and all(a is b for a, b in zip(own, args, strict=True))
            and all(value is kwargs[name] for name, value in named.items())
        )

    def _parameter_dtype(self) -> torch.dtype:
        first = next(self.handle.inner.parameters(), None)
        return torch.float32 if first is None else first.dtype

    def _batch(
        self, logits: Tensor, targets: Tensor, index: Tensor | None, extras: dict[str, Any]
    ) -> Batch:
        handle = self.handle
        if self._want_epochs and not handle.stream.open:
            raise TetherError(
                f"method {self._want_epochs[0]!r} goes by epochs: iterate reg.batches(loader), or "
                "call reg.start_epoch() and reg.end_epoch()"
            )
        if self._transforms and not self._transformed:
            raise TetherError(
                f"method {self._transforms[0][0]!r} changes the batches before the model sees "
                "them: iterate reg.batches(loader) with the model in train mode, and call reg.loss "
                "once for each of its batches"
            )
        extras = {**self._carried, **extras}
        raw = logits
        logits = wide(logits)
        targets = self.task.check(logits, targets)
        mask = self.task.row_mask(targets)
        self._check_head(raw)
        checks.read_entries(handle.methods, self.entries, extras, logits)
        features = None
        if self._want_features:
            tapped = handle.taps.take_features(raw)
            handle.taps.check_graph(tapped, raw)
            valid = self.task.valid_tokens(targets)
            features = handle.taps.pool(tapped, valid, handle.pooling)
            if features.shape[0] != logits.shape[0]:
                raise TetherError(
                    f"the head saw {features.shape[0]} rows, the logits have {logits.shape[0]}: "
                    "call reg.loss once after each forward of the model"
                )
        outputs = handle.taps.take_outputs()
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if self._want_inputs:
            self.inputs = handle.taps.take_inputs()
            args, kwargs = self.inputs
        return Batch(
            logits, targets, targets, index=self._rows(logits, index), features=features,
            weights=self.row_weights, mask=mask, args=args, kwargs=kwargs, taps=outputs,
            extras=extras,
        )  # fmt: skip

    def _check_head(self, logits: Tensor) -> None:
        """Once: the layer taken for the head must make the logits."""
        if self._logits_checked:
            return
        self._logits_checked = not self.handle.head_matters
        if self._logits_checked:
            return
        name, module = self.handle.need_head(next(iter(self.handle.methods)))
        made = width(module, "out")
        outputs = logits.shape[-1] if logits.ndim > 1 else 1
        if made is not None and made != outputs:
            raise TetherError(
                f"the head {name!r} has {made} outputs, the logits have {outputs}: name the last "
                'linear layer with attach(..., head="...")'
            )
        self._logits_checked = True

    def _rows(self, logits: Tensor, index: Tensor | None) -> Tensor | None:
        rows = self.handle.stream.rows if index is None else torch.as_tensor(index)
        if not self._want_rows:
            return rows if rows is not None and rows.shape[0] == logits.shape[0] else None
        who = self._want_rows[0]
        if rows is None:
            raise TetherError(
                f"method {who!r} keeps a table of samples and the rows of this batch are unknown: "
                "iterate reg.batches(loader), or pass index= (rows of the data set)"
            )
        if rows.is_floating_point() or rows.ndim != 1 or rows.shape[0] != logits.shape[0]:
            raise TetherError(
                f"index must hold one whole number a row: {logits.shape[0]} rows of logits, index "
                f"of shape {tuple(rows.shape)} and type {rows.dtype}"
            )
        size = self.handle.num_samples
        if rows.device.type == "cpu" and rows.numel() and size is not None:
            values = rows.numpy()
            bad = values[(values < 0) | (values >= size)]
            if bad.size:
                raise TetherError(
                    f"index {bad[0]} is out of range: train_data has {size} samples (rows 0 to "
                    f"{size - 1})"
                )
        return rows.to(logits.device, torch.int64)

    # -- the loss --------------------------------------------------------------------------------

    def _compose(
        self, batch: Batch, num_items: int | Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        for name, method in self._relabel:
            targets = method.transform_targets(batch)
            if targets.requires_grad:
                raise TetherError(f"method {name!r}: transform_targets must detach its targets")
            batch.targets = targets
        share: float | Tensor | None = None
        if num_items is not None:
            share = self._items(batch) / (num_items * self._grown)
        mean = self._task(batch)
        total = mean if share is None else mean * share
        parts = {"task": mean.detach()}
        for name, method in self._penalise:
            weight = method.value("weight")
            penalty = method.penalty(batch)
            if weight == 0.0:
                parts[name] = torch.zeros_like(penalty.detach())
                continue
            part = weight * penalty
            parts[name] = part.detach()
            total = total + (part if share is None else part * share)
        return total, parts

    def _items(self, batch: Batch) -> Tensor | int:
        """Items of the batch; class probabilities in place of indices lose the -100."""
        mask = batch.mask
        if mask is not None and batch.targets.is_floating_point():
            return int(mask.numpy().sum()) if mask.device.type == "cpu" else mask.sum()
        return self.task.items(batch.targets)

    def _task(self, batch: Batch) -> Tensor:
        """Mean task loss; the plain kernel where nothing weighs or replaces sample losses."""
        mask = batch.mask
        if mask is not None and mask.device.type == "cpu" and not mask.numpy().any():
            return batch.logits.sum() * 0.0  # the mean of nothing would not be a number
        softened = mask is not None and batch.targets.is_floating_point()
        if not self._weigh and not self._replace and batch.weights is None and not softened:
            return self.task.mean(batch.logits, batch.targets)
        replaced = self._replace[0][1].sample_loss(batch) if self._replace else None
        if replaced is None:
            batch.sample_losses = self.task.per_sample(batch.logits, batch.targets)
        else:
            batch.sample_losses = replaced
        for _, method in self._weigh:
            weights = method.weight_samples(batch)
            if weights is not None:
                batch.weights = weights if batch.weights is None else batch.weights * weights
        if batch.weights is None:
            if replaced is None and not softened:
                return self.task.mean(batch.logits, batch.targets)
            return self._mean_of_rows(batch, batch.sample_losses)
        counts = self.task.row_items(batch.targets)
        if softened and mask is not None:
            counts = mask.to(batch.sample_losses.dtype)
        losses = batch.weights * batch.sample_losses
        return losses.mean() if counts is None else (losses * counts).sum() / counts.sum()

    def _mean_of_rows(self, batch: Batch, losses: Tensor) -> Tensor:
        """Mean of losses of rows; a row of tokens counts as many times as it has tokens."""
        valid = self.task.valid_tokens(batch.targets)
        if valid is None:
            return batch.masked_mean(losses)
        counts = valid.sum(1).to(losses.dtype)
        return (losses * counts).sum() / counts.sum().clamp(min=1.0)

    # -- numbers that are not finite -------------------------------------------------------------

    def _check_finite(self, parts: dict[str, Tensor]) -> None:
        if self.nan_check == "step":
            for name, part in parts.items():
                values = part.cpu() if part.device.type != "cpu" else part
                if not np.isfinite(values.float().numpy()):
                    raise NonFiniteError(self._message(name, self.handle.micro_step))
            return
        for name, part in parts.items():
            known = self._first_bad.get(name)
            if known is None:
                known = torch.full((), -1, dtype=torch.int64, device=part.device)
            now = ~torch.isfinite(part) & (known < 0)
            self._first_bad[name] = torch.where(now, self.handle.micro_step, known)

    def raise_if_nonfinite(self) -> None:
        """Read the flags kept on the device (``nan_check="log"``)."""
        if not self._first_bad:
            return
        flags, self._first_bad = self._first_bad, {}
        steps = torch.stack(list(flags.values())).tolist()
        bad = {name: step for name, step in zip(flags, steps, strict=True) if step >= 0}
        if bad:
            name = min(bad, key=lambda part: bad[part])
            raise NonFiniteError(self._message(name, bad[name]))

    def _message(self, name: str, micro_step: int) -> str:
        what = "the task loss" if name == "task" else f"the penalty of {name!r}"
        return (
            f"{what} is infinite or not a number at loss number {micro_step} (counted from 0, "
            f"after {self.handle.step} updates): lower the learning rate or the weight, or look "
            f"at this batch; {self._consequence}"
        )

    @property
    def _consequence(self) -> str:
        if self.nan_check == "step":
            return "no method's state has changed in this step"
        return 'it was noticed late: go on from an earlier checkpoint, or use nan_check="step"'
