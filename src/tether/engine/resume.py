"""The whole state of a handle, and the checks before one is loaded."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tether.engine.reference import copy_whole_, same_fingerprint, whole
from tether.engine.state import (
    FORMAT,
    check_method_state,
    load_method_state,
    load_tree,
    method_state,
    rank,
    rank_path,
    save_tree,
    world_size,
)
from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.engine.handle import Handle


def _head_names(handle: Handle) -> list[str]:
    """Reference tensors of the newly drawn head: saved, since no checkpoint gives them back."""
    heads = {ref.name for ref in handle.weights() if ref.is_head}
    return [name for name in handle.reference if name in heads]


def _recipe(handle: Handle) -> dict[str, str]:
    """The methods as text; a callable option is told by its name, not by its address."""
    return {n: re.sub(r" at 0x[0-9a-f]+", "", repr(m)) for n, m in handle.methods.items()}


def state_dict(handle: Handle) -> dict[str, Any]:
    reference: dict[str, Any] | None = None
    if handle.reference.taken:
        heads = _head_names(handle)
        reference = {
            "fingerprint": handle.reference.fingerprint(heads),
            "head": {name: whole(handle.reference[name]) for name in heads},
        }
    return {
        "format": FORMAT,
        "recipe": _recipe(handle),
        "world_size": world_size(),
        "step": handle.step,
        "micro_step": handle.micro_step,
        "backward_seen": handle.window.backward_seen,
        "statistics_pending": handle.statistics.pending,
        "reference": reference,
        "methods": {name: method_state(method) for name, method in handle.methods.items()},
        "auxiliaries": _copied(handle.auxiliaries.state_dict()),
        "stream": handle.stream.state_dict(),
        "sync": {key: value.clone() for key, value in handle.sync.base.items()},
    }


def _copied(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_copied(value) for value in tree]
    return tree


def save(handle: Handle, path: str | os.PathLike[str]) -> None:
    save_tree(state_dict(handle), rank_path(path))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state of this rank; rank 0's where this rank saved none.

    Raises:
        TetherError: the file of this rank was saved at another moment than rank 0's.
    """
    main, own = load_tree(Path(path)), rank_path(path)
    if not rank() or not own.is_file():
        return main
    state = load_tree(own)
    if state["micro_step"] != main["micro_step"]:
        raise TetherError(
            f"{own} was saved after {state['micro_step']} losses, {path} after "
            f"{main['micro_step']}: the files of the ranks belong to different moments"
        )
    return state


def load_state_dict(handle: Handle, state: Mapping[str, Any]) -> None:
    _check(handle, state)
    for name, method in handle.methods.items():
        load_method_state(method, state["methods"][name])
    handle.auxiliaries.load_state_dict(state["auxiliaries"])
    handle.stream.load_state_dict(state["stream"])
    handle.step = int(state["step"])
    handle.micro_step = int(state["micro_step"])
    handle.window.backward_seen = bool(state["backward_seen"])
    if state["reference"] is not None:
        with torch.no_grad():
            for name, tensor in state["reference"]["head"].items():
                copy_whole_(handle.reference[name], tensor)
    if not state["statistics_pending"]:
        handle.statistics.cancel()
    if state["sync"]:
        for key, base in handle.sync.base.items():
            base.copy_(state["sync"][key])
    else:
        handle.sync.remember()


def _check(handle: Handle, state: Mapping[str, Any]) -> None:
    """All that may not fit, before anything changes."""
    if state.get("format") != FORMAT:
        raise TetherError(
            f"the state has format {state.get('format')!r}, this version reads {FORMAT}"
        )
    ours, theirs = _recipe(handle), state["recipe"]
    if list(ours) != list(theirs):
        raise TetherError(
            f"the state was saved with the methods {', '.join(theirs) or 'none'}, attached are "
            f"{', '.join(ours) or 'none'}: resume with the same methods"
        )
    for name in ours:
        if ours[name] != theirs[name]:
            warnings.warn(f"resuming {theirs[name]} as {ours[name]}", stacklevel=4)
    saved = state["reference"]
    if handle.reference.taken and saved is not None:
        own = handle.reference.fingerprint(_head_names(handle))
        if not same_fingerprint(own, saved["fingerprint"]):
            raise TetherError(
                "the model held other weights when tether was attached than in the saved run: "
                "attach to the pretrained model first, load the trained weights into it afterwards"
            )
        _check_shapes(
            {name: handle.reference[name] for name in saved["head"] if name in handle.reference},
            saved["head"],
        )
    for name, item in handle.auxiliaries.items.items():
        if name not in state["auxiliaries"]:
            raise TetherError(f"the saved state holds no module {name!r}")
        _check_shapes(item.module.state_dict(), state["auxiliaries"][name]["module"])
    if state["world_size"] != world_size() and state["sync"]:
        warnings.warn(
            f"the state was saved by {state['world_size']} processes, now there are "
            f"{world_size()}: what other ranks changed in tables of samples since the last epoch "
            "is lost",
            stacklevel=4,
        )
    for name, method in handle.methods.items():
        check_method_state(method, name, state["methods"][name])


def _check_shapes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for name, tensor in theirs.items():
        shape = tuple(ours[name].shape) if name in ours else None
        if shape != tuple(tensor.shape):
            raise TetherError(
                f"the saved {name!r} has shape {tuple(tensor.shape)}, here it is {shape}: the "
                "head, the classes or the options differ from the saved run"
            )
