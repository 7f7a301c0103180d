"""StochNorm: each channel is normalised by the batch or by what was seen before, at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.layers.stochastic_norm import StochasticLayer, stochastic_class

if TYPE_CHECKING:
    from tether.engine.context import Context


@register(
    "stochnorm",
    kind="layers",
    paper="NeurIPS 2020 (Kou et al.)",
    cost="light",
    losses=("cross_entropy", "binary_cross_entropy", "mse", "l1", "custom"),
    neutral={"p": 1.0},
    stochastic=True,
    batch_statistics=True,
    search_space={"p": ("uniform", 0.1, 0.9)},
)
class StochNorm(Method):
    """Batch norm whose channels use, at random, the batch's moments or the running ones.

    The running moments still carry what the pretrained network saw, so that the mixture keeps
    fine-tuning on little data from leaning on the moments of small batches. Helps networks with
    batch norm that were pretrained with labels, on hundreds to a few thousand images. Hurts, in
    published tables, from self-supervised weights, and where the new images look quite unlike the
    old ones: the running moments are then wrong for a while. Networks without batch norm are
    refused. It does nothing where ``--freeze-norm`` holds the statistics still.

    For each channel c of each layer, in every forward::

        s ~ Bernoulli(p)
        z = (x - mean) / sqrt(var + eps)        moments of the batch where s = 1,
                                                else running ones as they were before it
        y = weight z + bias                     shared; running moments move in either case

    In evaluation it is batch norm. ``tether.prepare`` swaps the layers in; parameters, buffers
    and their names stay, so that checkpoints of either kind load into the other, and ``finish``
    gives the model its own classes back.

    Args:
        p: probability of the batch's moments, in [0, 1] (default and paper 0.5; 1 is batch norm,
            0 normalises by the running moments alone, which go on moving).

    Shape:
        any that batch norm takes; at least 2 values a channel.

    State:
        none beside the layers' own buffers.

    Cost:
        backward one more pass over the input of each layer. Masks come from torch's global
        generator, as those of dropout do. No second derivatives through the layers.

    Raises:
        ValueError: ``p`` out of range.
        TetherError: no batch-norm layer with running moments, or one of an unknown kind
            (synchronised ones, for instance).

    References:
        Zhi Kou, Kaichao You, Mingsheng Long, Jianmin Wang, "Stochastic Normalization", NeurIPS
        2020.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> StochNorm(p=0.3).prepare(model)
        >>> type(model[1]).__name__
        'StochNorm1d'
    """

    def __init__(self, p: float = 0.5) -> None:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p must lie in [0, 1], got {p!r}")
        self.p = p

    def prepare(self, model: nn.Module) -> None:
        """Turn every batch-norm layer with running moments into ours."""
        found: list[tuple[Any, type[nn.Module]]] = []
        for name, module in model.named_modules():
            if isinstance(module, StochasticLayer):
                raise TetherError("method 'stochnorm' has prepared this model already")
            norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if norm and module.running_mean is not None:
                kind: Any = type(module)
                ours = stochastic_class(kind)
                if ours is None:
                    raise TetherError(
                        f"method 'stochnorm' does not know the layer {name!r}, a "
                        f"{type(module).__name__}: prepare the model while it has ordinary "
                        "batch-norm layers"
                    )
                found.append((module, ours))
        if not found:
            others = {type(m).__name__ for m in model.modules() if "Norm" in type(m).__name__}
            has = f"it has {', '.join(sorted(others))}" if others else "it has none at all"
            raise TetherError(
                f"method 'stochnorm' needs batch-norm layers with running moments; {has}: leave "
                "the method out, or choose a network with batch norm (a ResNet, say)"
            )
        for module, ours in found:
            module.plain_class = type(module)
            module.use_batch_p = self.p
            module.__class__ = ours

    def setup(self, ctx: Context) -> None:
        """The layers may have been replaced since."""
        if not any(isinstance(module, StochasticLayer) for module in ctx.model.modules()):
            raise TetherError(
                f"{ctx.name!r}: the layers that prepare() swapped in are gone from the model "
                "(convert_sync_batchnorm?): call tether.prepare last, on the model that is trained"
            )

    def finish(self, model: nn.Module) -> None:
        """Give the layers their own classes back."""
        for module in model.modules():
            if isinstance(module, StochasticLayer):
                plain: Any = module.plain_class
                del module.use_batch_p, module.plain_class
                module.__class__ = plain
