"""One pass over the samples for each set of weights, shared by all measures; and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tether.diagnose.subject import Subject
from tether.engine.taps import find_head

#: Encoded samples are kept for later passes up to so many bytes, else encoded anew each time.
KEEP_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Outputs:
    """What a model makes of some samples.

    Attributes:
        logits: ``[N, K]``, float32, on the CPU.
        features: ``[N, d]``, the input of its head.
        labels: as they are given; None without any.
        true: the labels before synthetic noise; None where they are not known.
    """

    logits: Tensor
    features: Tensor
    labels: Tensor | None
    true: Tensor | None

    @property
    def predicted(self) -> Tensor:
        """The class with the largest output of each sample."""
        return self.logits.argmax(1)


class Budget:
    """The time that is left.

    Args:
        seconds: altogether; 0: as long as it takes.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self._began = seconds, time.perf_counter()

    @property
    def spent(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._began

    @property
    def left(self) -> float:
        """Seconds that are left; infinite without a limit."""
        return self.seconds - self.spent if self.seconds else float("inf")


class Passes:
    """Forwards over the samples of a subject, each made once and kept.

    Args:
        subject: what is diagnosed.
        batch_size: samples of a forward.
    """

    def __init__(self, subject: Subject, *, batch_size: int = 64) -> None:
        self.subject, self.batch_size = subject, batch_size
        self._kept: dict[str, list[dict[str, Any]]] = {}
        self._outputs: dict[tuple[str, bool], Outputs] = {}
        self._bytes = 0
        #: Seconds of a forward for one sample; 0 until one was made.
        self.per_sample = 0.0

    @property
    def model(self) -> nn.Module:
        """The model, which must be there."""
        assert self.subject.model is not None
        return self.subject.model

    def batches(self, split: str, most: int = 0) -> Iterator[dict[str, Any]]:
        """The encoded samples of a split: the model's inputs by name, and ``labels``.

        Args:
            split: ``"train"`` or ``"held_out"``.
            most: no more than so many samples; 0: all.
        """
        number = len(self.subject.samples[split])
        number = min(number, most) if most else number
        at = 0
        for batch in self._all(split):
            size = _length(batch)
            yield batch if at + size <= number else _first(batch, number - at)
            at += size
            if at >= number:
                return

    def _all(self, split: str) -> Iterator[dict[str, Any]]:
        if split in self._kept:
            yield from self._kept[split]
            return
        data = self.subject.samples[split]
        kept: list[dict[str, Any]] | None = []
        for start in range(0, len(data), self.batch_size):
            rows = range(start, min(start + self.batch_size, len(data)))
            batch = self.subject.collate([data[row] for row in rows])
            if kept is not None:
                self._bytes += _size(batch)
                kept = [*kept, batch] if self._bytes <= KEEP_BYTES else None
            yield batch
        if kept is not None:
            self._kept[split] = kept

    def pairs(self, split: str, most: int = 0) -> list[tuple[Any, Tensor]]:
        """The same as (inputs, labels): a tensor where the model takes a single one, else a dict.

        Made for the measures that take data as a loop does.
        """
        found = []
        for batch in self.batches(split, most):
            inputs = {name: value for name, value in batch.items() if name != "labels"}
            one = next(iter(inputs.values())) if len(inputs) == 1 else inputs
            found.append((one, batch["labels"]))
        return found

    def outputs(self, split: str, *, start: bool = False) -> Outputs:
        """Logits and features of all samples of a split.

        Args:
            split: ``"train"`` or ``"held_out"``.
            start: with the weights that the model began with.
        """
        key = split, start
        if key not in self._outputs:
            self._outputs[key] = self._run(split, start)
        return self._outputs[key]

    def _run(self, split: str, start: bool) -> Outputs:
        began, count = time.perf_counter(), 0
        call = self._call(start)
        parts: list[tuple[Tensor, Tensor]] = []
        with torch.inference_mode():
            for batch in self.batches(split):
                inputs = {name: value for name, value in batch.items() if name != "labels"}
                parts.append(call(inputs))
                count += _length(batch)
        if not self.per_sample:
            self.per_sample = (time.perf_counter() - began) / max(count, 1)
        table = self.subject.samples[split].table
        logits = torch.cat([logits for logits, _ in parts]).float()
        return Outputs(
            logits.reshape(len(logits), -1),
            torch.cat([features for _, features in parts]).float().flatten(1),
            None if table.labels is None else torch.as_tensor(table.labels),
            None if table.true_labels is None else torch.as_tensor(table.true_labels),
        )

    def _call(self, start: bool) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]:
        """Inputs -> logits and the input of the head."""
        model, reference = self.model, self.subject.reference
        _, head = find_head(model, self.subject.head, None)

        def call(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            seen: list[Tensor] = []
            hook = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
            try:
                if start:
                    assert reference is not None
                    out = functional_call(model, reference, args=(), kwargs=inputs)
                else:
                    out = model(**inputs)
            finally:
                hook.remove()
            return getattr(out, "logits", out), seen[-1]

        return call


def _length(batch: dict[str, Any]) -> int:
    return len(next(value for value in batch.values() if isinstance(value, Tensor)))


def _first(batch: dict[str, Any], number: int) -> dict[str, Any]:
    return {name: value[:number] for name, value in batch.items()}


def _size(batch: dict[str, Any]) -> int:
    return sum(v.numel() * v.element_size() for v in batch.values() if isinstance(v, Tensor))
