"""Find the head of a model, and read its input (the features) and the model's arguments."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tether.engine.reference import canonical
from tether.errors import TetherError


def _is_linear(module: nn.Module) -> bool:
    pointwise = isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1}
    return isinstance(module, nn.Linear) or pointwise


def width(module: nn.Module, side: str) -> int | None:
    for attribute in (f"{side}_features", f"{side}_channels"):
        value = getattr(module, attribute, None)
        if isinstance(value, int):
            return value
    return None


def find_head(model: nn.Module, name: str | None, num_classes: int | None) -> tuple[str, nn.Module]:
    """Name and module of the model's last linear layer.

    Looks where the library says (timm's ``get_classifier``), then for the last linear layer in
    order of registration, preferring one of ``num_classes`` outputs.

    Raises:
        TetherError: no such module; the candidates are listed.
    """
    modules = {canonical(n): m for n, m in model.named_modules()}
    linear = {n: m for n, m in modules.items() if _is_linear(m)}
    if name is not None:
        if name not in modules or name == "":
            raise TetherError(f"head {name!r} is not a module of the model; {_listing(linear)}")
        return name, modules[name]
    classifier = getattr(model, "get_classifier", None)
    if callable(classifier):
        found = classifier()
        inside = [
            n for n, m in linear.items()
            if isinstance(found, nn.Module) and any(m is part for part in found.modules())
        ]  # fmt: skip
        if inside:
            return inside[-1], linear[inside[-1]]
    full = {n: m for n, m in linear.items() if isinstance(m, nn.Linear)}
    fitting = [n for n, m in full.items() if num_classes and width(m, "out") == num_classes]
    chosen = fitting or list(full)
    if not chosen:
        raise TetherError(
            'no head found: the model has no nn.Linear; give head="name"; ' + _listing(modules)
        )
    return chosen[-1], full[chosen[-1]]


def _listing(modules: dict[str, nn.Module]) -> str:
    leaves = [n for n, m in modules.items() if n and any(p.ndim >= 2 for p in m.parameters(False))]
    return f"candidates: {', '.join(leaves[-8:])}" if leaves else "it has no weight layers at all"


class Taps:
    """Forward pre-hooks that keep the head's input, named inputs and the model's arguments.

    A hook keeps what passes only while its module is in train mode, so that evaluation leaves
    nothing behind; a deep copy of the model shares the hook function but not the module, and is
    ignored. Taking a tensor removes it: a tap that did not fire raises, it never gives a stale
    tensor.
    """

    def __init__(self, model: nn.Module, head_name: str | None, head: nn.Module | None) -> None:
        self.model = model
        self.head_name = head_name
        self.head = head
        self.store: dict[str, Any] = {}
        #: Whether features are kept in evaluation mode too (our own repeated forwards).
        self.listening = False
        self.outputs: list[str] = []
        self._handles: list[Any] = []

    def tap_features(self) -> None:
        assert self.head is not None
        self._tap(self.head, "features")

    def tap_inputs(self) -> None:
        store, owner = self.store, self.model

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module is owner and module.training:
                store["inputs"] = (args, kwargs)

        self._handles.append(self.model.register_forward_pre_hook(keep, with_kwargs=True))

    def tap_output(self, name: str) -> None:
        """Keep the output of a named layer.

        Raises:
            TetherError: no such layer; the nearest names are listed.
        """
        key = f"output {name}"
        if key in self.outputs:
            return
        modules = {canonical(n): m for n, m in self.model.named_modules()}
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=4, cutoff=0.3)
            raise TetherError(f"no layer {name!r} in the model; near: {', '.join(near) or 'none'}")
        self.outputs.append(key)
        store, taps, owner = self.store, self, modules[name]

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if module is owner and (
                module.training or (not torch.compiler.is_compiling() and taps.listening)
            ):
                store[key] = output

        self._handles.append(owner.register_forward_hook(keep))

    def take_outputs(self) -> dict[str, Any]:
        """Outputs of the named layers in the last forward, once."""
        for key in self.outputs:
            if key not in self.store:
                raise TetherError(f"the layer {key[7:]!r} was not called since the last loss")
        return {key[7:]: self.store.pop(key) for key in self.outputs}

    def _tap(self, owner: nn.Module, key: str) -> None:
        store, taps = self.store, self

        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            # the flag is not read inside a compiled graph, where it would be a guard
            if module is owner and (
                module.training or (not torch.compiler.is_compiling() and taps.listening)
            ):
                store[key] = args[0]

        self._handles.append(owner.register_forward_pre_hook(keep))

    def take_features(self) -> Tensor:
        """The head's input of the last forward, once."""
        if "features" not in self.store:
            raise TetherError(
                f"the head {self.head_name!r} was not called since the last loss: call the model "
                "in train mode before each loss, attach before the first call of a compiled model, "
                'and check that head="..." names the layer that makes the logits'
            )
        features: Tensor = self.store.pop("features")
        return features

    def take_inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the model's last call, once."""
        if "inputs" not in self.store:
            raise TetherError("the model was not called in train mode since the last loss")
        inputs: tuple[tuple[Any, ...], dict[str, Any]] = self.store.pop("inputs")
        return inputs

    def check_graph(self, features: Tensor, logits: Tensor) -> None:
        """Refuse features that carry no gradient although the layers below are trained."""
        if features.requires_grad or not logits.requires_grad:
            return
        own = {id(p) for p in self.head.parameters()} if self.head is not None else set()
        if any(p.requires_grad and id(p) not in own for p in self.model.parameters()):
            raise TetherError(
                f"the input of the head {self.head_name!r} carries no gradient although layers "
                "below it are trained: the head lies inside reentrant activation checkpointing or "
                "under no_grad; use checkpoint(..., use_reentrant=False)"
            )

    def own_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by canonical name -> by the model's own names (wrappers included)."""
        names = [name for name, _ in self.model.named_parameters()]
        names += [name for name, _ in self.model.named_buffers()]
        return {name: tensors[canonical(name)] for name in names if canonical(name) in tensors}

    def clear(self) -> None:
        self.store.clear()

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.clear()


def wide(tensor: Tensor) -> Tensor:
    """Float32 of a half-precision tensor; wider ones as they are."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def as_logits(output: Any) -> Tensor:
    """The logits in a model's output: a tensor, ``.logits``, ``["logits"]``, or the first part."""
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if found is None and hasattr(output, "keys") and "logits" in output:
        found = output["logits"]
    if found is None and isinstance(output, (tuple, list)) and output:
        found = output[0]
    if not isinstance(found, Tensor):
        raise TetherError(f"no logits in a model output of type {type(output).__name__}")
    return found


def pool_features(features: Tensor, mask: Tensor | None, pooling: str | None) -> Tensor:
    """One row a sample, ``[N, d]``: flat, the mean over positions of maps, or over valid tokens.

    Args:
        features: ``[N, d]``, ``[N, d, H, W]``, or ``[N, T, d]`` for tokens.
        mask: valid tokens ``[N, T]``, or None.
        pooling: ``"mean"`` where tokens may be pooled.
    """
    features = wide(features)
    if features.ndim == 4:
        return features.mean(dim=(2, 3))
    if features.ndim == 3 and features.shape[1] > 1:
        if pooling != "mean":
            raise TetherError(
                f"the head's input has shape {tuple(features.shape)}: one row a token; this method "
                "works on one row a sample"
            )
        if mask is None:
            return features.mean(dim=1)
        keep = mask.to(features.dtype).unsqueeze(-1)
        return (features * keep).sum(1) / keep.sum(1).clamp(min=1.0)
    return features.flatten(1)
