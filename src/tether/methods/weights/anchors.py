"""Weights to stay away from: read, matched by name, and the penalty of nearness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tether.errors import TetherError
from tether.words import listed, nearest

FORMS = ("exp", "inverse", "negative")
Anchor = Mapping[str, Tensor] | str | Path
Anchors = Sequence[Anchor] | Anchor
_WRAPPERS = {"module", "_orig_mod"}


def repulsion_penalty(
    params: Sequence[Tensor], anchors: Sequence[Sequence[Tensor]], *, form: str = "exp",
    scale: float | Tensor = 1.0, cap: float | None = None,
) -> Tensor:  # fmt: skip
    """Price of being near: ``exp(-u)``, ``1 / u`` or ``-min(u, cap)`` of ``u = d / scale``.

    ``d`` is the squared distance to an anchor over all tensors, a mean over the anchors.

    Example:
        >>> repulsion_penalty([torch.ones(4)], [[torch.zeros(4)]], form="inverse").item()
        0.25
    """
    each = [
        torch.stack([(p - a).square().sum() for p, a in zip(params, one, strict=True)]).sum()
        for one in anchors
    ]
    nearness = torch.stack(each).mean() / scale
    if form == "exp":
        return torch.exp(-nearness)
    if form == "inverse":
        return 1.0 / nearness
    if form != "negative":
        raise ValueError(f"form {form!r} is not one of {', '.join(FORMS)}")
    return -nearness if cap is None else -nearness.clamp(max=cap)


def repulsion_slope(u: Tensor, *, form: str = "exp", cap: float | None = None) -> Tensor:
    """Slope of the penalty in ``u``, never above 0."""
    if form == "exp":
        return -torch.exp(-u)
    if form == "inverse":
        return -1.0 / u.square()
    slope = -torch.ones_like(u)
    return slope if cap is None else torch.where(u < cap, slope, 0.0)


def negative_direction(
    params: Sequence[Tensor], anchors: Sequence[Sequence[Tensor]], step: float
) -> list[Tensor]:
    """The plain alternative without training: ``w + step (w - mean anchor)``.

    Example:
        >>> negative_direction([torch.ones(1)], [[torch.zeros(1)], [torch.ones(1)]], 2.0)
        [tensor([2.])]
    """
    means = [torch.stack(list(tensors)).mean(0) for tensors in zip(*anchors, strict=True)]
    return [p + step * (p - mean) for p, mean in zip(params, means, strict=True)]


def read_anchors(given: Anchors, who: str) -> list[dict[str, Tensor]]:
    """Every anchor as name -> tensor; wrappers in the names are looked through.

    Raises:
        TetherError: a file that cannot be read.
    """
    listing = [given] if isinstance(given, (str, Path, Mapping)) else list(given)
    found = []
    for item in listing:
        if not isinstance(item, Mapping):
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                item = load_file(item)
            except (OSError, SafetensorError) as error:
                raise TetherError(
                    f"{who}: the anchor {str(item)!r} cannot be read as a safetensors file: {error}"
                ) from None
        found.append({_canonical(name): torch.as_tensor(t) for name, t in item.items()})
    return found


def _canonical(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def match_anchors(
    anchors: Sequence[Mapping[str, Tensor]], params: Mapping[str, nn.Parameter], who: str
) -> dict[str, list[Tensor]]:
    """Parameter name -> its tensor in every anchor, for the parameters that all of them hold.

    Raises:
        TetherError: no parameter is in all anchors, one has another shape or is not finite.
    """
    names = [name for name in params if all(name in anchor for anchor in anchors)]
    if not names:
        held = next(iter(anchors[0]), "nothing") if anchors else "nothing"
        raise TetherError(
            f"{who}: the anchors hold none of this model's parameters (they begin with {held!r}"
            f"{nearest(held, params)}): give state dicts of the same architecture"
        )
    wrong = [n for n in names if any(a[n].shape != params[n].shape for a in anchors)]
    if wrong:
        raise TetherError(
            f"{who}: {listed(wrong)} have another shape in the anchors: leave them out of the "
            "anchors, or train these with a head of the same classes"
        )
    bad = [n for n in names if not all(bool(torch.isfinite(a[n]).all()) for a in anchors)]
    if bad:
        raise TetherError(f"{who}: {listed(bad)} of the anchors are not finite")
    return {name: [anchor[name] for anchor in anchors] for name in names}
