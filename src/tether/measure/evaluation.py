"""One pass of a model over data, and sums over samples: what the measures share."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tether.engine.taps import Taps, as_logits, find_head, wide, width
from tether.errors import ConfigError, TetherError
from tether.losses import IGNORE, LossLike, TaskLoss
from tether.measure.batches import Batches, Inputs, batches_of
from tether.measure.results import Record
from tether.measure.weights import device_of, named_weights, undisturbed

# -- sums over samples -----------------------------------------------------------------------------


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    """The logits of a batch, float32 or wider, from plain outputs and those of transformers.

    Args:
        model: as it is: its mode and gradients are the caller's.
        inputs: a batch.
    """
    return wide(as_logits(model(*inputs.args, **inputs.kwargs)))


def sample_errors(logits: Tensor, targets: Tensor) -> Tensor:
    """Error of each sample in [0, 1], float64 ``[N]``; 0 for rows that do not count.

    Class indices, or class probabilities whose rows sum to one: 1 where the largest logit is not
    the label's. A 0/1 matrix of several labels: the share of wrong ones. Tokens: the share of
    wrong ones among those that count.

    Args:
        logits: ``[N, K]``, ``[N, T, K]``, or ``[N]`` for one yes or no.
        targets: class indices ``[N]`` or ``[N, T]``, or numbers of the logits' shape.

    Raises:
        ConfigError: targets that are no classes.

    Example:
        >>> sample_errors(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 1])).tolist()
        [1.0, 0.0]
    """
    if targets.is_floating_point():
        if targets.shape != logits.shape or not bool(((targets >= 0) & (targets <= 1)).all()):
            raise ConfigError(
                "the error counts wrong classes: targets must be class indices or lie in [0, 1]"
            )
        if logits.ndim == 2 and logits.shape[1] > 1:
            sums = targets.sum(1)
            if bool(torch.isclose(sums, torch.ones_like(sums)).all()):
                return (logits.argmax(1) != targets.argmax(1)).double()
        wrong = (logits > 0) != (targets > 0.5)
        return wrong.flatten(1).double().mean(1) if wrong.ndim > 1 else wrong.double()
    wrong = (logits.argmax(-1) != targets) & (targets != IGNORE)
    if wrong.ndim == 1:
        return wrong.double()
    return wrong.sum(1).double() / (targets != IGNORE).sum(1).clamp(min=1)


class Evaluation:
    """Data read once, and means of a model's loss and error over the samples that count.

    Means are sums over samples divided by their number, never means of batch means. The samples
    stay on the model's device, so that all draws of a measure see the same.

    Args:
        model: the inner model, inside :func:`tether.measure.weights.undisturbed`.
        data: as :data:`Batches`.
        loss: as in :class:`tether.losses.TaskLoss`.
        max_samples: read so many; None reads all.

    Attributes:
        count: samples that count.
        base: mean loss of the model as it is.
        largest: largest loss of a sample.
        outputs: size of the last dimension of the logits (1 for ``[N]``).

    Raises:
        ConfigError: no samples, or targets that do not fit.
        TetherError: the loss of the model is not finite.
    """

    def __init__(
        self, model: nn.Module, data: Batches, *, loss: LossLike, max_samples: int | None = None
    ) -> None:
        self.model, self.task = model, TaskLoss(loss)
        self.batches: list[Inputs] = []
        self.counts: list[int] = []
        self._masks: list[Tensor | None] = []
        self.outputs = 1
        total, self.largest = 0.0, 0.0
        with torch.no_grad():
            for inputs in batches_of(model, data, max_samples=max_samples):
                logits = forward(model, inputs)
                inputs = inputs._replace(targets=self.task.check(logits, inputs.targets))
                losses = self.task.per_sample(logits, inputs.targets).double()
                self.batches.append(inputs)
                self.counts.append(count_rows(self.task, inputs.targets))
                self._masks.append(self.task.row_mask(inputs.targets))
                self.outputs = _outputs(logits)
                total += float(losses.sum())
                self.largest = max(self.largest, float(losses.max()))
        self.count = sum(self.counts)
        if not self.count:
            raise ConfigError("the data hold no sample with a label: there is nothing to measure")
        self.base = total / self.count
        if not float("-inf") < self.base < float("inf"):
            raise TetherError(
                "the loss of the model is infinite or not a number on these data, before any "
                "change of its weights: look at the inputs, or measure an earlier checkpoint"
            )

    @torch.no_grad()
    def loss(self) -> float:
        """Mean loss of the model as it is now; it may be infinite or NaN."""
        total = torch.zeros((), dtype=torch.float64, device=device_of(self.model))
        for inputs in self.batches:
            logits = forward(self.model, inputs)
            total += self.task.per_sample(logits, inputs.targets).sum(dtype=torch.float64)
        return float(total) / self.count

    @torch.no_grad()
    def errors(self, place: int) -> Tensor:
        """Sum of the errors in one batch, 0-dim float64 on the device; NaN outputs are wrong.

        Args:
            place: which batch.
        """
        inputs = self.batches[place]
        logits = forward(self.model, inputs)
        errors = sample_errors(logits, inputs.targets)
        size = logits.flatten(1).sum(1) if logits.ndim > 1 else logits
        errors = torch.where(torch.isfinite(size), errors, 1.0)
        mask = self._masks[place]
        return (errors if mask is None else errors * mask).sum()


def _outputs(logits: Tensor) -> int:
    return int(logits.shape[-1]) if logits.ndim > 1 else 1


def count_rows(task: TaskLoss, targets: Tensor) -> int:
    """Samples of a batch that count.

    Args:
        task: the loss.
        targets: checked ones.
    """
    mask = task.row_mask(targets)
    return int(targets.shape[0]) if mask is None else int(mask.sum())


# -- one pass --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Collected(Record):
    """What one pass over the data gave, row by row, on the CPU.

    Attributes:
        logits: ``[n, K]``, float32 or wider.
        features: what the head saw, ``[n, d]``; None where they were not asked for.
        labels: targets as they were given: ``[n]``, or ``[n, K]``.
        losses: one a sample, ``[n]``.
        rows: place of each sample in the data, int64 ``[n]``; rows without a label are left out.
        complete: whether all data were seen; False where a limit ended the pass.
        seconds: how long it took.
    """

    logits: Tensor
    features: Tensor | None
    labels: Tensor
    losses: Tensor
    rows: Tensor
    complete: bool
    seconds: float


def collect(
    model: nn.Module,
    data: Batches,
    *,
    features: bool = True,
    loss: LossLike = "cross_entropy",
    head: str | None = None,
    max_samples: int | None = None,
    max_seconds: float | None = None,
) -> Collected:
    """Logits, features, labels and losses of all samples, from one forward for all measures.

    In evaluation mode, without gradients; model and random numbers are as before afterwards.

    Args:
        model: any module; wrappers of DDP and ``torch.compile`` are looked through.
        data: batches, a loader (read in row order) or a data set.
        features: whether to keep what the head sees.
        loss: as in :class:`tether.losses.TaskLoss`.
        head: dotted name of the last linear layer; None: found by itself.
        max_samples: see so many, from 1; None sees all.
        max_seconds: begin no further batch after so long, above 0; None has no limit.

    Shape:
        n samples, K outputs, d features.

    Cost:
        One forward a sample; logits and features of all samples in memory.

    Raises:
        ConfigError: no samples, a limit that is none, or targets that do not fit.
        TetherError: no head, or one that sees a row for each token and not for each sample.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> found = collect(net, [(torch.ones(4, 2), torch.zeros(4, dtype=torch.long))])
        >>> found.logits.shape, found.features.shape, found.losses.shape
        (torch.Size([4, 2]), torch.Size([4, 3]), torch.Size([4]))
    """
    if max_seconds is not None and not max_seconds > 0:
        raise ConfigError(f"max_seconds must be above 0, got {max_seconds}")
    if max_samples is not None and max_samples < 1:
        raise ConfigError(f"max_samples must be at least 1, got {max_samples}")
    began = time.perf_counter()
    with undisturbed(model) as inner, torch.no_grad():
        named_weights(inner, precise=False)
        reader = _Reader(inner, TaskLoss(loss), head, features)
        limit = None if max_samples is None else max_samples + 1  # one more tells of more data
        complete = True
        try:
            for inputs in batches_of(inner, data, max_samples=limit):
                late = max_seconds is not None and time.perf_counter() - began > max_seconds
                full = max_samples is not None and reader.seen >= max_samples
                if (late and reader.seen) or full:
                    complete = False
                    break
                if max_samples is not None and reader.seen + inputs.rows > max_samples:
                    complete = False
                    inputs = inputs.part(0, max_samples - reader.seen)
                reader.read(inputs)
        finally:
            reader.close()
        return reader.result(complete, began)


class _Reader:
    """Gathers what a pass gives."""

    def __init__(self, model: nn.Module, task: TaskLoss, head: str | None, features: bool) -> None:
        self.model, self.task, self.head, self.features = model, task, head, features
        self.seen = 0
        self.parts: dict[str, list[Tensor]] = {}
        self.taps: Taps | None = self._tap(None) if features else None

    def _tap(self, outputs: int | None) -> Taps:
        taps = Taps(self.model, *find_head(self.model, self.head, outputs))
        taps.tap_features()
        taps.listening = True
        return taps

    def read(self, inputs: Inputs) -> None:
        logits = forward(self.model, inputs)
        if self.taps is not None and not self._makes(self.taps, logits):
            if not self.seen and self.head is None:  # the number of classes tells the head
                self.taps.remove()
                self.taps = self._tap(_outputs(logits))
                logits = forward(self.model, inputs)
            if not self._makes(self.taps, logits):
                raise TetherError(
                    f"the head {self.taps.head_name!r} does not make the {_outputs(logits)} "
                    'outputs of the model: name the last linear layer with head="..."'
                )
        targets = self.task.check(logits, inputs.targets)
        found = {
            "logits": logits,
            "labels": targets,
            "losses": self.task.per_sample(logits, targets),
            "rows": torch.arange(self.seen, self.seen + inputs.rows),
        }
        if self.taps is not None:
            found["features"] = self._features(self.taps, targets)
        self.seen += inputs.rows
        mask = self.task.row_mask(targets)
        for name, values in found.items():
            kept = values.cpu() if mask is None else values.cpu()[mask.cpu()]
            self.parts.setdefault(name, []).append(kept)

    @staticmethod
    def _makes(taps: Taps, logits: Tensor) -> bool:
        assert taps.head is not None
        return width(taps.head, "out") in (None, _outputs(logits))

    def _features(self, taps: Taps, targets: Tensor) -> Tensor:
        if "features" not in taps.store:
            raise TetherError(
                f"the head {taps.head_name!r} was not called in the model's forward: name the "
                'last linear layer with head="..."'
            )
        raw: Tensor = taps.store.pop("features")
        features = taps.pool(raw, self.task.valid_tokens(targets), "mean")
        if features.shape[0] != targets.shape[0]:
            raise TetherError(
                f"the head {taps.head_name!r} saw {features.shape[0]} rows for "
                f'{targets.shape[0]} samples: name another layer with head="..."'
            )
        return features

    def close(self) -> None:
        if self.taps is not None:
            self.taps.remove()

    def result(self, complete: bool, began: float) -> Collected:
        if not self.parts or not sum(len(part) for part in self.parts["rows"]):
            raise ConfigError("the data hold no sample with a label: there is nothing to measure")
        try:
            whole = {name: torch.cat(parts) for name, parts in self.parts.items()}
        except RuntimeError:
            shapes = sorted({tuple(part.shape[1:]) for part in self.parts["logits"]})
            raise ConfigError(
                f"the logits of the batches differ in shape ({shapes[0]} and {shapes[-1]}): pad "
                "all batches to one length"
            ) from None
        return Collected(
            whole["logits"], whole.get("features"), whole["labels"], whole["losses"],
            whole["rows"], complete, time.perf_counter() - began,
        )  # fmt: skip
