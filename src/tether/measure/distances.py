"""How far each layer moved from where it started."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

_BN_EPS = 1e-5  # of a batch norm known only by its state dict


def _mars(change: Tensor) -> Tensor:
    return change.abs().sum(1).amax()


def spectral_norm(matrix: Tensor, iterations: int = 10) -> Tensor:
    """Largest singular value by power iteration, started from the longest row.

    Never above the true value; 10 iterations are within a few per cent for a matrix without a
    dominant direction, and exact to rounding for one of low rank.

    Args:
        matrix: rows x columns.
        iterations: passes, at least 1.

    Example:
        >>> round(spectral_norm(torch.diag(torch.tensor([3.0, 1.0]))).item(), 4)
        3.0
    """
    v = matrix[matrix.square().sum(1).argmax()]
    tiny = torch.finfo(matrix.dtype).tiny
    for _ in range(max(1, iterations)):
        v = v / v.norm().clamp_min(tiny)
        u = matrix @ v
        u = u / u.norm().clamp_min(tiny)
        v = matrix.T @ u
    largest: Tensor = v.norm()
    return largest


# name -> value from the change and the reference, both as matrices of output units x the rest
_Norm = Callable[[Tensor, Tensor], Tensor]
_NORMS: dict[str, _Norm] = {
    "fro": lambda change, _: change.norm(),
    "relative": lambda change, start: change.norm() / start.norm(),
    "rms": lambda change, _: change.norm() / change.numel() ** 0.5,
    "mars": lambda change, _: _mars(change),
    "spectral": lambda change, _: spectral_norm(change),
    "weight": lambda change, start: (start + change).norm(),
}


def layer_distances(
    model: nn.Module | Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    *,
    norms: Sequence[str] = ("fro", "mars", "relative"),
    groups: Mapping[str, str] | None = None,
    from_zero: Sequence[str] = (),
) -> dict[str, dict[str, float]]:
    """Distance of every weight tensor of a model from a reference, or of every group of them.

    The profile over depth shows where fine-tuning acts: expect small distances at the bottom,
    growing towards the head, and all of them larger when wrong labels are memorised. Its numbers
    can be turned into layer-wise constraints for the next run.

    For tensors of two dimensions or more, as matrices of output units x the rest, T = W - W0:
    ``fro = |T|_F``; ``relative = |T|_F / |W0|_F``; ``rms = |T|_F / sqrt(numel)``;
    ``mars = max_row sum |T|`` (the operator norm from l_inf to l_inf); ``spectral`` (10 power
    iterations); ``weight = |W|_F``. From zero, ``relative`` is infinite. For batch norm, whose
    scale means nothing without its variance: the change of ``gamma / sqrt(running_var + eps)`` over
    channels, as ``channel_max`` and ``channel_rms``. Other vectors (biases, layer norms) are left
    out.

    In a group, Frobenius distances join as the root of their sum of squares (``relative`` and
    ``rms`` by the joint reference norm and size); ``mars``, ``spectral`` and ``channel_max`` as
    the largest, which is the norm of the block-diagonal whole.

    Args:
        model: a module, or a state dict (batch norm then with an eps of 1e-5).
        reference: state dict of the start, batch-norm buffers included, with the same names.
        norms: which of the above.
        groups: name of tensor to name of group, such as stem, stages, head. Every weight measured
            must have one; other names are ignored.
        from_zero: names, or prefixes of modules, that are measured from zero because they had no
            pretrained value: a new head.

    Returns:
        Tensor (or group) name to norm name to value, in the order of the model.

    Cost:
        One pass over the parameters, float64; one transfer to the host.

    Raises:
        ValueError: an unknown norm, a weight that the reference lacks or has in another shape, a
            weight without group, a ``from_zero`` that fits no weight.

    References:
        Dongyue Li, Hongyang R. Zhang, "Improved Regularization and Robustness for Fine-tuning in
        Neural Networks", 2021, arXiv:2111.04578.
        Henry Gouk, Timothy Hospedales, Massimiliano Pontil, "Distance-Based Regularisation of
        Deep Networks for Fine-Tuning", 2021, arXiv:2002.08253.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> start = {name: t.clone() for name, t in net.state_dict().items()}
        >>> with torch.no_grad():
        ...     _ = net.weight.add_(1.0)
        >>> found = layer_distances(net, start, norms=("fro", "mars"))["weight"]
        >>> round(found["fro"], 4), round(found["mars"], 4)
        (2.4495, 3.0)
    """
    unknown = [n for n in norms if n not in _NORMS]
    if unknown:
        raise ValueError(f"norm {unknown[0]!r} is unknown: use some of {', '.join(_NORMS)}")
    needed = [*norms, *(("fro", "start") if groups else ())]
    table: dict[str, dict[str, Tensor]] = {}
    sizes: dict[str, int] = {}
    zeroed: set[str] = set()
    with torch.no_grad():
        for name, weight in _weights(model):
            hits = [p for p in from_zero if name == p or name.startswith(p + ".")]
            zeroed.update(hits)
            start = _start(name, weight, reference, zero=bool(hits))
            change = (weight.detach().double() - start).flatten(1)
            start = start.flatten(1)
            sizes[name] = change.numel()
            table[name] = {
                n: start.norm() if n == "start" else _NORMS[n](change, start)
                for n in dict.fromkeys(needed)
            }
        for name, now, before in _batch_norms(model, reference):
            change = now - before
            sizes[name] = change.numel()
            table[name] = {
                "channel_max": change.abs().max(),
                "channel_rms": change.square().mean().sqrt(),
            }
    unused = [p for p in from_zero if p not in zeroed]
    if unused:
        raise ValueError(f"from_zero names {unused[0]!r}, but no weight is called so")
    order = {name: place for place, name in enumerate(_state(model))}
    profile = _to_numbers({name: table[name] for name in sorted(table, key=order.__getitem__)})
    if groups is None:
        return profile
    return _join(profile, sizes, norms, groups)


def _state(model: nn.Module | Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return model.state_dict() if isinstance(model, nn.Module) else model


def _weights(model: nn.Module | Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Floating tensors of two dimensions or more: parameters of a module, entries of a dict."""
    pairs: Iterable[tuple[str, Tensor]]
    pairs = model.named_parameters() if isinstance(model, nn.Module) else model.items()
    for name, tensor in pairs:
        if tensor.ndim >= 2 and tensor.is_floating_point():
            yield name, tensor


def _start(name: str, weight: Tensor, reference: Mapping[str, Tensor], *, zero: bool) -> Tensor:
    if zero:
        return torch.zeros_like(weight, dtype=torch.float64)
    remedy = "name it in from_zero if it had no pretrained value"
    if name not in reference:
        raise ValueError(f"the reference has no {name!r}: {remedy}")
    start = reference[name]
    if start.shape != weight.shape:
        raise ValueError(
            f"{name!r} has shape {tuple(weight.shape)}, "
            f"its reference {tuple(start.shape)}: {remedy}"
        )
    return start.detach().to(device=weight.device, dtype=torch.float64)


def _batch_norms(
    model: nn.Module | Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Effective scale of each batch norm with running statistics, now and in the reference."""
    state = _state(model)
    modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    for key in state:
        path, _, leaf = key.rpartition(".")
        prefix = path + "." if path else ""
        gamma, var = prefix + "weight", prefix + "running_var"
        if leaf != "weight" or var not in state:
            continue
        eps = float(getattr(modules.get(path), "eps", _BN_EPS))
        missing = [k for k in (gamma, var) if k not in reference]
        if missing:
            raise ValueError(
                f"the reference has no {missing[0]!r}: batch norm is measured with its buffers, "
                "pass a full state dict"
            )
        now, before = (
            s[gamma].detach().double() / (s[var].detach().double() + eps).sqrt()
            for s in (state, reference)
        )
        yield gamma, now, before.to(now.device)


def _to_numbers(table: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, float]]:
    """The same table of Python numbers, fetched from the device in one go."""
    cells = [(name, norm) for name, row in table.items() for norm in row]
    if not cells:
        return {}
    device = table[cells[0][0]][cells[0][1]].device
    numbers = torch.stack([table[a][b].to(device) for a, b in cells]).tolist()
    profile: dict[str, dict[str, float]] = {name: {} for name in table}
    for (name, norm), number in zip(cells, numbers, strict=True):
        profile[name][norm] = number
    return profile


def _join(
    profile: Mapping[str, Mapping[str, float]],
    sizes: Mapping[str, int],
    norms: Sequence[str],
    groups: Mapping[str, str],
) -> dict[str, dict[str, float]]:
    """Joint norms of the tensors of each group."""
    members: dict[str, list[str]] = {}
    for name in profile:
        if name not in groups:
            raise ValueError(f"groups has no group for {name!r}")
        members.setdefault(groups[name], []).append(name)
    joined: dict[str, dict[str, float]] = {}
    for group, names in members.items():
        weights = [n for n in names if "fro" in profile[n]]
        channels = [n for n in names if "channel_max" in profile[n]]
        row: dict[str, float] = {}
        if weights:
            size = sum(sizes[n] for n in weights)
            fro, start = (_root_sum(profile, weights, n) for n in ("fro", "start"))
            for norm in norms:
                if norm == "relative":
                    row[norm] = fro / start if start else float("inf") if fro else float("nan")
                elif norm == "rms":
                    row[norm] = fro / size**0.5
                elif norm in ("mars", "spectral"):
                    row[norm] = max(profile[n][norm] for n in weights)
                else:
                    row[norm] = _root_sum(profile, weights, norm)
        if channels:
            row["channel_max"] = max(profile[n]["channel_max"] for n in channels)
            total = sum(sizes[n] for n in channels)
            shares = (profile[n]["channel_rms"] * (sizes[n] / total) ** 0.5 for n in channels)
            row["channel_rms"] = math.hypot(*shares)
        joined[group] = row
    return joined


def _root_sum(profile: Mapping[str, Mapping[str, float]], names: Sequence[str], norm: str) -> float:
    return math.hypot(*(profile[n][norm] for n in names))
