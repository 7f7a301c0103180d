"""Put a file's tensors into a backbone, and say which were taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tether.errors import ConfigError
from tether.models.spec import KeyReport

#: Where checkpoints of training scripts keep the weights, the averaged ones first.
_INSIDE = (
    "state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "module",
    "net", "network", "teacher", "backbone",
)  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.", "base_model.")
_SHARE = 0.5  # a file that gives less than this of the backbone is taken for the wrong one


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file by name, on the CPU.

    Raises:
        ConfigError: no such file, or not a file of weights; nothing is ever unpickled.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        hint = (
            "; only files of plain tensors are read: save the state_dict as safetensors"
            if path.suffix != ".safetensors"
            else ""
        )
        first = str(error).strip().partition("\n")[0]
        raise ConfigError(f"weights {path} cannot be read: {first}{hint}") from error
    return _tensors(loaded, path)


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping):
        found = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
        inner = next((k for k in _INSIDE if isinstance(loaded.get(k), Mapping)), None)
        if found and (inner is None or len(found) > 4):
            return found
        if inner is None:
            break
        loaded = loaded[inner]
    raise ConfigError(f"weights {path}: no tensors by name in it; save the model's state_dict")


def load_backbone(
    model: nn.Module,
    state: Mapping[str, Tensor],
    heads: list[str],
    *,
    origin: str,
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] | None = None,
) -> tuple[KeyReport, nn.Module | None]:
    """Load all tensors of the backbone that fit by name and shape; the head stays as it is.

    Args:
        model: changed in place.
        state: tensors by name; prefixes such as ``module.`` may stand before the names.
        heads: dotted names of the layers that make the logits.
        origin: what the message calls the file.
        convert: the library's own conversion of older files, tried where keys are missing.

    Returns:
        the report, and the file's own head as a linear layer, if it has one.

    Raises:
        ConfigError: less than half of the backbone was found.
    """
    target = {k: v for k, v in model.state_dict().items() if not _under(k, heads)}
    mine = sorted(k for k in model.state_dict() if _under(k, heads))
    state, fitting = _best_names(state, target, getattr(model, "base_model_prefix", ""))
    if convert is not None and not _counted(target) <= set(fitting):
        state, fitting = _converted(convert, state, fitting, target)
    backbone = _counted(target)
    if len(backbone & set(fitting)) < _SHARE * len(backbone):
        raise ConfigError(_unfit(origin, state, target, len(backbone & set(fitting))))
    model.load_state_dict({k: state[k] for k in fitting}, strict=False)
    discarded = sorted(k for k in state if _under(k, heads))
    report = KeyReport(
        taken=fitting,
        head=mine,
        missing=sorted(backbone - set(fitting)),
        unexpected=sorted(set(state) - set(fitting) - set(discarded)),
        discarded=discarded,
    )
    return report, _own_head(state, heads)


def _under(key: str, heads: list[str]) -> bool:
    return any(key.startswith(f"{head}.") for head in heads)


def _counted(target: Mapping[str, Tensor]) -> set[str]:
    """Names that a file must give; counters of batches need not be in it."""
    return {k for k in target if not k.endswith("num_batches_tracked")}


def _fitting(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> list[str]:
    return [k for k, v in target.items() if k in state and state[k].shape == v.shape]


def _best_names(
    state: Mapping[str, Tensor], target: Mapping[str, Tensor], base: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The file's names without the prefix, or with the one, under which most tensors fit."""
    best: tuple[dict[str, Tensor], list[str]] = (dict(state), _fitting(state, target))
    for strip in _strippable(state):
        inner = {k[len(strip) :]: v for k, v in state.items() if k.startswith(strip)}
        for add in dict.fromkeys(("", f"{base}." if base else "")):
            named = {f"{add}{k}": v for k, v in inner.items()}
            if add:  # a head beside the base keeps its name
                named |= {k: v for k, v in inner.items() if k not in named}
            fitting = _fitting(named, target)
            if len(fitting) > len(best[1]):
                if add:
                    named = {k: v for k, v in named.items() if k in target or k not in inner}
                best = (named, fitting)
    return best


def _strippable(state: Mapping[str, Tensor]) -> list[str]:
    """Beginnings shared by many names: all that may stand before a model's own names."""
    counts: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")[:-1]
        for depth in range(1, min(len(parts), 4) + 1):
            counts[".".join(parts[:depth]) + "."] += 1
    shared = [prefix for prefix, count in counts.items() if count > 0.5 * len(state)]
    told = [prefix for prefix in _PREFIXES if counts[prefix]]
    return list(dict.fromkeys(["", *told, *sorted(shared, key=len)]))


def _converted(
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    state: dict[str, Tensor],
    fitting: list[str],
    target: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], list[str]]:
    try:
        other = dict(convert(dict(state)))
    except Exception:  # it was written for other files: then ours stays as it is
        return state, fitting
    now = _fitting(other, target)
    return (other, now) if len(now) > len(fitting) else (state, fitting)


def _own_head(state: Mapping[str, Tensor], heads: list[str]) -> nn.Linear | None:
    for head in heads:
        weight = state.get(f"{head}.weight")
        if weight is None or weight.squeeze().ndim != 2:
            continue
        weight, bias = (
            weight.detach().reshape(weight.shape[0], -1).float(),
            state.get(f"{head}.bias"),
        )
        with torch.random.fork_rng(devices=()):
            layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        with torch.no_grad():
            layer.weight.copy_(weight)
            if bias is not None:
                layer.bias.copy_(bias)
        return layer
    return None


def _unfit(
    origin: str, state: Mapping[str, Tensor], target: Mapping[str, Tensor], found: int
) -> str:
    def few(tensors: Mapping[str, Tensor]) -> str:
        shown = [f"{k} {list(v.shape)}" for k, v in list(tensors.items())[:3]]
        return ", ".join(shown) or "nothing"

    return (
        f"{origin}: only {found} of the {len(_counted(target))} tensors of the model's backbone "
        f"are in it, so it belongs to another model. The model has {few(target)}; the file has "
        f"{few(state)}. Check the model's name and model_args"
    )
