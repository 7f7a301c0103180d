"""Small tasks, networks and training runs, chosen by the record of a method."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import tether
from tether.catalogue import MethodInfo
from tether.engine.checks import batch_entries
from tether.engine.order import arrange
from tether.errors import TetherError
from tether.losses import IGNORE, KINDS
from tether.method import Method

from .files import FILES

#: Every loss, place and order in every check; without it, what CI has time for.
LONG = bool(os.environ.get("TETHER_LONG"))
CLASSES, TOKENS, WORDS, WIDTH = 4, 5, 11, 10
PREFERRED = ("cross_entropy", "token_cross_entropy", "binary_cross_entropy", "mse", "l1")


class NotApplicable(Exception):
    """A check that says nothing about this method; the text is the reason."""


# -- tasks ---------------------------------------------------------------------------------------


def make_data(kind: str, rows: int) -> TensorDataset:
    """Inputs that tell their targets, with noise."""
    draw = torch.Generator().manual_seed(5)
    classes = torch.arange(rows) % CLASSES
    classes = classes[torch.randperm(rows, generator=draw)]
    if kind == "token_cross_entropy":
        words = torch.randint(WORDS, (rows, TOKENS), generator=draw)
        targets = words % CLASSES
        # as many tokens count in every row, so that a mean of means is the mean
        hidden = torch.randint(TOKENS, (rows, 1), generator=draw)
        return TensorDataset(words, targets.scatter(1, hidden, IGNORE))
    patterns = torch.randn(CLASSES, 3, 6, 6, generator=draw)
    images = patterns[classes] + 0.7 * torch.randn(rows, 3, 6, 6, generator=draw)
    if kind == "cross_entropy":
        return TensorDataset(images, classes)
    if kind == "binary_cross_entropy":
        further = torch.rand(rows, CLASSES, generator=draw) < 0.2
        return TensorDataset(images, (F.one_hot(classes, CLASSES).bool() | further).float())
    return TensorDataset(images, classes - 1.5 + 0.3 * torch.randn(rows, generator=draw))


def make_network(kind: str, dropout: float) -> nn.Sequential:
    """The same weights in every call: stem, two stages, dropout, head."""
    outputs = 1 if kind in ("mse", "l1") else CLASSES
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if kind == "token_cross_entropy":
            stem: nn.Module = nn.Embedding(WORDS, 8)
            first = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU())
            second = nn.Sequential(nn.Linear(8, WIDTH), nn.ReLU())
        else:
            stem = nn.Conv2d(3, 6, 3, padding=1)
            first = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
            second = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, WIDTH), nn.ReLU()
            )
        last = (nn.Dropout(dropout), nn.Linear(WIDTH, outputs))
    names = ("stem", "layer1", "layer2", "drop", "head")
    return nn.Sequential(OrderedDict(zip(names, (stem, first, second, *last), strict=True)))


def make_source_head() -> nn.Linear:
    """The head that the pretrained network came with; the same weights in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Linear(WIDTH, 7)


def plain_loss(kind: str, logits: Tensor, targets: Tensor) -> Tensor:
    """The task loss as a loop without tether writes it."""
    if kind == "cross_entropy":
        return F.cross_entropy(logits, targets)
    if kind == "token_cross_entropy":
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    if kind == "binary_cross_entropy":
        return F.binary_cross_entropy_with_logits(logits, targets)
    return {"mse": F.mse_loss, "l1": F.l1_loss}[kind](logits, targets.view_as(logits))


def count_items(kind: str, targets: Tensor) -> int:
    """Samples, or tokens that count."""
    tokens = kind == "token_cross_entropy"
    return int((targets != IGNORE).sum()) if tokens else len(targets)


def make_entries(wanted: Iterable[str], x: Tensor, views: int) -> dict[str, Any]:
    """What a data layer adds to a batch; it follows from the rows, also when a batch is split."""
    first = x.flatten(1)[:, 0]
    found = {
        "views": [x.flip(-1) if at % 2 else x.roll(at, -1) for at in range(1, views)],
        "domains": (first > (WORDS // 2 if x.dtype is torch.int64 else 0)).long(),
        "unlabelled": x.flip(-1),
        "unlabelled_views": [x.flip(-1).roll(at, -1) for at in range(1, views)],
        "pairs": {"chosen": x, "rejected": x.flip(-1)},
    }
    return {name: found[name] for name in wanted}


class Shares:
    """A batch sampler: batches in a new order in every epoch, each rank its share of each."""

    def __init__(self, rows: int, size: int, rank: int = 0, world: int = 1, epoch: int = 0) -> None:
        self.rows, self.size, self.rank, self.world, self.epoch = rows, size, rank, world, epoch

    def __len__(self) -> int:
        return self.rows // self.size

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.epoch))
        self.epoch += 1
        for at in range(len(self)):
            yield order[at * self.size : (at + 1) * self.size][self.rank :: self.world].tolist()


# -- a method and its options --------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A method on a task."""

    info: MethodInfo
    kind: str

    @property
    def example(self) -> dict[str, Any]:
        """The options of the record's example; files that it names are there."""
        files = FILES.get(self.info.name)
        return {**self.info.example, **(files(make_network, self.kind) if files else {})}

    def method(self, **options: Any) -> Method:
        """The method under the options of its example."""
        return self.info.cls(**{**self.example, **options})

    def neutral(self) -> Method:
        """The method under its neutral options; of the example only what has no default."""
        if not self.info.neutral:
            raise NotApplicable("the record declares no neutral options")
        required = {
            name: self.example[name]
            for name, parameter in self.info.options.items()
            if parameter.default is parameter.empty and name not in self.info.neutral
        }
        return self.info.cls(**required, **self.info.neutral)

    def noiseless(self) -> Method:
        """A method that draws nothing which reaches the weights: itself, or under neutral options.

        Where a batch and its parts must come to the same.
        """
        if self.info.batch_statistics:
            raise NotApplicable("normalises over the batch: parts of a batch pool differently")
        return self.neutral() if self.info.stochastic else self.method()


def kinds_of(info: MethodInfo) -> list[str]:
    """Kinds of loss that the record promises, the most telling one first."""
    found = [k for k in PREFERRED if not info.losses or k in info.losses]
    if "features" in info.needs and info.pooling is None:
        found = [k for k in found if k != "token_cross_entropy"]
    if "class_labels" in info.needs and not info.losses:
        found = [k for k in found if k not in ("mse", "l1")]
    return found


def refused_kinds(info: MethodInfo) -> list[str]:
    """Kinds of loss that the engine must refuse for this record."""
    tokens = "features" in info.needs and info.pooling is None
    return [
        kind
        for kind in KINDS
        if (info.losses and kind not in info.losses) or (tokens and kind == "token_cross_entropy")
    ]


def names_of(method: Method) -> str:
    """A pattern of what an error may call it: its name, or that of a part of a bundle."""
    return "|".join({method.info.name, *(part.info.name for part in method.expand())})


def cases(info: MethodInfo) -> list[Case]:
    found = [Case(info, kind) for kind in kinds_of(info)]
    if not found:
        raise NotApplicable(f"none of the losses {', '.join(PREFERRED)} is in its record")
    return found


def some(info: MethodInfo) -> list[Case]:
    """The most telling loss and one other, which depends on the name; all with TETHER_LONG."""
    found = cases(info)
    if LONG or len(found) < 3:
        return found
    return [found[0], found[1 + crc32(info.name.encode()) % (len(found) - 1)]]


# -- a training run ------------------------------------------------------------------------------


class Run:
    """A model, an optimiser and a handle, made afresh; and the plainest loops over them.

    Args:
        case: names the task.
        methods: what is attached; None: the case's method under its example options.
        rows: size of the training set.
        size: of a batch.
        still: no dropout, frozen batch norms, no shuffling: rows do not see each other.
        fused: a fused optimiser.
        wrap: model -> the model that is trained (DDP, fully_shard, compile).
        batches: a batch sampler in place of a shuffled loader.
        attach: further arguments of ``tether.attach``; None removes one.
    """

    def __init__(
        self, case: Case, methods: Sequence[Method] | Method | None = None, *, epochs: int = 3,
        rows: int = 26, size: int = 8, still: bool = False, fused: bool = False,
        wrap: Callable[[nn.Module], nn.Module] | None = None, batches: Any = None,
        drop_last: bool = False, bind_later: bool = False, **attach: Any,
    ) -> None:  # fmt: skip
        self.case, self.epochs, self.still = case, epochs, still
        given = case.method() if methods is None else methods
        self.methods = [given] if isinstance(given, Method) else list(given)
        self.data = make_data(case.kind, rows)
        model = make_network(case.kind, 0.0 if still else 0.2)
        if self.prepares():
            tether.prepare(model, self.methods)
        self.model = wrap(model) if wrap is not None else model
        self.optimizer = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=0.05, momentum=0.9, fused=fused,
        )  # fmt: skip
        self.arguments = {
            "train_data": self.data,
            "valid_data": make_data(case.kind, 8),
            "source_head": make_source_head(),
            "epochs": epochs,
            "loss": case.kind,
        } | attach
        # as a forward of a real loop does, after everything was made
        torch.manual_seed(7)
        if bind_later:
            self.reg = tether.attach(self.model, self.methods, **self.arguments)
            self.reg.bind(self.optimizer)
        else:
            self.reg = tether.attach(self.model, self.methods, self.optimizer, **self.arguments)
        if batches is not None:
            self.loader = DataLoader(self.data, batch_sampler=batches)
        else:
            self.loader = DataLoader(
                self.data, batch_size=size, shuffle=not still, drop_last=drop_last
            )
        self.micro = 0

    def prepares(self) -> bool:
        parts = arrange(self.methods).values()
        return any(type(m).prepare is not Method.prepare for m in parts)

    def entries(self, x: Tensor) -> dict[str, Any]:
        """What the methods ask for with a batch."""
        wanted = batch_entries(self.reg.methods)
        return make_entries(
            wanted, x, max((m.info.views for m in self.reg.methods.values()), default=2)
        )

    def train_mode(self) -> None:
        self.model.train()
        for module in self.model.modules() if self.still else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def backward(
        self, x: Tensor, y: Tensor, *, half: torch.dtype | None = None, scaler: Any = None,
        share: float = 1.0, **loss: Any,
    ) -> Tensor:  # fmt: skip
        with torch.autocast("cpu", half, enabled=half is not None):
            logits = self.model(x)
        total = self.reg.loss(logits, y, **{**self.entries(x), **loss})
        scaled = total * share if share != 1.0 else total
        (scaled if scaler is None else scaler.scale(scaled)).backward()
        return total.detach()

    def update(self, scaler: Any = None) -> None:
        if scaler is None:
            self.optimizer.step()
        else:
            scaler.step(self.optimizer)
            scaler.update()
        self.optimizer.zero_grad()

    def train(
        self, *, accumulate: int = 1, after: Callable[[Run, str], None] | None = None,
        half: torch.dtype | None = None, scaler: Any = None,
    ) -> Run:  # fmt: skip
        """To the end of training; ``after`` is called after every micro-step and every epoch."""
        for _ in range(self.reg.epoch, self.epochs):
            self.train_mode()
            for x, y in self.reg.batches(self.loader):
                self.backward(x, y, half=half, scaler=scaler, share=1.0 / accumulate)
                self.micro += 1
                if self.micro % accumulate == 0:
                    self.update(scaler)
                if after is not None:
                    after(self, "step")
            if after is not None:
                after(self, "epoch")
        return self

    def weights(self) -> dict[str, Tensor]:
        return {n: p.detach().clone() for n, p in self.reg.inner.named_parameters()}

    def states(self, *syncs: str) -> dict[str, Any]:
        """Declared state of the methods, and their modules."""
        whole = self.reg.state_dict()
        kept = {
            name: {
                key: value
                for key, value in whole["methods"][name].items()
                if not syncs or method.declared_state()[key] in syncs
            }
            for name, method in self.reg.methods.items()
        }
        modules = {
            name: (item["module"], item["optimizer"] and item["optimizer"]["state"])
            for name, item in whole["auxiliaries"].items()
        }
        return {"methods": kept, "modules": modules}


def train_plain(kind: str, *, epochs: int = 3, rows: int = 26) -> dict[str, Tensor]:
    """The run of ``Run`` in a loop that knows nothing of tether; its state dict."""
    model = make_network(kind, 0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader(make_data(kind, rows), batch_size=8, shuffle=True)
    torch.manual_seed(7)
    for _ in range(epochs):
        model.train()
        for x, y in loader:
            plain_loss(kind, model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.state_dict()


# -- comparisons ---------------------------------------------------------------------------------


def compare(found: Any, wanted: Any, tolerance: float = 0.0, path: str = "") -> None:
    """Equal trees of tensors, numbers and texts; tensors within a tolerance."""
    if isinstance(wanted, Tensor):
        assert isinstance(found, Tensor), f"{path}: {found!r} is not a tensor"
        torch.testing.assert_close(
            found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True,
            msg=lambda text: f"{path}: {text}",
        )  # fmt: skip
    elif isinstance(wanted, dict):
        assert set(found) == set(wanted), f"{path}: other keys {set(found) ^ set(wanted)}"
        for key, value in wanted.items():
            compare(found[key], value, tolerance, f"{path}.{key}")
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted), f"{path}: other length"
        for at, value in enumerate(wanted):
            compare(found[at], value, tolerance, f"{path}.{at}")
    elif isinstance(wanted, float) and tolerance:
        assert abs(found - wanted) <= tolerance * (1.0 + abs(wanted)), f"{path}: {found} {wanted}"
    else:
        assert found == wanted, f"{path}: {found!r} is not {wanted!r}"


def compare_course(
    found: dict[str, Tensor], wanted: dict[str, Tensor], start: dict[str, Tensor], share: float
) -> None:
    """Two runs end within a share of the way that one of them went."""

    def flat(weights: dict[str, Tensor]) -> Tensor:
        return torch.cat([weights[name].flatten() for name in sorted(weights)])

    apart = (flat(found) - flat(wanted)).norm() / (flat(wanted) - flat(start)).norm()
    assert apart < share, f"{float(apart):.4f} of the way apart, not within {share}"


@contextmanager
def refused(what: str, *words: str) -> Iterator[None]:
    """The block must raise a ``TetherError`` in which every word (a pattern) occurs."""
    try:
        yield
    except TetherError as error:
        text = str(error)
    else:
        raise AssertionError(f"{what}: was not refused")
    missing = [word for word in words if not re.search(word, text)]
    assert not missing, f"{what}: the error has no word of {' and '.join(missing)}: {text}"


def check_finite(run: Run, what: str) -> None:
    tensors = {**run.weights(), **run.reg.parts}
    for owner, method in run.reg.methods.items():
        for name in method.declared_state():
            value = getattr(method, name)
            if isinstance(value, Tensor) and value.is_floating_point():
                tensors[f"{owner}.{name}"] = value
    for name, tensor in tensors.items():
        assert torch.isfinite(tensor).all(), f"{what}: {name} is not finite"
