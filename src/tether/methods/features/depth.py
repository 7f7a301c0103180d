"""Which layer of a model a method looks at, how wide it is, and what the model reads."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from tether.errors import TetherError

if TYPE_CHECKING:
    from tether.engine.context import Context

#: What a last norm is called that stands behind all blocks.
_LAST_NORMS = ("norm", "layernorm", "layer_norm", "ln_f", "final_layer_norm", "final_norm")
_WIDTHS = ("out_features", "out_channels", "num_features", "embedding_dim", "nf")


def blocks_of(ctx: Context) -> list[str]:
    """The blocks between stem and head that are layers of the model, from the input on."""
    modules = {name for name, _ in ctx.model.named_modules()}
    found: dict[str, None] = {}
    for ref in ctx.weights():
        if not ref.is_head and ref.group in modules:
            found[ref.group] = None
    return list(found)


def middle_layer(ctx: Context) -> str:
    """The block in the middle of the depth.

    Raises:
        TetherError: the blocks cannot be told apart.
    """
    blocks = blocks_of(ctx)
    return blocks[(len(blocks) - 1) // 2] if blocks else _unknown(ctx)


def last_layer(ctx: Context) -> str:
    """The norm behind the last block where there is one, else the last block.

    Raises:
        TetherError: the blocks cannot be told apart.
    """
    blocks = blocks_of(ctx)
    if not blocks:
        return _unknown(ctx)
    modules = dict(ctx.model.named_modules())
    above = blocks[-1].split(".")[:-1]
    for depth in range(len(above), -1, -1):
        for name in _LAST_NORMS:
            path = ".".join([*above[:depth], name])
            if path in modules and any(True for _ in modules[path].parameters()):
                return path
    return blocks[-1]


def _unknown(ctx: Context) -> str:
    names = [name for name, _ in ctx.model.named_children()]
    raise TetherError(
        f"{ctx.name!r} cannot tell the blocks of this model: name a layer with layer=... (layers: "
        f"{', '.join(names[:8])})"
    )


def output_width(module: nn.Module) -> int | None:
    """Coordinates of what a layer gives, by the last of its parts that tells; None: none does."""
    for part in reversed(list(module.modules())):
        for name in _WIDTHS:
            value = getattr(part, name, None)
            if isinstance(value, int):
                return value
        shape = getattr(part, "normalized_shape", None)
        if shape:
            return int(shape[-1])
    return None


def width_of(ctx: Context, layer: str) -> int:
    """Coordinates of the output of a layer that was tapped.

    Raises:
        TetherError: it does not tell.
    """
    found = output_width(ctx.model.get_submodule(layer))
    if found is None:
        raise TetherError(
            f"{ctx.name!r}: the layer {layer!r} does not tell how wide its output is: name one "
            "that holds weights, with layer=..."
        )
    return found


def warn_if_still(ctx: Context) -> None:
    """Say so when nothing below the head is trained: hidden layers then stay as they are."""
    below = [ref.param for ref in ctx.weights() if not ref.is_head]
    if below and not any(parameter.requires_grad for parameter in below):
        warnings.warn(
            f"all layers below the head are frozen, and {ctx.name} can only act through them: "
            "nothing changes until some of them are trained",
            stacklevel=6,
        )


class Reads(NamedTuple):
    """What a model reads, by its first layer.

    ``kind`` is ``"text"`` (an embedding), ``"image"`` (a convolution) or ``"rows"`` (a linear
    layer); ``size`` the number of words, channels or coordinates.
    """

    kind: str
    size: int
    first: nn.Module


def reads(model: nn.Module) -> Reads:
    """What a model reads.

    Raises:
        TetherError: none of its layers is an embedding, a convolution or a linear layer.
    """
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            return Reads("text", module.num_embeddings, module)
        if isinstance(module, nn.Conv2d):
            return Reads("image", module.in_channels, module)
        if isinstance(module, nn.Linear):
            return Reads("rows", module.in_features, module)
    raise TetherError("the model has neither an embedding nor a convolution nor a linear layer")
