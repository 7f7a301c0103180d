"""Models, data and one training step to measure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import tether
from tether.engine.checks import batch_entries
from tether.engine.taps import find_head, width

BATCH_SIZE = 16
NUM_CLASSES = 10
SOURCE_CLASSES = 1000
IMAGE = 64

#: Options under which every method acts from the first step on.
ACTING: dict[str, dict[str, Any]] = {
    "confidence_reweighting": {"start_epoch": 1},
    "rate_constraint": {"weight": 1e-3},  # at every tenth update, as by default
    "masked_prediction": {},  # the patches of its example are those of a tiny image
    "self_label_correction": {"start_epoch": 1},
    "regsl": {
        "radius": 2.0,
        "growth": 1.5,
        "head_radius": 5.0,
        "reweighting_start_epoch": 1,
        "correction_start_epoch": 1,
    },
}


def make_resnet() -> nn.Module:
    """The ``resnet18`` of timm, 11 million parameters, from random numbers."""
    import timm

    return timm.create_model("resnet18", num_classes=NUM_CLASSES)


def make_vit() -> nn.Module:
    """A vision transformer of 6 blocks of width 192, 2.8 million parameters, patches of 8."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=IMAGE, patch_size=8, embed_dim=192, depth=6, num_heads=3, num_classes=NUM_CLASSES
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"resnet18": make_resnet, "vit": make_vit}


def make_method(name: str) -> tether.Method:
    """A registered method under its defaults, or under options with which it acts."""
    options = ACTING.get(name, tether.method_info(name).example)
    if "anchors" in options:  # weights to stay away from, instead of a file
        options = {**options, "anchors": other_weights()}
    return tether.create_method(name, **options)


@cache
def other_weights() -> dict[str, Tensor]:
    """Weights of every model here, drawn anew; each finds its own by their names."""
    return {name: t.detach() for make in MODELS.values() for name, t in make().named_parameters()}


def make_data(batches: int = 10) -> TensorDataset:
    """Random images; every class occurs."""
    generator = torch.Generator().manual_seed(0)
    count = batches * BATCH_SIZE
    images = torch.randn(count, 3, IMAGE, IMAGE, generator=generator)
    return TensorDataset(images, torch.arange(count) % NUM_CLASSES)


def fitting(name: str, methods: list[str]) -> list[str]:
    """Those of the methods that a model can be prepared for (batch norm is not in every one)."""
    found, data = [], make_data(1)
    for method in methods:
        try:
            Trainer(MODELS[name], data, method)
        except tether.TetherError as reason:
            print(f"{name}: {reason}", file=sys.stderr)
        else:
            found.append(method)
    return found


class Trainer:
    """A model in training, plain or with one method; ``step()`` makes one step.

    Args:
        make_model: makes the model; all trainers get the same weights.
        data: samples to train on.
        method: name of a registered method, or several with ``+`` between them; ``""`` attaches
            none; None leaves tether out.
    """

    def __init__(
        self, make_model: Callable[[], nn.Module], data: TensorDataset, method: str | None
    ) -> None:
        torch.manual_seed(0)
        self.model = make_model().train()
        methods = [make_method(name) for name in (method or "").split("+") if name]
        tether.prepare(self.model, methods)
        self.optimizer = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9
        )
        loader = DataLoader(data, BATCH_SIZE)
        self.reg: tether.Handle | None = None
        self.wanted: Mapping[str, str] = {}
        self.loss: Callable[..., Tensor] = nn.functional.cross_entropy
        if method is not None:
            head = find_head(self.model, None, NUM_CLASSES)[1]
            source_head = nn.Linear(int(width(head, "in") or 0), SOURCE_CLASSES)
            self.reg = tether.attach(
                self.model, methods, self.optimizer, train_data=data, valid_data=data,
                epochs=10_000, source_head=source_head,
            )  # fmt: skip
            self.loss = self.reg.loss
            self.wanted = batch_entries(self.reg.methods)
        self.batches = self._forever(loader)

    def _forever(self, loader: DataLoader[Any]) -> Iterator[Any]:
        while True:
            yield from loader if self.reg is None else self.reg.batches(loader)

    def _entries(self, x: Tensor) -> dict[str, Any]:
        """What a data layer adds to a batch, where a method asks for it."""
        if not self.wanted:
            return {}
        found = {
            "views": [x.flip(-1), x.flip(-2)],
            "domains": torch.arange(len(x)) % 2,
            "unlabelled": x.flip(-1),
        }
        return {name: found[name] for name in self.wanted}

    def step(self) -> None:
        """Fetch a batch, forward, loss, backward, update."""
        x, y = next(self.batches)
        loss = self.loss(self.model(x), y, **self._entries(x))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
