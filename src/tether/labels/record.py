"""What training says of each sample, epoch by epoch, kept in a folder of memory-mapped columns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tether.batch import Batch
from tether.catalogue import MethodInfo
from tether.engine.state import rank
from tether.engine.taps import wide
from tether.errors import ConfigError, TetherError
from tether.files import read_json, replaced_file, write_json
from tether.method import Method
from tether.methods.targets.rows import class_indices

if TYPE_CHECKING:
    from tether.data.table import DataSource
    from tether.engine.context import Context

#: One sample in one epoch, 12 bytes: see :class:`SampleRecord`.
COLUMNS = np.dtype(
    [
        ("loss", "<f2"), ("margin", "<f2"), ("confidence", "<f2"), ("weight", "<f2"),
        ("predicted", "<u2"), ("target", "<u2"),
    ]
)  # fmt: skip
FORMAT = 1
FOLDER = "labels/record"
ABOUT, GIVEN, SUMS = "about.json", "given.npy", "sums.npy"
#: Sums of probabilities are kept while samples x classes stay below this (256 MB in float32).
MOST_SUMS = 2**26
#: Classes that fit into the 16 bits of a column.
MOST_CLASSES = 2**16 - 1
#: An entry that nothing was written to: less than any loss and margin make together, so that the
#: largest of two ranks' entries is the one that was seen; and not what a merge takes for no entry.
UNSEEN = -(2**31) + 1
#: Numbers beyond float16 are kept as its largest one.
_LARGEST = 65504.0


def class_columns(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, margin, confidence and predicted class of rows with one label each.

    With logits z, label y, p = softmax(z) and m the largest logit of another class than y::

        loss = -log p_y      margin = z_y - m      confidence = max_k p_k

    Args:
        logits: ``[N, K]``, K >= 2, float32 or wider.
        labels: class indices ``[N]`` in [0, K).

    Returns:
        Four tensors ``[N]``; the predicted classes are int64.

    Example:
        >>> z, y = torch.tensor([[2.0, 0.0]]), torch.tensor([1])
        >>> loss, margin, _, predicted = class_columns(z, y)
        >>> round(loss.item(), 4), margin.item(), predicted.item()
        (2.1269, -2.0, 0)
    """
    whole = logits.logsumexp(1)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    best, places = logits.topk(2, dim=1)
    predicted = places[:, 0]
    rival = torch.where(predicted == labels, best[:, 1], best[:, 0])
    return whole - own, own - rival, (best[:, 0] - whole).exp(), predicted


def multi_label_columns(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same of rows with several labels each: those of the label that fits worst.

    With s = +1 for labels that are given and -1 for the others, and k the label with the least
    ``s_k z_k``: ``margin = s_k z_k``, ``loss = log(1 + exp(-margin))``, ``confidence`` the
    probability of what was given for k subtracted from 1 where that is more likely, and k in
    place of the predicted class.

    Args:
        logits: ``[N, K]``.
        labels: 0/1 ``[N, K]``.

    Example:
        >>> z, y = torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 1.0]])
        >>> _, margin, _, worst = multi_label_columns(z, y)
        >>> margin.item(), worst.item()
        (-1.0, 1)
    """
    margin, worst = torch.where(labels > 0.5, logits, -logits).min(1)
    return F.softplus(-margin), margin, margin.abs().sigmoid(), worst


def packed(numbers: list[Tensor], classes: list[Tensor]) -> Tensor:
    """Columns of four numbers and two classes as int32 ``[N, 3]``: one row of ``COLUMNS``.

    Whole numbers survive the merge of ranks bit for bit, and have no NaN that differs from itself.
    """
    halves = torch.stack([n.clamp(-_LARGEST, _LARGEST).to(torch.float16) for n in numbers], 1)
    # int64 -> int16 keeps the low 16 bits, which numpy reads as an unsigned number
    places = torch.stack([c.to(torch.int16) for c in classes], 1)
    return torch.cat([halves.view(torch.int32), places.view(torch.int32)], 1)


class SampleRecord(Method):
    """Keeps what each training step says of its samples; it changes nothing in training.

    For every sample and epoch: the loss and the margin of the given label, the largest
    probability, the weight other methods gave it, the predicted class, and the class it was
    trained on where other methods had corrected the label. And for every sample the sum of its
    predicted probabilities over the epochs. All of it comes from the forward that trains, so it
    costs no forward of its own; but beside methods that mix samples it takes one more, without a
    graph, on the unmixed inputs. ``tether labels find`` ranks samples by it.

    Works in any loop, under accumulation, on several processes and with resuming, beside any
    methods: ``attach(model, [ELR(), SampleRecord("record")], ...)``. A sample that is drawn twice
    in an epoch keeps its last values. Needs one label a sample, or several (0/1).

    Files in ``folder``: ``epoch-0000.npy`` and so on (rows of ``COLUMNS``, 12 bytes a sample; a
    loss of NaN: not seen), ``given.npy`` (class indices int32, or 0/1 uint8 rows), ``sums.npy``
    (float16 means of the probabilities), ``about.json``. Each is written whole at an epoch's end,
    by the first process. 20 epochs of a million samples are 240 MB, and 20 MB for ten classes.

    Args:
        folder: where the files go; made when the first epoch ends.
        sums: keep sums of probabilities, samples x classes; left out above 2^26 numbers.
        about: more to write into ``about.json``, such as fingerprints of the data.

    State:
        ``now`` int32 ``[n, 3]`` (the present epoch), ``given`` and ``sums``; per sample.

    Raises:
        TetherError: another task than classes or labels, or more than 65535 classes.

    Example:
        >>> SampleRecord("record")
        SampleRecord()
    """

    weight = 0.0  # its penalty only looks on
    now: Tensor
    given: Tensor
    sums: Tensor

    def __init__(
        self, folder: str | os.PathLike[str], sums: bool = True,
        about: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.folder = Path(folder)
        self.with_sums = sums
        self.about = dict(about or {})

    def setup(self, ctx: Context) -> None:
        """Declare the tables, as yet without a sample."""
        samples, classes = ctx.num_samples, ctx.num_classes
        if not 2 - self._several <= classes <= MOST_CLASSES:
            raise TetherError(f"sample_record takes 2 to {MOST_CLASSES} classes, not {classes}")
        shape = (samples, classes) if self._several else (samples,)
        kind = torch.int8 if self._several else torch.int32
        self.add_state("now", self._unseen(samples).to(ctx.device), "per_sample")
        self.add_state("given", torch.full(shape, -1, dtype=kind, device=ctx.device), "per_sample")
        kept = samples if self.with_sums and samples * classes <= MOST_SUMS else 0
        self.add_state("sums", torch.zeros(kept, classes, device=ctx.device), "per_sample")

    @property
    def _several(self) -> bool:
        return self.ctx.loss_kind == "binary_cross_entropy"

    @staticmethod
    def _unseen(samples: int) -> Tensor:
        return torch.full((samples, len(COLUMNS.names or ()) // 2), UNSEEN, dtype=torch.int32)

    def epoch_start(self, epoch: int) -> None:
        """No sample of this epoch was seen yet."""
        self.now.copy_(self._unseen(len(self.now)))

    def penalty(self, batch: Batch) -> Tensor:
        """Note the batch, once its loss was found finite; gives zero."""
        with torch.no_grad():
            index, clean = batch.need_index(), self.ctx.unmixed(batch)
            logits = wide(batch.logits.detach() if clean is None else clean.logits)
            rows, given, shares = self._seen(batch, logits, mixed=clean is not None)
            if clean is not None:  # rows may have been added
                shares = shares / (index[:, None] == index[None, :]).sum(1, keepdim=True)
            # rows that do not count (label -100) keep what stood there
            if batch.mask is not None:
                rows = torch.where(batch.mask[:, None], rows, self.now[index])
                given = torch.where(batch.mask, given, self.given[index])
                shares = shares * batch.mask[:, None]

        def write() -> None:
            self.now.index_copy_(0, index, rows)
            self.given.index_copy_(0, index, given)
            if len(self.sums):
                self.sums.index_add_(0, index, shares.to(self.sums.dtype))

        self.ctx.defer(write)
        return logits.new_zeros(())

    def _seen(self, batch: Batch, logits: Tensor, *, mixed: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Packed columns, given labels and probabilities of a batch."""
        weights = batch.weights
        weight = logits.new_ones(len(logits)) if weights is None else weights.to(logits.dtype)
        if self._several:
            labels = batch.labels.reshape(logits.shape)
            numbers = multi_label_columns(logits, labels)
            worst = numbers[3]
            trained = labels if mixed else batch.targets.reshape(logits.shape)
            target = trained.gather(1, worst[:, None]).squeeze(1) > 0.5
            shares, given = logits.sigmoid(), (labels > 0.5).to(self.given.dtype)
        else:
            labels = class_indices(batch.labels).clamp(min=0)
            numbers = class_columns(logits, labels)
            target = labels if mixed else class_indices(batch.targets).clamp(min=0)
            shares, given = logits.softmax(1), labels.to(self.given.dtype)
        rows = packed([*numbers[:3], weight], [numbers[3], target.long()])
        return rows, given, shares

    def epoch_end(self, epoch: int) -> None:
        """Write the epoch's columns, and what is known of all epochs."""
        if rank():
            return
        now = self.now.cpu().numpy()
        columns = now.view(COLUMNS).reshape(-1).copy()
        nothing = now[:, 0] == UNSEEN
        columns[nothing] = np.zeros((), dtype=COLUMNS)
        columns["loss"][nothing] = np.nan
        save(self.folder / f"epoch-{epoch:04d}.npy", columns)
        save(self.folder / GIVEN, self.given.cpu().numpy())
        if len(self.sums):
            save(self.folder / SUMS, (self.sums / (epoch + 1)).half().cpu().numpy())
        about = {
            **self.about,
            "format": FORMAT,
            "task": "multi_label" if self._several else "single_label",
            "samples": len(self.now),
            "classes": self.ctx.num_classes,
            "epochs": epoch + 1,
            "sums": bool(len(self.sums)),
        }
        write_json(self.folder / ABOUT, about, sync=False)

    def __repr__(self) -> str:
        """Without the folder: a run that was moved goes on as the same recipe."""
        return "SampleRecord()"


# No entry in the register: it is no method to choose, and has nothing to be searched.
SampleRecord.info = MethodInfo(
    name="sample_record", cls=SampleRecord, kind="targets", cost="light",
    needs=("class_labels", "index", "epochs"), losses=("cross_entropy", "binary_cross_entropy"),
    takes_mixed=True,
)  # fmt: skip


def save(path: Path, values: NDArray[Any]) -> None:
    """Write an array whole or not at all; every epoch does, so none waits for the disk."""
    with replaced_file(path, sync=False) as fresh, fresh.open("wb") as file:
        np.save(file, values, allow_pickle=False)


# -- in tether tune --------------------------------------------------------------------------------


def fits(source: DataSource, loss: str) -> bool:
    """Whether a run's labels and its loss are such that a record means something."""
    kinds = {"single_label": "cross_entropy", "multi_label": "binary_cross_entropy"}
    several = source.task == "multi_label"
    enough = 2 - several <= len(source.class_names) <= MOST_CLASSES
    return kinds.get(source.task) == loss and enough


def recorder(run: Path, source: DataSource) -> SampleRecord:
    """The record of a run of ``tether tune``, in ``RUN/labels/record``."""
    about = {"fingerprints": dict(source.fingerprints), "class_names": source.class_names}
    return SampleRecord(run / FOLDER, about=about)


# -- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """A record that was read; columns stay on the disk until they are asked for.

    Attributes:
        about: ``about.json``: task, samples, classes, epochs, and what the run added.
        given: labels that were trained on, class indices ``[n]`` (-1: never seen) or 0/1
            ``[n, K]``.
        epochs: one array of ``COLUMNS`` ``[n]`` an epoch, memory-mapped.
        means: mean probabilities over the epochs ``[n, K]`` (rows that were never seen are 0), or
            None where they were not kept.
    """

    about: dict[str, Any]
    given: NDArray[Any]
    epochs: list[NDArray[Any]]
    means: NDArray[Any] | None

    def column(self, name: str) -> NDArray[Any]:
        """A column of every epoch, ``[E, n]`` float32 (classes: int32)."""
        kind = np.int32 if COLUMNS[name].kind == "u" else np.float32
        return np.stack([epoch[name].astype(kind) for epoch in self.epochs])


def read_record(folder: str | os.PathLike[str]) -> Record:
    """Read what :class:`SampleRecord` wrote.

    Raises:
        ConfigError: there is none, or files are missing or damaged.
    """
    folder = Path(folder)
    if not (folder / ABOUT).is_file():
        raise ConfigError(
            f"{folder} holds no record of samples: train with --record (the default of tether "
            "tune), or give --pred-probs FILE"
        )
    about = read_json(folder / ABOUT)
    if about.get("format") != FORMAT:
        raise ConfigError(
            f"{folder / ABOUT} has format {about.get('format')!r}, this version reads {FORMAT}"
        )
    samples, classes = int(about["samples"]), int(about["classes"])
    several = about["task"] == "multi_label"
    epochs = [
        _array(folder / f"epoch-{epoch:04d}.npy", (samples,), COLUMNS)
        for epoch in range(int(about["epochs"]))
    ]
    given = _array(folder / GIVEN, (samples, classes) if several else (samples,))
    means = _array(folder / SUMS, (samples, classes)) if about["sums"] else None
    return Record(about, np.asarray(given), epochs, means)


def _array(path: Path, shape: tuple[int, ...], dtype: Any = None) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; train the run again") from None
    if found.shape != shape or (dtype is not None and found.dtype != dtype):
        raise ConfigError(
            f"{path} holds {found.dtype} of shape {found.shape}, where {shape} belongs; train the "
            "run again"
        )
    return found
