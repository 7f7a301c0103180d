"""Groups of a model's weights: filters, input channels, attention heads, or by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tether.errors import TetherError
from tether.methods.weights.groups import Member, member
from tether.words import nearest

if TYPE_CHECKING:
    from tether.engine.context import Context
    from tether.engine.layers import WeightRef

KINDS = ("filters", "channels", "heads")
_QKV = (("qkv",), ("query", "key", "value"), ("q_proj", "k_proj", "v_proj"),
        ("q_lin", "k_lin", "v_lin"))  # fmt: skip
_OUT = ("proj", "out_proj", "out_lin")
_HEADS = ("num_heads", "num_attention_heads", "n_heads")
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def group_members(ctx: Context, groups: str | Mapping[str, Sequence[int]]) -> list[list[Member]]:
    """Members, one list a layer, with groups numbered from 0 over the whole model.

    Raises:
        TetherError: nothing to group, an unknown name, groups that do not cover a tensor.
    """
    refs = {id(ref.param): ref for ref in ctx.weights()}
    if not isinstance(groups, str):
        return _given(ctx, groups)
    made = {"filters": _filters, "channels": _channels, "heads": _heads}[groups]
    layers = [layer for layer in made(ctx.model, refs) if layer]
    if not layers:
        other = "filters" if groups == "heads" else "include layers below the head"
        raise TetherError(
            f"{ctx.name}: no trainable {groups} below the head of {type(ctx.model).__name__}; "
            f"{'groups=' if groups == 'heads' else ''}{other}"
        )
    return layers


def _given(ctx: Context, groups: Mapping[str, Sequence[int]]) -> list[list[Member]]:
    names = {ref.name: ref for ref in ctx.weights()}
    for name in groups:
        if name not in names:
            near = nearest(name, names, most=3)
            raise TetherError(f"{ctx.name}: groups names {name!r}, no parameter is called so{near}")
    raw = {name: torch.as_tensor(list(index)).long() for name, index in groups.items()}
    _, dense = torch.cat(list(raw.values())).unique(return_inverse=True)  # type: ignore[no-untyped-call]
    parts = dense.split([len(index) for index in raw.values()])
    return [[member(names[name], 0, part) for name, part in zip(raw, parts, strict=True)]]


def _kernels(model: nn.Module, refs: Mapping[int, WeightRef]) -> Iterator[tuple[Any, Any, int]]:
    """(parent, module, dimension of the outputs) of the trainable kernels below the head."""
    seen: set[int] = set()
    for parent in model.modules():
        for module in parent.children():
            ref = refs.get(id(getattr(module, "weight", None)))
            if ref is None or ref.role != "weight" or ref.is_head or id(ref.param) in seen:
                continue
            seen.add(id(ref.param))
            turned = isinstance(module, nn.modules.conv._ConvTransposeNd)
            turned = turned or type(module).__name__ == "Conv1D"  # of GPT-2
            if ref.param.requires_grad and ref.param.ndim >= 2:
                yield parent, module, 1 if turned else 0


def _filters(model: nn.Module, refs: Mapping[int, WeightRef]) -> Iterator[list[Member]]:
    """Rows of a kernel, with their biases and the batch norm that follows in the same module."""
    start = 0
    for parent, module, dim in _kernels(model, refs):
        if dim == 1 and getattr(module, "groups", 1) > 1:
            continue
        size = module.weight.shape[dim]
        index = torch.arange(start, start + size)
        beside = list(parent.children())
        following = beside[beside.index(module) + 1 :][:1]
        owners = [module, *(n for n in following if isinstance(n, _BATCH_NORM))]
        layer = [member(refs[id(module.weight)], dim, index)]
        for owner in owners:
            for vector in ("bias",) if owner is module else ("weight", "bias"):
                ref = refs.get(id(getattr(owner, vector, None)))
                if ref is not None and ref.param.requires_grad and len(ref.param) == size:
                    layer.append(member(ref, 0, index))
        start += size
        yield layer


def _channels(model: nn.Module, refs: Mapping[int, WeightRef]) -> Iterator[list[Member]]:
    """Inputs of a kernel; those of the first one are the data's and stay."""
    start = 0
    for at, (_, module, dim) in enumerate(_kernels(model, refs)):
        if at == 0 or getattr(module, "groups", 1) > 1:
            continue
        size = module.weight.shape[1 - dim]
        yield [member(refs[id(module.weight)], 1 - dim, torch.arange(start, start + size))]
        start += size


def _heads(model: nn.Module, refs: Mapping[int, WeightRef]) -> Iterator[list[Member]]:
    """Query, key and value rows of a head, their biases, and its columns of the projection."""
    start = 0
    for name, module in model.named_modules():
        heads = next((getattr(module, n) for n in _HEADS if hasattr(module, n)), None)
        if not isinstance(heads, int):
            continue
        names = next((q for q in _QKV if all(hasattr(module, n) for n in q)), ())
        vectors = [getattr(getattr(module, n), v, None) for n in names for v in ("weight", "bias")]
        if isinstance(module, nn.MultiheadAttention):
            vectors = [module.in_proj_weight, module.in_proj_bias]
        layer: list[Member] = []
        chunks = 1 if len(names) == 3 else 3
        rows = {len(v) for v in vectors if v is not None}
        for param in _known(vectors, refs):
            if len(param.param) % (chunks * heads) or len(rows) > 1:
                raise TetherError(
                    f"the {heads} heads of {name!r} do not cover {param.name!r} of "
                    f"{len(param.param)} rows evenly: give groups by name, or use groups=filters"
                )
            one = torch.arange(start, start + heads)
            width = len(param.param) // (chunks * heads)
            layer.append(member(param, 0, one.repeat_interleave(width).repeat(chunks)))
        out = next((getattr(module, n) for n in _OUT if hasattr(module, n)), None)
        for param in _known([getattr(out, "weight", None)], refs) if layer else ():
            width = param.param.shape[1] // heads
            index = torch.arange(start, start + heads).repeat_interleave(width)
            layer.append(member(param, 1, index))
        start += heads if layer else 0
        yield layer


def _known(vectors: Iterable[Any], refs: Mapping[int, WeightRef]) -> Iterator[WeightRef]:
    for vector in vectors:
        ref = refs.get(id(vector))
        if ref is not None and ref.param.requires_grad:
            yield ref
