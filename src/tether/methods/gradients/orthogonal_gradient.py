"""Orthogonal gradient (Prieto et al., 2025): no step along the weights themselves."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tether.catalogue import register
from tether.errors import TetherError
from tether.method import Method
from tether.methods.gradients.orthogonal import dense, orthogonalize_
from tether.methods.weights.many import distances
from tether.words import listed, nearest

if TYPE_CHECKING:
    from tether.engine.context import Context


@register(
    "orthogonal_gradient",
    kind="gradients",
    paper="arXiv:2501.04697",
    cost="light",
    band="turn",
    neutral={"exclude": "*"},
    search_space={"rescale": ("choice", True, False)},
)
class OrthogonalGradient(Method):
    """Removes from each gradient the part along its weights, which only scales the network.

    Once the training set is fitted, the gradient mostly lengthens the weights: the logits grow,
    the loss falls, and the predictions stay as they are. Without that part the network goes on
    learning, and on algorithmic tasks generalises at once instead of after tens of thousands of
    steps. There is no evidence yet of gains in ordinary fine-tuning.

    Helps where a small training set is fitted long before the network generalises. Hurts tensors
    that have to grow along themselves: those that are zero at attach are left out; name others
    (temperatures, LayerScale, embeddings from a small start) in ``exclude``. The norm of a weight
    never falls, so that penalties on it are undone; the optimiser's decoupled decay still acts.
    Layers in front of a batch norm are left as they are: their gradient has no such part.

    For every weight tensor w with gradient g, just before the update and after the edits of all
    other methods::

        g' = g - w <w, g> / (<w, w> + eps)
        g  = g' |g| / (|g'| + eps)                  with rescale

    Args:
        rescale: keep the length of the gradient (default, as in the released code; the formula of
            the paper does not). Late in training it acts like a far higher learning rate.
        eps: above 0, default and paper 1e-30.
        min_ndim: fewest dimensions of a tensor that is changed, default 2: biases and scales of
            norm layers are left alone (the released code excludes nothing).
        exclude: names of parameters to leave alone, wildcards allowed; one or a list.

    Shape:
        Any; tensors of one element are left alone.

    State:
        None.

    Cost:
        Three sums over weights and gradients and one pass over them, at each update.

    Raises:
        ValueError: ``eps`` not above 0, ``min_ndim`` below 0.
        TetherError: a sparse gradient; a name in ``exclude`` that fits no parameter.

    References:
        Lucas Prieto, Melih Barsbey, Pedro A. M. Mediano, Tolga Birdal, "Grokking at the Edge of
        Numerical Stability", ICLR 2025, arXiv:2501.04697.

    Example:
        >>> OrthogonalGradient(rescale=False, exclude=["*.embed*"])
        OrthogonalGradient(rescale=False, exclude=['*.embed*'])
    """

    def __init__(
        self, rescale: bool = True, eps: float = 1e-30, min_ndim: int = 2,
        exclude: str | Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        if not eps > 0:
            raise ValueError(f"eps must be above 0, got {eps!r}")
        if not min_ndim >= 0:
            raise ValueError(f"min_ndim must be 0 or more, got {min_ndim!r}")
        self.rescale = rescale
        self.eps = eps
        self.min_ndim = min_ndim
        self.exclude = exclude

    def setup(self, ctx: Context) -> None:
        """Choose the parameters; the list is that of the trained ones at each update."""
        patterns = [self.exclude] if isinstance(self.exclude, str) else list(self.exclude or ())
        names = [ref.name for ref in ctx.weights()]
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                near = nearest(pattern, names) or f"; there are {listed(names, most=3)}"
                raise TetherError(f"{ctx.name}: exclude={pattern!r} fits no parameter{near}")
        self._params = []
        self._cosines: list[Tensor] = []
        for ref in ctx.weights():
            wanted = ref.param.ndim >= self.min_ndim and ref.param.numel() > 1
            if wanted and not any(fnmatch.fnmatchcase(ref.name, each) for each in patterns):
                size = distances(ctx.local([ref.param.detach()]), [None])[0]
                if bool(ctx.sum_over_shards(size.square(), ref.param) > 0):
                    self._params.append(ref.param)

    def acts_on(self) -> Iterable[nn.Parameter]:
        """The chosen parameters that train."""
        return [p for p in self._params if p.requires_grad]

    def edit_gradients(self) -> None:
        """Turn the gradients that exist; those of one layout together."""
        groups: dict[Any, list[nn.Parameter]] = {}
        for p in self._params:
            if p.requires_grad and p.grad is not None:
                key = getattr(p, "device_mesh", None), getattr(p, "placements", None)
                groups.setdefault((p.device, *key), []).append(p)
        self._cosines = [self._turn(params) for params in groups.values()]

    def _turn(self, params: list[nn.Parameter]) -> Tensor:
        ctx, like = self.ctx, params[0]
        split = hasattr(like, "placements")
        return orthogonalize_(
            ctx.local(dense(params)), ctx.local(p.detach() for p in params),
            rescale=self.rescale, eps=self.eps,
            total=(lambda values: ctx.sum_over_shards(values, like)) if split else None,
        )  # fmt: skip

    def measure(self) -> dict[str, Any]:
        """Tensors that it acts on, and the part along the weights of their last gradients."""
        shares = torch.cat([each.abs().cpu() for each in self._cosines] or [torch.zeros(0)])
        found = {"tensors": len(self._params)}
        return found | ({"radial_share": float(shares.mean())} if len(shares) else {})
