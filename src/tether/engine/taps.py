"""Find the head of a model, and read its input (the features) and the model's arguments."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
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


_HEAD_NAMES = frozenset("head classifier fc score lm_head logits out output predictor".split())


def library_heads(model: nn.Module) -> list[nn.Module]:
    """The classifier as timm tells it; several of them for distilled models."""
    tell = getattr(model, "get_classifier", None)
    found = tell() if callable(tell) else None
    modules = found if isinstance(found, (tuple, list)) else [found]
    return [module for module in modules if isinstance(module, nn.Module)]


def find_head(model: nn.Module, name: str | None, num_classes: int | None) -> tuple[str, nn.Module]:
    """Name and module of the model's last linear layer.

    Looks where the library says (timm's ``get_classifier``), then for a linear layer, preferring
    one of ``num_classes`` outputs, then one with a name such as ``head`` or ``fc`` at the top of
    the model, then the one that was registered last.

    Raises:
        TetherError: no such module; the candidates are listed.
    """
    modules = {canonical(n): m for n, m in model.named_modules()}
    linear = {n: m for n, m in modules.items() if _is_linear(m)}
    if name is not None:
        if name not in modules or name == "":
            raise TetherError(f"head {name!r} is not a module of the model; {_listing(linear)}")
        return name, modules[name]
    for found in library_heads(model):
        inside = [n for n, m in linear.items() if any(m is part for part in found.modules())]
        if inside:
            return inside[-1], linear[inside[-1]]
    full = {n: m for n, m in linear.items() if isinstance(m, nn.Linear)}
    fitting = {n: m for n, m in full.items() if num_classes and width(m, "out") == num_classes}
    chosen = list(fitting or full)
    named = [n for n in chosen if n in _HEAD_NAMES]
    chosen = named or chosen
    if not chosen:
        raise TetherError(
            'no head found: the model has no nn.Linear; give head="name"; ' + _listing(modules)
        )
    return chosen[-1], full[chosen[-1]]


def _listing(modules: dict[str, nn.Module]) -> str:
    leaves = [n for n, m in modules.items() if n and any(p.ndim >= 2 for p in m.parameters(False))]
    return f"candidates: {', '.join(leaves[-8:])}" if leaves else "it has no weight layers at all"


def _in_backward() -> bool:
    """Whether this forward is the recomputation of a checkpoint."""
    return bool(torch._C._current_graph_task_id() != -1)


def _made_from(logits: Tensor, features: Tensor, most: int = 200) -> bool:
    """Whether the graph of the logits leads to the features (True where it cannot be told)."""
    if features.grad_fn is None or logits.grad_fn is None:
        return True
    seen, queue = {logits.grad_fn}, [logits.grad_fn]
    while queue and len(seen) < most:
        node = queue.pop(0)
        if node is features.grad_fn:
            return True
        following = [n for n, _ in node.next_functions if n is not None and n not in seen]
        seen.update(following)
        queue.extend(following)
    return False


class _Gone:
    """What a tap becomes in a copy or a file: a hook that does nothing."""

    def __call__(self, *args: Any) -> None:
        return None


class _Tap:
    """A hook that keeps what passes through its module in the taps' store."""

    def __init__(self, taps: Taps, owner: nn.Module, key: str) -> None:
        self.taps, self.owner, self.key, self.store = taps, owner, key, taps.store

    def __reduce__(self) -> tuple[type[_Gone], tuple[()]]:
        return _Gone, ()

    def hears(self, module: nn.Module) -> bool:
        if module is not self.owner:
            return False
        if torch.compiler.is_compiling():  # flags are not read in a graph, where they are guards
            return module.training
        if _in_backward():
            return False
        return module.training or self.taps.listening

    def keep(self, value: Any) -> None:
        if not torch.compiler.is_compiling() and not self.taps.listening:
            if not torch.is_grad_enabled() and self.key in self.store:
                return  # a look without gradients between the forward and its loss
            if torch.is_grad_enabled():
                self.taps.calls[self.key] = self.taps.calls.get(self.key, 0) + 1
        self.store[self.key] = value


class _InputTap(_Tap):
    """Keeps the first argument."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.hears(module):
            self.keep(args[0] if args else next(iter(kwargs.values())))


class _CallTap(_Tap):
    """Keeps all arguments."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is self.owner and module.training:
            self.store[self.key] = (args, kwargs)


class _OutputTap(_Tap):
    """Keeps the output."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if self.hears(module):
            self.keep(output)


class _Change(_Tap):
    """Changes the output."""

    def __init__(self, taps: Taps, owner: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(taps, owner, "")
        self.change = change

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if module is not self.owner:
            return output
        # read outside of graphs only, where it would be a guard
        if not torch.compiler.is_compiling() and self.taps.listening:
            return self.change(output) if self.taps.repeating else output
        return self.change(output) if module.training else output


class Taps:
    """Hooks that keep the head's input, outputs of named layers and the model's arguments.

    A hook keeps what passes only while its module is in train mode, so that evaluation leaves
    nothing behind; in a deep copy or a pickle of the model it does nothing. Taking a tensor
    removes it: a tap that did not fire raises, it never gives a stale tensor.
    """

    def __init__(self, model: nn.Module, head_name: str | None, head: nn.Module | None) -> None:
        self.model = model
        self.head_name = head_name
        self.head = head
        self.store: dict[str, Any] = {}
        #: Forwards with gradients since the last loss, where no compiled graph hides them.
        self.calls: dict[str, int] = {}
        #: Whether features are kept in evaluation mode too (our own repeated forwards).
        self.listening = False
        #: Whether such a forward is on the inputs of this step.
        self.repeating = False
        self.outputs: list[str] = []
        self._handles: list[Any] = []

    def tap_features(self) -> None:
        assert self.head is not None
        tap = _InputTap(self, self.head, "features")
        self._handles.append(self.head.register_forward_pre_hook(tap, with_kwargs=True))

    def tap_inputs(self) -> None:
        tap = _CallTap(self, self.model, "inputs")
        self._handles.append(self.model.register_forward_pre_hook(tap, with_kwargs=True))

    def tap_output(self, name: str) -> None:
        """Keep the output of a named layer.

        Raises:
            TetherError: no such layer; the nearest names are listed.
        """
        key = f"output {name}"
        if key in self.outputs:
            return
        layer = self._layer(name)
        self.outputs.append(key)
        self._handles.append(layer.register_forward_hook(_OutputTap(self, layer, key)))

    def change_output(self, name: str, change: Callable[[Tensor], Tensor]) -> None:
        """Change the output of a named layer; see :meth:`tether.engine.services.Services`.

        Raises:
            TetherError: no such layer; the nearest names are listed.
        """
        layer = self._layer(name)
        self._handles.append(layer.register_forward_hook(_Change(self, layer, change)))

    def _layer(self, name: str) -> nn.Module:
        modules: dict[str, nn.Module] = {canonical(n): m for n, m in self.model.named_modules()}
        if name not in modules:
            near = difflib.get_close_matches(name, modules, n=4, cutoff=0.3)
            raise TetherError(f"no layer {name!r} in the model; near: {', '.join(near) or 'none'}")
        return modules[name]

    def take_outputs(self) -> dict[str, Any]:
        """Outputs of the named layers in the last forward, once."""
        for key in self.outputs:
            if key not in self.store:
                raise TetherError(f"the layer {key[7:]!r} was not called since the last loss")
        return {key[7:]: self.store.pop(key) for key in self.outputs}

    def take_features(self, logits: Tensor) -> Tensor:
        """The head's input of the last forward, once."""
        if "features" not in self.store:
            raise TetherError(
                f"the head {self.head_name!r} was not called since the last loss: call the model "
                "in train mode before each loss, attach before the first call of a compiled model, "
                'and check that head="..." names the layer that makes the logits'
            )
        features: Tensor = self.store.pop("features")
        count = self.calls.pop("features", 0)
        if count > 1 and not _made_from(logits, features):
            raise TetherError(
                f"the head {self.head_name!r} was called {count} times since the last loss, and "
                "these logits are not of its last call: call reg.loss right after the forward "
                "whose logits it gets"
            )
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

    def pool(self, features: Tensor, valid: Tensor | None, pooling: str | None) -> Tensor:
        """One row a sample of the head's input; see :func:`pool_features`."""
        return pool_features(features, valid, pooling, last=not isinstance(self.head, nn.Conv2d))

    def clear(self) -> None:
        self.store.clear()
        self.calls.clear()

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


def pool_features(
    features: Tensor, valid: Tensor | None, pooling: str | None, *, last: bool = True
) -> Tensor:
    """One row a sample, ``[N, d]``: flat, the mean over positions of maps, or over valid tokens.

    Args:
        features: ``[N, d]``; maps ``[N, d, H, W]`` or, with ``last``, ``[N, H, W, d]``;
            ``[N, T, d]`` for tokens.
        valid: valid tokens ``[N, T]`` of a token loss; None for losses on samples.
        pooling: ``"mean"`` where tokens may be pooled.
        last: coordinates are the last dimension, as a linear layer takes them.

    Raises:
        TetherError: one row a token, for a loss on samples or a method that cannot pool.
    """
    features = wide(features)
    if features.ndim == 4:
        return features.mean(dim=(1, 2) if last else (2, 3))
    if features.ndim == 3 and (valid is not None or features.shape[1] > 1):
        if valid is None or pooling != "mean":
            raise TetherError(
                f"the head's input has shape {tuple(features.shape)}, one row a token, and which "
                "row makes a sample's logits is unknown: methods on features need a head behind "
                'the pooling; name it with head="..."'
            )
        keep = valid.to(features.dtype).unsqueeze(-1)
        return (features * keep).sum(1) / keep.sum(1).clamp(min=1.0)
    return features.flatten(1)
