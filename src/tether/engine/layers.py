"""The weights of a model, grouped by depth: stem, blocks in order, head."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tether.engine.reference import canonical
from tether.engine.taps import library_heads

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
)


@dataclass(frozen=True, eq=False)
class WeightRef:
    """One parameter and where it stands in the model.

    Attributes:
        name: canonical name.
        param: the parameter itself.
        role: ``"weight"`` (two or more dimensions), ``"bias"``, ``"norm"`` (of a normalisation
            layer) or ``"embedding"``.
        group: depth group: ``"stem"``, a block such as ``"layer2"``, or ``"head"``.
        depth: place of the group from the input: stem 0, blocks from 1, head last.
        is_head: belongs to the new head.
    """

    name: str
    param: nn.Parameter
    role: str
    group: str
    depth: int
    is_head: bool


@dataclass(frozen=True, eq=False)
class BatchNormRef:
    """One batch-norm layer with a scale and running statistics."""

    name: str
    module: nn.Module
    group: str
    depth: int
    weight_name: str
    var_name: str


def weight_refs(model: nn.Module, head: str) -> list[WeightRef]:
    """Every parameter once, in the model's order, frozen ones included."""
    parents = {canonical(name): module for name, module in model.named_modules()}
    named = [(canonical(name), parameter) for name, parameter in model.named_parameters()]
    groups = depth_groups(model, [name for name, _ in named], head)
    order = _order(groups.values())
    return [
        WeightRef(
            name, p, _role(parents, name, p), groups[name], order[groups[name]],
            groups[name] == "head",
        )
        for name, p in named
    ]  # fmt: skip


def batch_norm_refs(model: nn.Module, weights: Iterable[WeightRef]) -> list[BatchNormRef]:
    """Batch-norm layers that have a scale and running statistics."""
    by_name = {ref.name: ref for ref in weights}
    found = []
    for raw, module in model.named_modules():
        name = canonical(raw)
        ref = by_name.get(f"{name}.weight")
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and ref is not None and module.running_var is not None:
            found.append(
                BatchNormRef(
                    name, module, ref.group, ref.depth, f"{name}.weight", f"{name}.running_var"
                )
            )
    return found


def _role(parents: Mapping[str, nn.Module], name: str, parameter: nn.Parameter) -> str:
    module = parents[name.rpartition(".")[0]]
    if isinstance(module, _NORMS) or "Norm" in type(module).__name__:
        return "norm"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    return "weight" if parameter.ndim >= 2 else "bias"


def _order(groups: Iterable[str]) -> dict[str, int]:
    """Depth of each group: stem 0, blocks from 1 in order of appearance, head last."""
    blocks = dict.fromkeys(group for group in groups if group not in ("stem", "head"))
    order = {"stem": 0} | {group: depth for depth, group in enumerate(blocks, start=1)}
    return order | {"head": len(blocks) + 1}


def depth_groups(model: nn.Module, names: list[str], head: str) -> dict[str, str]:
    """Group of every parameter: by timm's own matcher where there is one, else by its name.

    By name: the common prefix is set aside; a numbered stage (``layer3.``) or the first numbered
    container (``encoder.layer.5.``, ``blocks.2.``) is a block; what stands before the first block
    is the stem, what stands after a block joins it. Without any numbered container every
    top-level child is a block of its own.
    """
    is_head = _head_names(model, names, head)
    body = [name for name in names if name not in is_head]
    matcher = getattr(model, "group_matcher", None)
    groups = _by_matcher(matcher(coarse=True), body) if callable(matcher) else _by_name(body)
    return {name: "head" if name in is_head else groups[name] for name in names}


def _head_names(model: nn.Module, names: list[str], head: str) -> set[str]:
    base = getattr(model, "base_model_prefix", "")
    if base and hasattr(model, base):  # transformers: all that is outside the pretrained base
        return {name for name in names if not name.startswith(f"{base}.")}
    told = {id(p) for module in library_heads(model) for p in module.parameters()}
    mine = {canonical(name) for name, p in model.named_parameters() if id(p) in told}
    return {name for name in names if name in mine or name.startswith(f"{head}.")}


def _by_matcher(spec: Mapping[str, Any], names: list[str]) -> dict[str, str]:
    """Read timm's description: group -> pattern, or list of (pattern, ordinal or None)."""
    rules = []
    for key, patterns in spec.items():
        for item in patterns if isinstance(patterns, (list, tuple)) else [(patterns, None)]:
            pattern, ordinal = item if isinstance(item, tuple) else (item, None)
            rules.append((key, re.compile(pattern), ordinal))
    raw: dict[str, str | None] = {}
    for name in names:
        raw[name] = None
        for key, compiled, ordinal in rules:
            match = compiled.match(name)
            if match is not None:
                if key == "stem":
                    raw[name] = "stem"
                elif ordinal is None:
                    raw[name] = match.group(0).rstrip(".")
                break
    return _fill(raw)


def _by_name(names: list[str]) -> dict[str, str]:
    split = {name: name.split(".") for name in names}
    prefix = _common_prefix(list(split.values()))
    raw: dict[str, str | None] = {}
    for name, parts in split.items():
        raw[name] = _block(parts, prefix)
    if not any(raw.values()):
        return {
            n: ".".join(p[: prefix + 1]) if len(p) > prefix + 1 else n for n, p in split.items()
        }
    return _fill(raw)


def _common_prefix(paths: list[list[str]]) -> int:
    """How many leading components all paths share, a module and its parameter left over."""
    shared = 0
    while paths and all(len(p) > shared + 2 and p[shared] == paths[0][shared] for p in paths):
        shared += 1
    return shared


def _block(parts: list[str], start: int) -> str | None:
    """The numbered container of a path, None where there is none."""
    modules = parts[:-1]
    first = modules[start] if start < len(modules) else ""
    if (
        re.fullmatch(r"[A-Za-z_]+\d+", first)
        and len(modules) > start + 1
        and modules[start + 1].isdigit()
    ):
        return ".".join(modules[: start + 1])
    for position in range(start, len(modules)):
        if modules[position].isdigit():
            return ".".join(modules[: position + 1])
    return None


def _fill(raw: Mapping[str, str | None]) -> dict[str, str]:
    """Names without a block: before the first one they are stem, later they join the last."""
    filled, present = {}, "stem"
    for name, group in raw.items():
        present = group or present
        filled[name] = present
    return filled
