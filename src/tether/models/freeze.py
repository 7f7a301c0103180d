"""Hold parameters, and the running statistics of normalisation layers, where they are."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tether.engine.layers import weight_refs
from tether.engine.reference import canonical
from tether.errors import ConfigError


class _Still:
    """Puts the listed layers into evaluation mode before each forward, whatever ``train()`` did."""

    def __init__(self, layers: list[nn.Module]) -> None:
        self.layers = layers

    def __call__(self, module: nn.Module, args: Any) -> None:
        for layer in self.layers:
            if layer.training:
                layer.training = False


@dataclass
class FreezeReport:
    """What stands still.

    Attributes:
        frozen: names of the parameters that are not trained.
        trainable: names of the others.
        still: normalisation layers whose running statistics do not move.
    """

    frozen: list[str] = field(default_factory=list)
    trainable: list[str] = field(default_factory=list)
    still: list[str] = field(default_factory=list)


def freeze(
    model: nn.Module, head: str, what: str, norm: str = "auto", *, new: Collection[str] = ()
) -> FreezeReport:
    """Freeze parameters by name, and keep the statistics of batch norm still.

    A batch-norm layer goes on moving its running mean and variance although its parameters are
    frozen, as long as it is in train mode. One hook on the model puts the layers that are to
    stand still into evaluation mode before each forward.

    Args:
        model: the model itself, before DDP or ``torch.compile`` wrap it.
        head: dotted name of the head.
        what: ``"backbone"``: all but the head; or patterns separated by commas, with ``*`` and
            ``?``: a parameter's name, or the name of a module above it; ``""``: nothing.
        norm: statistics stand still where the layer's own parameters are frozen (``"auto"``),
            everywhere (``"all"``), or nowhere (``"none"``).
        new: parameters that no file gave (``KeyReport.missing``), which ``"backbone"`` leaves
            trainable: frozen random layers would help nobody.

    Raises:
        ConfigError: a pattern that fits nothing (the nearest names are told), or nothing is left
            to train.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
        >>> report = freeze(net, "2", "backbone")
        >>> report.trainable, report.still
        (['2.weight', '2.bias'], ['1'])
    """
    if norm not in ("auto", "all", "none"):
        raise ConfigError(f"freeze_norm {norm!r}: auto, all or none")
    refs = weight_refs(model, head)
    everything = [ref.name for ref in refs]
    patterns = [part.strip() for part in what.split(",") if part.strip()]
    layers = {
        canonical(name): module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    }
    if patterns == ["backbone"]:
        heads = {ref.name for ref in refs if ref.is_head}
        chosen = set(everything) - heads - {canonical(name) for name in new}
        bare = {name for name in layers if not _below(name, head)}
    else:
        chosen = set()
        for pattern in patterns:
            found = {name for name in everything if _matches(name, pattern)}
            if not found:
                raise ConfigError(_no_match(pattern, everything))
            chosen |= found
        bare = {name for name in layers if any(_matches(f"{name}.weight", p) for p in patterns)}
    if everything and len(chosen) == len(everything):
        raise ConfigError(f"freeze {what!r} leaves nothing to train")
    report = FreezeReport()
    for ref in refs:
        if ref.name in chosen and ref.param.requires_grad:
            ref.param.requires_grad_(False)
        (report.trainable if ref.param.requires_grad else report.frozen).append(ref.name)
    still: list[nn.Module] = []
    for name, layer in layers.items():
        own = [p.requires_grad for p in layer.parameters(recurse=False)]
        rests = not any(own) if own else name in bare
        if norm == "all" or (norm == "auto" and rests):
            report.still.append(name)
            still.append(layer)
    if still:
        model.register_forward_pre_hook(_Still(still))
    return report


def _below(name: str, head: str) -> bool:
    return name == head or name.startswith(f"{head}.")


def _matches(name: str, pattern: str) -> bool:
    """Whether the pattern fits the parameter, or a module that it is in."""
    parts = name.split(".")
    return any(
        fnmatch.fnmatchcase(".".join(parts[:depth]), pattern) for depth in range(1, len(parts) + 1)
    )


def _no_match(pattern: str, names: list[str]) -> str:
    modules = dict.fromkeys(
        ".".join(name.split(".")[:depth])
        for name in names
        for depth in range(1, name.count(".") + 2)
    )
    near = difflib.get_close_matches(pattern, list(modules), n=3, cutoff=0.4)
    parts = list(dict.fromkeys(name.partition(".")[0] for name in names))[:8]
    hint = f"did you mean {', '.join(near)}?" if near else f"its parts are {', '.join(parts)}"
    return f"freeze {pattern!r} fits no parameter of the model; {hint}"
