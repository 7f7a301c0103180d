"""What a recipe asks of model, data and loop, looked at once when it is attached."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tether.catalogue import ENTRIES
from tether.engine.order import overrides
from tether.engine.taps import width
from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.engine.handle import Handle
    from tether.method import Method

_ENTRY_TEXT = {
    "views": "further views of each sample, augmented independently",
    "domains": "the domain of each sample",
    "unlabelled": "a batch of inputs without labels",
    "unlabelled_views": "further views of each unlabelled input",
    "pairs": "a batch of preference pairs",
}


def check_needs(handle: Handle) -> None:
    """Raise where a method lacks something, with the remedy."""
    for name in ("epochs", "total_steps"):
        length = getattr(handle, name)
        if length is not None and not length > 0:
            raise TetherError(f"{name} must be above 0, got {length!r}")
    for name, method in handle.methods.items():
        info = method.info
        kind = handle.task.kind
        if method.__dict__.get("_attached"):
            raise TetherError(f"this {name!r} object is attached to another model: make a new one")
        if info.losses and kind not in info.losses:
            raise TetherError(
                f"method {name!r} works with the loss {' or '.join(info.losses)}, not {kind!r}"
            )
        if kind == "token_cross_entropy" and "features" in info.needs and not info.pooling:
            raise TetherError(
                f"method {name!r} reads one feature row a sample: not for token losses"
            )
        if overrides(method, "prepare") and not method.__dict__.get("_prepared"):
            raise TetherError(
                f"method {name!r} changes the model: call tether.prepare(model, methods) before "
                "the optimiser is made"
            )
        if "index" in info.needs:
            handle.need_num_samples(name)
        if "train_data" in info.needs:
            handle.need_train_data(name)
        if "valid_data" in info.needs and handle.valid_data is None:
            raise TetherError(f"method {name!r} needs validation data: attach(..., valid_data=...)")
        if "source_head" in info.needs and handle.source_head is None:
            raise TetherError(
                f"method {name!r} needs the pretrained model's own head: "
                "attach(..., source_head=...); tether tune takes it from the file or hub model "
                "that gave the weights, where that has one"
            )
        scheduled = [o for o, s in method.schedules().items() if s.needs_horizon]
        if ("horizon" in info.needs or scheduled) and not handle.has_horizon:
            what = f"the schedule of {scheduled[0]!r}" if scheduled else "it"
            raise TetherError(
                f"method {name!r}: {what} needs the length of training: attach(..., epochs=...) or "
                "total_steps=..."
            )


def batch_entries(methods: Mapping[str, Method]) -> dict[str, str]:
    """Entry of a batch that methods ask for -> the first that does."""
    asked = ((need, name) for name, method in methods.items() for need in method.info.needs)
    return {need: name for need, name in reversed(list(asked)) if need in ENTRIES}


def take_entries(wanted: Mapping[str, str], inputs: dict[str, Any]) -> dict[str, Any]:
    """Take what is not the model's out of its keyword arguments, for ``Handle.loss``."""
    return {name: inputs.pop(name) for name in wanted if name in inputs}


def read_entries(
    methods: Mapping[str, Method], wanted: Mapping[str, str], extras: dict[str, Any], logits: Tensor
) -> None:
    """Raise where a method did not get an entry; bring the entries into one form.

    Domains become indices on the device; views a list, one input of the model a view.

    Raises:
        TetherError: names the method, the entry and the remedy.
    """
    for name, who in wanted.items():
        if extras.get(name) is None:
            raise TetherError(
                f"method {who!r} needs {_ENTRY_TEXT[name]}: reg.loss(logits, targets, {name}=...); "
                f"under a Trainer the entry {name!r} of dict batches"
            )
    if "domains" in wanted:
        domains = torch.as_tensor(extras["domains"])
        if domains.is_floating_point() or domains.shape != logits.shape[:1]:
            raise TetherError(
                f"domains must hold one whole number a row: {logits.shape[0]} rows of logits, "
                f"domains of shape {tuple(domains.shape)} and type {domains.dtype}"
            )
        extras["domains"] = domains.to(logits.device, torch.int64)
    for entry, what in (("views", "sample"), ("unlabelled_views", "unlabelled input")):
        if entry not in wanted:
            continue
        views = extras[entry] = _list_of_views(extras[entry])
        for name, method in methods.items():
            if entry in method.info.needs and len(views) < method.info.views - 1:
                raise TetherError(
                    f"method {name!r} works on {method.info.views} views of each {what}: give it "
                    f"{method.info.views - 1} beside its own, not {len(views)}"
                )


def _list_of_views(views: Any) -> list[Any]:
    """Views one by one; tensors ``[V, N, ...]``, also by name, are taken apart."""
    if isinstance(views, Tensor):
        return list(views)
    if hasattr(views, "items"):
        parts = {key: list(tensor) for key, tensor in views.items()}
        return [dict(zip(parts, each, strict=True)) for each in zip(*parts.values(), strict=True)]
    return list(views)


def acts_at_updates(handle: Handle) -> bool:
    """Whether a method acts at the optimiser's updates, or counts them for a schedule."""
    methods = handle.methods.values()
    moments = ("edit_gradients", "after_step")
    return (
        any(overrides(method, moment) for method in methods for moment in moments)
        or any(s.needs_horizon for method in methods for s in method.schedules().values())
        or bool(handle.auxiliaries.items)
    )


def warn_if_frozen(handle: Handle) -> None:
    """Say so when nothing below the head is trained: features then reach no weight."""
    names = handle.needs("features")
    below = [ref for ref in handle.weights() if not ref.is_head]
    if names and below and not any(ref.param.requires_grad for ref in below):
        warnings.warn(
            f"all layers below the head are frozen, and {' and '.join(names)} can only act through "
            "the features: nothing changes until some of them are trained",
            stacklevel=5,
        )


def wanted_parameters(handle: Handle) -> Iterator[tuple[str, str, nn.Parameter]]:
    """(method, parameter name, parameter) for all that the optimiser must hold."""
    names = {id(ref.param): ref.name for ref in handle.weights()}
    for name, method in handle.methods.items():
        for parameter in method.acts_on():
            yield name, names.get(id(parameter), "a parameter that is not the model's"), parameter


def num_classes(given: int | None, head: tuple[str, nn.Module] | None, who: str) -> int:
    outputs = width(head[1], "out") if head is not None else None
    if head is not None and given is not None and outputs not in (None, given):
        raise TetherError(f"num_classes={given}, but the head {head[0]!r} has {outputs} outputs")
    found = given if given is not None else outputs
    if found is None:
        raise TetherError(
            f"method {who!r} needs the number of classes: attach(..., num_classes=...)"
        )
    return found


def num_features(head: tuple[str, nn.Module]) -> int:
    inputs = width(head[1], "in")
    if inputs is None:
        raise TetherError(
            f"the head {head[0]!r} ({type(head[1]).__name__}) does not tell the width of its "
            'input: name a linear layer with head="..."'
        )
    return inputs


def num_samples(data: Any, who: str) -> int:
    dataset: Any = data.dataset if isinstance(data, DataLoader) else data
    try:
        return len(dataset)
    except TypeError:
        raise TetherError(
            f"method {who!r} keeps a table of samples: train_data must be a map-style data set "
            "with a length"
        ) from None
