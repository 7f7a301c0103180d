"""``batches()``: which rows a batch holds, epochs, and resuming in the middle of one."""

from __future__ import annotations

import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from tether.engine.state import distributed, random_state, set_random_state
from tether.errors import TetherError

LABEL_KEYS = ("labels", "label", "targets", "target", "y")


def to_device(value: Any, device: torch.device | str | None) -> Any:
    """Tensors inside tuples, lists and dicts, moved."""
    if device is None:
        return value
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(part, device) for part in value))
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(part, device) for part in value)
    if hasattr(value, "items"):
        moved = {key: to_device(part, device) for key, part in value.items()}
        return type(value)(moved) if isinstance(value, dict) else moved
    return value


def split_batch(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Arguments, keyword arguments and targets of a batch.

    ``(x, y)`` and ``(x1, x2, y)``: the last part is the targets; a dict: the key ``labels``,
    ``label``, ``targets``, ``target`` or ``y``.

    Raises:
        TetherError: the batch has another form.
    """
    if hasattr(batch, "items"):
        kwargs = dict(batch.items())
        for key in LABEL_KEYS:
            if key in kwargs:
                targets = kwargs.pop(key)
                return (), kwargs, targets
        raise TetherError(f"a dict batch needs one of the keys {', '.join(LABEL_KEYS)}")
    if isinstance(batch, (list, tuple)) and len(batch) >= 2:
        return tuple(batch[:-1]), {}, batch[-1]
    raise TetherError(f"a batch is (inputs, targets) or a dict, not {type(batch).__name__}")


class Tape:
    """A sampler that notes what it hands out, and can skip what was seen before a break."""

    def __init__(
        self, attribute: str, inner: Any, rows: deque[Any], skip: int, caught_up: Callable[[], None]
    ) -> None:
        self.attribute, self.inner = attribute, inner
        self.rows, self.skip, self.caught_up = rows, skip, caught_up

    def __len__(self) -> int:
        return len(self.inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["inner"], name)

    def __iter__(self) -> Iterator[Any]:
        # skip and deque belong to the pass that starts here, not to a later one
        skip, self.skip = self.skip, 0
        source = iter(self.inner)
        for _ in range(skip):
            next(source, None)
        self.caught_up()
        for rows in source:
            self.rows.append(rows)
            yield rows


def _shallow(loader: Any) -> Any:
    """A copy that shares everything with the loader, and the loader inside accelerate's."""
    clone = object.__new__(type(loader))
    clone.__dict__.update(loader.__dict__)
    if "_iterator" in clone.__dict__:  # persistent workers of the loader draw from its own sampler
        clone.__dict__["_iterator"] = None
    if "base_dataloader" in clone.__dict__:
        clone.__dict__["base_dataloader"] = _shallow(clone.__dict__["base_dataloader"])
    return clone


def iterating(loader: Any) -> Any:
    """The loader that draws the batches: the one inside accelerate's, or itself."""
    return loader.__dict__.get("base_dataloader", loader)


def taped_copy(
    loader: Any, rows: deque[Any], skip: int, caught_up: Callable[[], None]
) -> tuple[Any, Tape]:
    """A shallow copy of a loader whose batch sampler notes its rows; the loader stays as it is."""
    clone = _shallow(loader)
    inner = iterating(clone)
    tape = Tape(*_index_sampler(inner), rows, skip, caught_up)
    inner.__dict__[tape.attribute] = tape  # set past DataLoader's guard against late changes
    return clone, tape


def _index_sampler(inner: Any) -> tuple[str, Any]:
    attribute = "batch_sampler" if inner.batch_sampler is not None else "sampler"
    return attribute, getattr(inner, attribute)


class BatchStream:
    """Epochs and rows of a training run.

    Args:
        device: where rows are wanted.
        start: called with the epoch's number before its first batch.
        end: called with the epoch's number after its last batch.
    """

    def __init__(
        self, device: torch.device, start: Callable[[int], None], end: Callable[[int], None]
    ) -> None:
        self.device = device
        self._start, self._end = start, end
        self.epoch = 0
        self.open = False
        self.batches_done = 0
        self.batches_used = 0
        self.length: int | None = None
        self.rows: Tensor | None = None
        self._pass = 0
        self._loader: weakref.ref[Any] | None = None
        #: A pass ended by ``break``: the next one is a new epoch, also after a resume.
        self._broken_off = False
        #: A state was loaded in the middle of an epoch that is counted by hand.
        self._reopened = False
        self._epoch_random: dict[str, Any] | None = None
        self._resume_random: dict[str, Any] | None = None
        self._resume_generators: dict[str, Tensor] = {}
        self._taped: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    # -- epochs ----------------------------------------------------------------------------------

    def start_epoch(self, epoch: int | None = None) -> None:
        if self._reopened and epoch in (None, self.epoch):
            self._reopened = False
            return
        if self.open:
            self.end_epoch()
        if epoch is not None:
            self.epoch = epoch
        self.open = True
        self._start(self.epoch)

    def end_epoch(self) -> None:
        if not self.open:
            return
        self.open = self._broken_off = self._reopened = False
        self.rows = None
        self.batches_done = self.batches_used = 0
        self._epoch_random = None
        self._end(self.epoch)
        self.epoch += 1

    @property
    def position(self) -> float:
        """Epochs done, a fraction where the loader's length is known.

        Counted in batches of finished updates, so that all micro-batches of one update stand at
        the same place.
        """
        share = self.batches_used / self.length if self.length and self.open else 0.0
        return self.epoch + share

    def updated(self) -> None:
        """An update was made of the batches so far."""
        self.batches_used = self.batches_done

    # -- batches ---------------------------------------------------------------------------------

    def iterate(
        self, loader: Iterable[Any], device: torch.device | str | None, need_rows: bool,
        num_samples: int | None,
    ) -> Iterator[Any]:  # fmt: skip
        """Yield the loader's batches; ``self.rows`` holds the rows of the last one."""
        if need_rows:
            check_rows(loader, num_samples)
        resume, skip = self._resume_random, self.batches_done
        self._resume_random, self._reopened = None, False
        self._pass += 1
        own_pass = self._pass
        if isinstance(loader, DataLoader):
            self._loader = weakref.ref(loader)
        if resume is None:
            self.start_epoch()
            skip = 0
            self._set_generators(loader, self._resume_generators)
            self._epoch_random = self._random(loader)
        elif self._epoch_random is not None:
            self.open = True
            set_random_state(self._epoch_random["global"], self.device)
            self._set_generators(loader, self._epoch_random["generators"])
            if getattr(loader, "num_workers", 0) and skip:
                warnings.warn(
                    "resuming in the middle of an epoch with workers: the order of the samples is "
                    "as it was, but random transforms inside workers draw other numbers",
                    stacklevel=3,
                )
        self._resume_generators = {}
        self.batches_done = skip
        self.length = _length(loader)

        def caught_up() -> None:
            if resume is not None:
                set_random_state(resume, self.device)

        rows: deque[Any] = deque()
        known = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
        if known:
            source = iter(self._tape(loader, rows, skip, caught_up))
        else:
            source = iter(loader)
            for _ in range(skip):
                next(source, None)
            caught_up()
        try:
            for batch in source:
                # counted before it is handed out: a state saved in the loop's body is after it
                self.batches_done += 1
                self.rows = None
                if known:
                    taken = rows.popleft()
                    taken = taken if isinstance(taken, (list, tuple, Tensor)) else [taken]
                    self.rows = torch.as_tensor(taken, dtype=torch.int64).to(self.device)
                yield to_device(batch, device)
                if own_pass != self._pass:
                    raise TetherError(
                        "another batches() was begun inside this one: one loader at a time tells "
                        "its rows and epochs; iterate the second loader itself"
                    )
        except GeneratorExit:  # a break, or the loop's variable is gone
            if own_pass == self._pass:
                self.rows, self._broken_off = None, True
            raise
        self.end_epoch()

    def _tape(self, loader: Any, rows: deque[Any], skip: int, caught_up: Callable[[], None]) -> Any:
        """A taped copy, kept so that persistent workers live through the epochs."""
        kept = self._taped.get(loader)
        if kept is None:
            kept = self._taped[loader] = taped_copy(loader, rows, skip, caught_up)
        else:
            tape = kept[1]
            tape.inner = _index_sampler(iterating(loader))[1]
            tape.rows, tape.skip, tape.caught_up = rows, skip, caught_up
        clone = kept[0]
        if iterating(clone) is not clone:  # accelerate's own count begins anew after a resume
            clone.set_epoch(self.epoch)
        return clone

    # -- random numbers and state ----------------------------------------------------------------

    @staticmethod
    def _generators(loader: Any) -> dict[str, torch.Generator]:
        found = {}
        samplers = {
            "loader": loader,
            "sampler": getattr(loader, "sampler", None),
            "batch_sampler": getattr(loader, "batch_sampler", None),
        }
        for name, owner in samplers.items():
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                found[name] = generator
        return found

    def _generator_states(self, loader: Any) -> dict[str, Tensor]:
        return {name: g.get_state() for name, g in self._generators(loader).items()}

    def _set_generators(self, loader: Any, states: dict[str, Tensor]) -> None:
        for name, generator in self._generators(loader).items():
            if name in states:
                generator.set_state(states[name].cpu())

    def _random(self, loader: Any) -> dict[str, Any]:
        return {"global": random_state(self.device), "generators": self._generator_states(loader)}

    def state_dict(self) -> dict[str, Any]:
        loader = None if self._loader is None else self._loader()
        return {
            "epoch": self.epoch,
            "open": self.open,
            "broken_off": self._broken_off,
            "batches_done": self.batches_done,
            "batches_used": self.batches_used,
            "epoch_random": self._epoch_random,
            "random": random_state(self.device),
            "generators": self._generator_states(loader),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = int(state["epoch"])
        self.open = bool(state["open"])
        self.batches_done = int(state["batches_done"])
        self.batches_used = int(state["batches_used"])
        self._epoch_random = state["epoch_random"]
        self._broken_off = bool(state["broken_off"])
        go_on = self.open and not self._broken_off
        self._resume_random = state["random"] if go_on and self._epoch_random else None
        self._resume_generators = state["generators"]
        self._reopened = go_on and not self._epoch_random
        set_random_state(state["random"], self.device)


def _length(loader: Iterable[Any]) -> int | None:
    """Batches of a loader, where it can tell."""
    try:
        return len(loader) if isinstance(loader, Sized) else None
    except TypeError:  # a DataLoader over iterable data has __len__ and raises
        return None


def check_rows(loader: Any, num_samples: int | None) -> None:
    """Methods that keep a table of samples need rows, of the data set they were sized for."""
    dataset = getattr(loader, "dataset", None)
    if dataset is None or not isinstance(loader, DataLoader):
        raise TetherError(
            "a method keeps a table of samples: give batches() a torch DataLoader, or pass "
            "index= (rows of the data set) to loss()"
        )
    if isinstance(dataset, IterableDataset):
        raise TetherError(
            "a method keeps a table of samples, but iterable data have no rows: use a map-style "
            "data set, or pass index= to loss()"
        )
    if distributed() and hasattr(loader, "slice_fn"):
        raise TetherError(
            "a method keeps a table of samples, but this loader reads the batches on one process "
            "for all: prepare it with dispatch_batches=False"
        )
    if loader.num_workers and not getattr(loader, "in_order", True):
        raise TetherError("in_order=False loses which rows a batch holds: leave it True")
    if num_samples is not None and len(dataset) != num_samples:
        raise TetherError(
            f"the loader's data set has {len(dataset)} samples, train_data has {num_samples}: the "
            "tables of samples would not match; give attach the data set that the loader draws from"
        )
